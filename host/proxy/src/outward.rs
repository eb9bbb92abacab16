//! What all names and prefixes of a destination outside allow together. The kernel lets a
//! flow in by the strongest of them, and names one rule set.

use std::{iter, net::SocketAddr};

use tidegate_contract::{Failure, FailureKind::RulesUnknown};
use tidegate_decide::policy::{is_fresh, is_outside};
use tidegate_policy::{
    AnyOf,
    compiled::{Direction, EndpointId, IdentityId, L7Id, L7Protocol, Rehearsed, RuleId, Verdict},
    lookup_any, rehearse_any,
};

use super::{
    decide::{Alternative, InShadow, Side},
    state::{Local, State},
};

/// Who goes where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// The client, on this node; 0 if it is not.
    pub(super) endpoint: EndpointId,
    /// The destination's own identity.
    pub(super) identity: IdentityId,
    pub(super) destination: SocketAddr,
    /// IANA protocol.
    pub(super) transport: u8,
}

/// What all of them allow.
#[derive(Clone, Debug)]
pub(super) struct United {
    /// By what is enforced.
    pub(super) enforced: AnyOf,
    /// If what is in shadow were enforced too, and the strongest verdict of all; where
    /// any of them would say something else.
    pub(super) shadow: Option<(Rehearsed, AnyOf)>,
}

/// What is allowed on the way; `None` if there is nothing to unite. Names that have
/// expired by `now` do not count; 0 for a flow that is there already, as in the kernel.
pub(super) fn allowed(state: &State, way: &Way, now: u32) -> Result<Option<United>, Failure> {
    let Some(rows) = state.outward.get(&way.endpoint) else {
        return Ok(None);
    };
    if !is_outside(way.identity.get()) {
        return Ok(None);
    }
    let names = state
        .tables
        .names_of(way.destination.ip())
        .map_err(|error| {
            let what = format!("cannot read the names of the destination: {error}");
            RulesUnknown.because(what)
        })?;
    let names = names.identities.into_iter().zip(names.expires);
    let fresh = names.filter(|(name, expires)| *name != 0 && is_fresh(*expires, now));
    let identities: Vec<_> = iter::once(way.identity)
        .chain(fresh.map(|(name, _)| IdentityId(name)))
        .collect();
    let (transport, port) = (way.transport, way.destination.port());
    let of = (Direction::Egress, transport, port);
    let shadow = rows.iter().any(|row| row.decision.shadow.is_some());
    Ok(Some(United {
        enforced: lookup_any(rows, &identities, of.0, of.1, of.2),
        shadow: shadow.then(|| rehearse_any(rows, &identities, of.0, of.1, of.2)),
    }))
}

/// What is in shadow for a side whose own rule set is `l7`; `united` if its destination has
/// several.
pub(super) fn in_shadow<'l>(
    side: &Side<'l>,
    l7: L7Id,
    united: Option<&United>,
    local: &'l Local,
) -> Result<InShadow<'l>, Failure> {
    let (rehearsed, any) = match united.map(|united| &united.shadow) {
        Some(Some((rehearsed, any))) => (*rehearsed, Some(any)),
        Some(None) => return Ok(InShadow::Same),
        None => match local.state.shadow_of(l7) {
            Some(rehearsed) => (rehearsed, None),
            None => return Ok(InShadow::Same),
        },
    };
    let open = Side {
        chain: None,
        or: Vec::new(),
        open: false,
        rule: RuleId(0),
        ingress: side.ingress,
        audit: false,
        tunnels: false,
    };
    match rehearsed.verdict {
        Verdict::Deny | Verdict::DefaultDeny => Ok(InShadow::Refuses(rehearsed.rule)),
        Verdict::Allow => Ok(InShadow::Asks(open)),
        Verdict::Redirect => {
            let chain = local.chain(rehearsed.l7);
            let chain = chain.ok_or_else(|| unknown(rehearsed.l7))?;
            let mut asks = Side {
                chain: Some(chain),
                rule: rehearsed.rule,
                tunnels: local.state.tunnels.contains(&rehearsed.l7),
                ..open
            };
            if let Some(any) = any {
                unite(&mut asks, rehearsed.l7, any, local)?;
            }
            Ok(InShadow::Asks(asks))
        }
    }
}

pub(super) fn unknown(set: L7Id) -> Failure {
    RulesUnknown.because(format!("rule set {set} is not known"))
}

/// Adds to the egress side, whose own rule set is `l7`, what else allows.
///
/// # Errors
///
/// If a rule set is not known: plugins bound to it would not be asked.
pub(super) fn unite<'l>(
    egress: &mut Side<'l>,
    l7: L7Id,
    any: &AnyOf,
    local: &'l Local,
) -> Result<(), Failure> {
    let Some(chain) = egress.chain else {
        return Ok(());
    };
    // As where rules of one peer meet: a plain allow opens all but DNS.
    egress.open = any.plain && chain.protocol != L7Protocol::Dns;
    for id in any.sets.iter().filter(|id| **id != l7) {
        let other = local.chain(*id).ok_or_else(|| unknown(*id))?;
        // A connection is read in one way, and its TLS ended with one identity.
        let alike = local.state.ended(*id) == local.state.ended(l7);
        if other.protocol == chain.protocol && alike {
            egress.or.push(Alternative {
                chain: other,
                tunnels: local.state.tunnels.contains(id),
            });
        }
    }
    Ok(())
}
