//! Names whose addresses nobody will ever learn.

use super::{known::Known, warn};
use crate::{
    fqdn::Matcher,
    l7::FqdnSelector,
    objects::{Endpoint, Input, Meta, Mode, Policy},
    origin::At,
    problem::Problem,
    protocol,
    rule::{L7Rules, PeerSelector, Peers, PortRange, PortRule, Rule, Spec, Traffic},
    terms::Direction,
};

/// The port DNS servers listen on.
const DNS_PORT: u16 = 53;

/// Looks at the names a spec has as peers: addresses are learned from the answers that
/// pass the proxy, and from no other.
pub(super) fn lint(
    input: &Input,
    meta: &Meta,
    spec: &Spec,
    known: &Known,
    warnings: &mut Vec<Problem>,
) {
    let named: Vec<_> = names(spec).collect();
    let Some((first, _)) = named.first() else {
        return;
    };
    for endpoint in known.selected_by(&spec.subject) {
        let who = endpoint.meta.full_name();
        let (message, hint) = match Lookups::of(input, endpoint) {
            Lookups::Seen(allowed) => {
                let unknown = named.iter().filter(|(_, name)| never(name, &allowed));
                warnings.extend(unknown.map(|(at, _)| {
                    let message =
                        format!("stays without addresses: no DNS rule lets {who} ask for the name");
                    let hint = "allow the name in rules.dns of the rule to the DNS server";
                    warn(meta, at, message, hint)
                }));
                continue;
            }
            Lookups::Unseen => (
                format!(
                    "toFQDNs of {who} stays without addresses: port 53 is allowed, but no answer \
                     passes the proxy"
                ),
                "add rules.dns to the rule that allows port 53",
            ),
            Lookups::Refused => (
                format!(
                    "toFQDNs of {who} stays without addresses: port 53 is not allowed, and no \
                     answer passes the proxy"
                ),
                "add an egress rule to the DNS server, port 53, with rules.dns",
            ),
        };
        warnings.push(warn(meta, first, message, hint));
    }
}

/// Names that a spec has as peers.
fn names(spec: &Spec) -> impl Iterator<Item = (&At, &FqdnSelector)> {
    let peers = spec.rules.iter().flat_map(|rule| match &rule.peers {
        Peers::Any => &[][..],
        Peers::Of(selectors) => selectors,
    });
    peers.filter_map(|(at, selector)| match selector {
        PeerSelector::Fqdn(name) => Some((at, name)),
        _ => None,
    })
}

/// Does what is found about a policy depend on which others apply to the same endpoints?
pub(super) fn depend_on_others(policy: &Policy) -> bool {
    policy.specs.iter().any(|spec| names(spec).next().is_some())
}

/// What becomes of an endpoint's DNS queries.
enum Lookups<'i> {
    /// The proxy reads them; it lets pass what these select.
    Seen(Vec<&'i FqdnSelector>),
    /// They pass, and nobody reads them.
    Unseen,
    /// They do not pass.
    Refused,
}

impl<'i> Lookups<'i> {
    fn of(input: &'i Input, endpoint: &Endpoint) -> Self {
        let specs = || {
            // What is in shadow steers and refuses nothing, so nothing is learned by it.
            let enforced = input.policies.values().filter(|p| !p.meta.is_shadow());
            let all = enforced.flat_map(|policy| &policy.specs);
            all.filter(|spec| spec.subject.matches(&endpoint.labels))
        };
        let allowing = || {
            let rules = specs().flat_map(|spec| &spec.rules);
            rules.filter(|rule| {
                rule.direction == Direction::Egress && !rule.deny && can_reach_a_server(rule)
            })
        };
        let seen: Vec<&FqdnSelector> = allowing().flat_map(names_to_ask_for).collect();
        if !seen.is_empty() {
            return Self::Seen(seen);
        }
        let restricted = input.mode == Mode::Always
            || specs().any(|spec| spec.denies_by_default(Direction::Egress));
        match !restricted || allowing().any(allows_dns_unseen) {
            true => Self::Unseen,
            false => Self::Refused,
        }
    }
}

/// Are there peers of a rule whose addresses need not be learned first? Nobody asks a
/// server whose address only its answer would tell.
fn can_reach_a_server(rule: &Rule) -> bool {
    match &rule.peers {
        Peers::Any => true,
        Peers::Of(selectors) => selectors
            .iter()
            .any(|(_, selector)| !matches!(selector, PeerSelector::Fqdn(_))),
    }
}

/// Is this one name, and none of the rules lets anybody ask for it? Of patterns that
/// cannot be told.
fn never(name: &FqdnSelector, allowed: &[&FqdnSelector]) -> bool {
    let FqdnSelector::MatchName(name) = name else {
        return false;
    };
    !allowed
        .iter()
        .any(|selector| Matcher::new(selector).matches(name))
}

fn items(rule: &Rule) -> &[PortRule] {
    match &rule.traffic {
        Traffic::All => &[],
        Traffic::Of(items) => items,
    }
}

/// What the DNS rules of a rule let people ask for.
fn names_to_ask_for(rule: &Rule) -> impl Iterator<Item = &FqdnSelector> {
    let dns = items(rule).iter().filter_map(|item| match &item.l7 {
        Some(L7Rules::Dns(rules)) => Some(rules),
        _ => None,
    });
    dns.flatten().map(|(_, name)| name)
}

fn allows_dns_unseen(rule: &Rule) -> bool {
    let plain = items(rule).iter().filter(|item| item.l7.is_none());
    let mut ports = plain.flat_map(|item| &item.ports);
    let is_dns = |range: &PortRange| match range {
        PortRange::All => true,
        PortRange::Numbers(first, last) => (*first..=*last).contains(&DNS_PORT),
        PortRange::Named(_) => false,
    };
    matches!(rule.traffic, Traffic::All)
        || ports.any(|ports| ports.protocols.contains(&protocol::UDP) && is_dns(&ports.range))
}
