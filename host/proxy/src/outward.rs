//! What all names and prefixes of a destination outside allow together. The kernel lets a
//! flow in by the strongest of them, and names one rule set.

use std::{iter, net::SocketAddr};

use tidegate_decide::policy::{is_fresh, is_outside};
use tidegate_policy::{
    AnyOf,
    compiled::{Direction, EndpointId, IdentityId, L7Id, L7Protocol},
    lookup_any,
};

use super::{
    chain::{Alternative, Side},
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

/// What is allowed on the way; `None` if there is nothing to unite. Names that have
/// expired by `now` do not count; 0 for a flow that is there already, as in the kernel.
pub(super) fn allowed(state: &State, way: &Way, now: u32) -> Result<Option<AnyOf>, String> {
    let Some(rows) = state.outward.get(&way.endpoint) else {
        return Ok(None);
    };
    if !is_outside(way.identity) {
        return Ok(None);
    }
    let names = state
        .tables
        .names_of(way.destination.ip())
        .map_err(|error| format!("cannot read the names of the destination: {error}"))?;
    let names = names.identities.into_iter().zip(names.expires);
    let fresh = names.filter(|(name, expires)| *name != 0 && is_fresh(*expires, now));
    let identities: Vec<_> = iter::once(way.identity)
        .chain(fresh.map(|(name, _)| name))
        .collect();
    Ok(Some(lookup_any(
        rows,
        &identities,
        Direction::Egress,
        way.transport,
        way.destination.port(),
    )))
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
) -> Result<(), String> {
    let Some(chain) = egress.chain else {
        return Ok(());
    };
    // As where rules of one peer meet: a plain allow opens HTTP, but not DNS.
    egress.open = any.plain && chain.protocol == L7Protocol::Http;
    for id in any.sets.iter().filter(|id| **id != l7) {
        let other = local
            .chain(*id)
            .ok_or_else(|| format!("rule set {id} is not known"))?;
        if other.protocol == chain.protocol {
            egress.or.push(Alternative {
                chain: other,
                tunnels: local.state.tunnels.contains(id),
            });
        }
    }
    Ok(())
}
