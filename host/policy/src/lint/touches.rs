//! What findings about a document may depend on. Saying yes too often costs time, saying no
//! once too often a finding.

use crate::{
    labels::Selector,
    objects::{Endpoint, PluginBinding, Policy, Service},
    rule::{Entity, PeerSelector, Peers, PortRange, Rule, Traffic},
};

/// May what is found about a policy be about this endpoint?
pub(super) fn policy(policy: &Policy, endpoint: &Endpoint) -> bool {
    policy.specs.iter().any(|spec| {
        spec.subject.matches(&endpoint.labels)
            || spec.rules.iter().any(|rule| by_rule(rule, endpoint))
    })
}

fn by_rule(rule: &Rule, endpoint: &Endpoint) -> bool {
    match &rule.peers {
        Peers::Any => names_ports(rule),
        Peers::Of(selectors) => selectors.iter().any(|(_, selector)| match selector {
            PeerSelector::Labels(selector) => in_any_namespace(selector, endpoint),
            PeerSelector::Cidr { net, .. } => {
                let mut addresses = endpoint.addresses.iter();
                addresses.any(|address| net.contains(address))
            }
            PeerSelector::Entity(entity) => *entity == Entity::Cluster && names_ports(rule),
            PeerSelector::Fqdn(_) => false,
        }),
    }
}

/// Whom a selector would select in another namespace is told, too.
fn in_any_namespace(selector: &Selector, endpoint: &Endpoint) -> bool {
    selector.in_any_namespace().matches(&endpoint.labels)
}

fn names_ports(rule: &Rule) -> bool {
    let Traffic::Of(items) = &rule.traffic else {
        return false;
    };
    let mut ports = items.iter().flat_map(|item| &item.ports);
    ports.any(|ports| matches!(ports.range, PortRange::Named(_)))
}

/// The same of a binding.
pub(super) fn binding(binding: &PluginBinding, endpoint: &Endpoint) -> bool {
    let mut peers = binding.peers.iter().flatten();
    binding.subject.matches(&endpoint.labels)
        || peers.any(|(_, selector)| in_any_namespace(selector, endpoint))
}

/// The same of a service.
pub(super) fn service(service: &Service, endpoint: &Endpoint) -> bool {
    let selector = service.selector.as_ref();
    let mut frontends = service.addresses.iter();
    selector.is_some_and(|selector| selector.matches(&endpoint.labels))
        || frontends.any(|(_, address)| endpoint.addresses.contains(address))
}
