//! Peers of rules that nobody is.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{
    SELECTOR_HINT,
    known::{Known, Owner},
    warn,
};
use crate::{
    labels::{Key, NAMESPACE, Selector},
    objects::Meta,
    origin::At,
    problem::Problem,
    rule::{PeerSelector, Peers, Spec},
    terms::Direction,
};

/// Looks at the peers of a spec's rules.
pub(super) fn lint(meta: &Meta, spec: &Spec, known: &mut Known, warnings: &mut Vec<Problem>) {
    for rule in &spec.rules {
        let Peers::Of(selectors) = &rule.peers else {
            continue;
        };
        for (at, selector) in selectors {
            warnings.extend(match selector {
                PeerSelector::Labels(selector) => nobody(meta, at, selector, known),
                PeerSelector::Cidr { net, except } => {
                    not_outside(meta, at, rule.direction, (net, except), known)
                }
                // Others are about what may come into being at any time.
                PeerSelector::Entity(_) | PeerSelector::Fqdn(_) => None,
            });
        }
    }
}

/// A selector of peers that selects nobody.
pub(super) fn nobody(
    meta: &Meta,
    at: &At,
    selector: &Selector,
    known: &mut Known,
) -> Option<Problem> {
    if known.is_somebody(selector) {
        return None;
    }
    let asked: BTreeSet<String> = selector
        .requirements
        .iter()
        .filter(|requirement| requirement.key().is_namespace())
        .filter_map(|requirement| requirement.only_value())
        .map(str::to_owned)
        .collect();
    let scope = match asked.first() {
        Some(namespace) => format!(" in namespace {namespace}"),
        None => String::new(),
    };
    let message = format!("selects no endpoint of this node{scope}");
    let hint = match known.elsewhere(selector) {
        Some(endpoint) => format!(
            "it would select {}: a peer of another namespace is named with the label {}",
            endpoint.meta.full_name(),
            Key::of("k8s", NAMESPACE)
        ),
        None => SELECTOR_HINT.to_owned(),
    };
    Some(warn(meta, at, message, &hint))
}

/// A prefix in which everything is an endpoint's or the node's: prefixes select what is
/// outside, as in Cilium.
fn not_outside(
    meta: &Meta,
    at: &At,
    direction: Direction,
    (net, except): (&IpNet, &[IpNet]),
    known: &Known,
) -> Option<Problem> {
    let to_or_from = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let (whose, instead) = match known.owner_of_all(net, except)? {
        Owner::Node => ("the node's own".to_owned(), "Entities: [host]"),
        Owner::Endpoint(endpoint) => (
            format!("that of {}", endpoint.meta.full_name()),
            "Endpoints",
        ),
    };
    let message = match net.hosts().nth(1) {
        None => format!("selects nobody: the address is {whose}"),
        Some(_) => {
            format!("selects nobody: the first address in it is {whose}, and none is outside")
        }
    };
    let hint = format!("CIDRs select what is outside only; write {to_or_from}{instead}");
    let problem = warn(meta, at, message, &hint);
    Some(Problem {
        value: Some(net.to_string()),
        ..problem
    })
}
