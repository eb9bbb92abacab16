//! Names of ports that nobody has.

use super::{known::Known, warn};
use crate::{
    objects::{Endpoint, Meta},
    problem::Problem,
    protocol,
    rule::{Peers, PortRange, Ports, Rule, Spec, Traffic},
    terms::Direction,
};

/// Looks at the ports that a spec names. For ingress the subject's count, for egress the
/// peer's.
pub(super) fn lint(meta: &Meta, spec: &Spec, known: &Known, warnings: &mut Vec<Problem>) {
    for rule in &spec.rules {
        let Traffic::Of(items) = &rule.traffic else {
            continue;
        };
        let ports = items.iter().flat_map(|item| &item.ports);
        let named = ports.filter_map(|ports| match &ports.range {
            PortRange::Named(name) => Some((ports, name.as_str())),
            PortRange::All | PortRange::Numbers(..) => None,
        });
        for (ports, name) in named {
            let owners = owners(spec, rule, known);
            let has = |owner: &&Endpoint| !ports.resolve(&owner.port_names()).is_empty();
            if owners.iter().any(has) || (owners.is_empty() && can_be_somebody(rule)) {
                continue;
            }
            let (message, hint) = match owners.is_empty() {
                true => (
                    "no peer of this rule has named ports: only endpoints have".to_owned(),
                    "write the number".to_owned(),
                ),
                false => (
                    "no endpoint that it is about has a port of this name".to_owned(),
                    what_there_is(&owners, name, ports),
                ),
            };
            warnings.push(Problem {
                value: Some(name.to_owned()),
                ..warn(meta, &ports.at, message, &hint)
            });
        }
    }
}

/// The endpoints whose port names count.
fn owners<'k>(spec: &Spec, rule: &Rule, known: &'k Known) -> Vec<&'k Endpoint> {
    let sets = known.sets.iter().filter(|(peer, _)| match rule.direction {
        Direction::Ingress => spec.subject.matches(&peer.labels),
        Direction::Egress => peer.is_among(&rule.peers),
    });
    sets.flat_map(|(_, of)| of).map(|of| &**of).collect()
}

/// Of an egress rule: might its peers be endpoints? If not one of them is there, that is
/// told of the peers.
fn can_be_somebody(rule: &Rule) -> bool {
    use crate::rule::{Entity, PeerSelector};
    match &rule.peers {
        Peers::Any => true,
        Peers::Of(selectors) => selectors.iter().any(|(_, selector)| {
            matches!(
                selector,
                PeerSelector::Labels(_) | PeerSelector::Entity(Entity::Cluster)
            )
        }),
    }
}

/// A way out: the protocol the name is known for, or the names that are known.
fn what_there_is(owners: &[&Endpoint], name: &str, ports: &Ports) -> String {
    let all = owners
        .iter()
        .flat_map(|owner| owner.ports.iter().map(|port| (*owner, port)));
    if let Some((owner, port)) = all.clone().find(|(_, port)| port.name == name) {
        let asked: Vec<String> = ports.protocols.iter().map(|p| protocol::name(*p)).collect();
        return format!(
            "{} has it for {}, not {}",
            owner.meta.full_name(),
            protocol::name(port.protocol),
            asked.join(" or ")
        );
    }
    let mut names: Vec<&str> = all.map(|(_, port)| port.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    match names[..] {
        [] => "give it one in `spec.ports` of the Endpoint, or write the number".to_owned(),
        _ => format!("they have: {}", names.join(", ")),
    }
}
