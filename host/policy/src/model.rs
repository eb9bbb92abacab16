//! The same answers from the rules alone, one packet at a time: no identities, no
//! rows, no ranges. Slow and plain on purpose; tests hold everything else against it.

use std::net::IpAddr;

use crate::{
    compiled::Verdict,
    fqdn::Matcher,
    l7::{FqdnSelector, HttpRule, L7Protocol},
    labels::Label,
    objects::{Endpoint, Input, Mode, Policy},
    rule::{Entity, L7Rules, PeerSelector, Peers, PortNames, PortRange, Ports, Rule, Traffic},
    terms::Direction,
};

/// A packet, seen from one of its ends.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The end whose policy is asked, `namespace/name`.
    pub endpoint: &'a str,
    /// Direction seen from there.
    pub direction: Direction,
    /// Address of the other end.
    pub peer: IpAddr,
    /// Names that resolved to the peer's address.
    pub names: &'a [&'a str],
    /// IANA protocol.
    pub protocol: u8,
    /// Destination port; for ICMP `type << 8`.
    pub port: u16,
}

/// What is decided about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The verdict.
    pub verdict: Verdict,
    /// The rule that decided, as [`crate::compiled::RuleInfo::short`] writes it.
    pub rule: Option<String>,
    /// What the proxy does, if the verdict is redirect.
    pub l7: Option<L7>,
}

/// What the proxy does with a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct L7 {
    /// How it reads the stream.
    pub protocol: L7Protocol,
    /// The L7 rules, each as JSON, sorted; `None` if all requests are allowed.
    pub rules: Option<Vec<String>>,
    /// Plugins bound to the port, in order.
    pub bound: Vec<String>,
}

/// Decides about one packet. `None` if there is no such endpoint, or if L7 rules of
/// different kinds meet (which does not compile).
pub fn verdict(input: &Input, query: &Query<'_>) -> Option<Answer> {
    let subject = input
        .endpoints
        .values()
        .find(|e| e.meta.full_name() == query.endpoint)?;
    let mut deny = None;
    let mut allows: Vec<(String, Option<&L7Rules>, bool)> = Vec::new();
    let mut about: Vec<(&Peers, Vec<&PortRange>)> = Vec::new();
    let mut denies_by_default = None;
    for (policy, spec) in specs(input) {
        // What is in shadow is as if it were not there.
        let applies = input.mode != Mode::Never && !policy.meta.is_shadow();
        if !applies || !spec.subject.matches(&subject.labels) {
            continue;
        }
        if spec.denies_by_default(query.direction) {
            denies_by_default.get_or_insert(short(policy, spec.at.rule()));
        }
        for rule in &spec.rules {
            if rule.direction != query.direction || !is_peer(input, rule, query) {
                continue;
            }
            for (path, l7, exact, ranges) in matching(input, subject, rule, query) {
                let name = short(policy, path);
                if rule.deny {
                    deny.get_or_insert(name);
                } else {
                    allows.push((name, l7, exact));
                    about.push((&rule.peers, ranges));
                }
            }
        }
    }
    let plain = |verdict, rule| Answer {
        verdict,
        rule,
        l7: None,
    };
    if deny.is_some() {
        return Some(plain(Verdict::Deny, deny));
    }
    let closed = match input.mode {
        Mode::Default => denies_by_default.is_some(),
        Mode::Always => true,
        Mode::Never => false,
    };
    if allows.is_empty() && closed {
        return Some(plain(Verdict::DefaultDeny, denies_by_default));
    }
    let bound = bindings(input, subject, query);
    let heard = without_silenced(&allows, &about);
    let steering = heard.iter().find(|(_, l7, _)| l7.is_some());
    let first = allows.first().map(|(name, ..)| name.clone());
    let Some(protocol) = steering
        .and_then(|(_, l7, _)| protocol_of(input, (*l7)?))
        .or(bound.first().map(|(_, _, protocol)| *protocol))
    else {
        return Some(plain(Verdict::Allow, first));
    };
    if bound.iter().any(|(_, _, other)| *other != protocol) {
        return None;
    }
    let rule = steering
        .map(|(name, ..)| name.clone())
        .or(first)
        .or(bound.first().map(|(rule, ..)| rule.clone()));
    Some(Answer {
        verdict: Verdict::Redirect,
        rule,
        l7: Some(L7 {
            protocol,
            // What may look at traffic of an open direction, may not refuse any.
            rules: union(&heard)?.filter(|_| closed),
            bound: bound
                .into_iter()
                .filter_map(|(_, plugin, _)| plugin)
                .collect(),
        }),
    })
}

/// All specs, sorted by the name of their document.
fn specs(input: &Input) -> Vec<(&Policy, &crate::rule::Spec)> {
    let mut policies: Vec<&Policy> = input.policies.values().map(|policy| &***policy).collect();
    policies.sort_by_key(|policy| policy.meta.key());
    let specs = policies
        .into_iter()
        .flat_map(|policy| policy.specs.iter().map(move |spec| (policy, spec)));
    specs.collect()
}

fn short(policy: &Policy, path: &str) -> String {
    format!("{} {path}", policy.meta.full_name())
        .trim_end()
        .to_owned()
}

/// Who the peer is.
enum Who<'a> {
    Endpoint(&'a Endpoint),
    Host,
    Outside,
}

fn who(input: &Input, address: IpAddr) -> Who<'_> {
    let owner = input
        .endpoints
        .values()
        .rev()
        .find(|e| e.addresses.contains(&address));
    match owner {
        Some(endpoint) => Who::Endpoint(endpoint),
        None if input.node_addresses.contains(&address) || address.is_loopback() => Who::Host,
        None => Who::Outside,
    }
}

fn labels(who: &Who<'_>, address: IpAddr) -> Vec<Label> {
    let reserved = match who {
        Who::Endpoint(endpoint) => return endpoint.labels.clone(),
        Who::Host => "host",
        Who::Outside if address.is_ipv4() => "world-ipv4",
        Who::Outside => "world-ipv6",
    };
    vec![Label::new("reserved", reserved, "")]
}

fn is_peer(input: &Input, rule: &Rule, query: &Query<'_>) -> bool {
    let Peers::Of(selectors) = &rule.peers else {
        return true;
    };
    let who = who(input, query.peer);
    let outside = matches!(who, Who::Outside);
    selectors.iter().any(|(_, selector)| match selector {
        PeerSelector::Labels(selector) => selector.matches(&labels(&who, query.peer)),
        PeerSelector::Cidr { net, except } => {
            outside
                && net.contains(&query.peer)
                && !except.iter().any(|hole| hole.contains(&query.peer))
        }
        PeerSelector::Fqdn(fqdn) => {
            outside
                && query
                    .names
                    .iter()
                    .any(|name| Matcher::new(fqdn).matches(name))
        }
        PeerSelector::Entity(entity) => match entity {
            Entity::Host => matches!(who, Who::Host),
            Entity::Cluster => !outside,
            Entity::World => outside,
            Entity::WorldIpv4 => outside && query.peer.is_ipv4(),
            Entity::WorldIpv6 => outside && query.peer.is_ipv6(),
            // Nobody on a node that runs alone.
            Entity::RemoteNode
            | Entity::Init
            | Entity::Ingress
            | Entity::Health
            | Entity::Unmanaged
            | Entity::KubeApiserver => false,
        },
    })
}

/// A plain rule opens nothing beside `serverNames` of the same peers and port, both as
/// they are written.
fn without_silenced<'a>(
    allows: &[(String, Option<&'a L7Rules>, bool)],
    about: &[(&Peers, Vec<&PortRange>)],
) -> Vec<(String, Option<&'a L7Rules>, bool)> {
    let asks = |peers: &Peers, ranges: &[&PortRange], selector: Option<&PeerSelector>| {
        let all = allows.iter().zip(about);
        let mut names = all.filter(|((_, l7, _), _)| matches!(l7, Some(L7Rules::ServerNames(_))));
        names.any(|(_, (others, other_ranges))| {
            other_ranges.iter().any(|range| ranges.contains(range))
                && match (selector, others) {
                    (None, others) => peers == *others,
                    (Some(_), Peers::Any) => false,
                    (Some(one), Peers::Of(all)) => all.iter().any(|(_, other)| one == other),
                }
        })
    };
    let heard = allows
        .iter()
        .zip(about)
        .filter(|((_, l7, _), (peers, ranges))| {
            let silenced = match peers {
                Peers::Any => asks(peers, ranges, None),
                Peers::Of(all) => all.iter().all(|(_, one)| asks(peers, ranges, Some(one))),
            };
            l7.is_some() || !silenced
        });
    heard.map(|(allow, _)| allow.clone()).collect()
}

/// The parts of a rule that cover the packet's port: path, L7 rules, whether the port is
/// named exactly, and the ports as they are written.
fn matching<'a>(
    input: &Input,
    subject: &Endpoint,
    rule: &'a Rule,
    query: &Query<'_>,
) -> Vec<(&'a str, Option<&'a L7Rules>, bool, Vec<&'a PortRange>)> {
    let Traffic::Of(items) = &rule.traffic else {
        return vec![(rule.at.rule(), None, false, Vec::new())];
    };
    let names = match query.direction {
        Direction::Ingress => subject.port_names(),
        Direction::Egress => names_of_peer(input, query.peer),
    };
    let mut found = Vec::new();
    for item in items {
        let covering: Vec<&Ports> = item
            .ports
            .iter()
            .filter(|p| covers(p, &names, query))
            .collect();
        if !covering.is_empty() {
            let exact = covering.iter().any(|ports| match ports.range {
                PortRange::All => false,
                PortRange::Numbers(first, last) => first == last,
                PortRange::Named(_) => true,
            });
            let ranges = covering.iter().map(|ports| &ports.range).collect();
            found.push((item.at.rule(), item.l7.as_ref(), exact, ranges));
        }
    }
    found
}

/// Named ports of everybody with the peer's labels.
fn names_of_peer(input: &Input, peer: IpAddr) -> PortNames {
    let mut names = PortNames::new();
    if let Who::Endpoint(peer) = who(input, peer) {
        for endpoint in input.endpoints.values().filter(|e| e.labels == peer.labels) {
            for (name, numbers) in endpoint.port_names() {
                names.entry(name).or_default().extend(numbers);
            }
        }
    }
    names
}

fn covers(ports: &Ports, names: &PortNames, query: &Query<'_>) -> bool {
    let number = if crate::protocol::is_icmp(query.protocol) {
        query.port >> 8
    } else {
        query.port
    };
    ports.protocols.contains(&query.protocol)
        && match &ports.range {
            PortRange::All => true,
            PortRange::Numbers(first, last) => (*first..=*last).contains(&number),
            PortRange::Named(name) => names
                .get(name)
                .is_some_and(|numbers| numbers.contains(&(query.protocol, number))),
        }
}

/// Bindings that apply: rule, plugin if it has one, protocol.
fn bindings(
    input: &Input,
    subject: &Endpoint,
    query: &Query<'_>,
) -> Vec<(String, Option<String>, L7Protocol)> {
    let mut all: Vec<_> = input.bindings.values().collect();
    all.sort_by_key(|binding| binding.meta.key());
    let labels = labels(&who(input, query.peer), query.peer);
    all.into_iter()
        .filter(|b| !b.meta.is_shadow() && b.direction == query.direction)
        .filter(|b| b.subject.matches(&subject.labels))
        .filter(|b| b.covers(query.protocol, query.port))
        .filter(|b| {
            b.peers
                .as_ref()
                .is_none_or(|p| p.iter().any(|(_, s)| s.matches(&labels)))
        })
        .map(|b| (b.meta.full_name(), b.plugin.clone(), b.protocol))
        .collect()
}

fn protocol_of(input: &Input, rules: &L7Rules) -> Option<L7Protocol> {
    match rules {
        L7Rules::Http(_) => Some(L7Protocol::Http),
        L7Rules::Dns(_) => Some(L7Protocol::Dns),
        L7Rules::Kafka(_) | L7Rules::ServerNames(_) | L7Rules::Held(_) => Some(L7Protocol::Stream),
        L7Rules::Plugin { name, .. } => input.plugins.get(name).copied(),
    }
}

/// All L7 rules together: the outer `None` if they are of different kinds, the inner
/// one if they allow everything.
#[expect(
    clippy::option_option,
    reason = "\"no answer\" and \"no restriction\" are different"
)]
fn union(allows: &[(String, Option<&L7Rules>, bool)]) -> Option<Option<Vec<String>>> {
    let mut reader: Option<&str> = None;
    let mut texts: Vec<String> = Vec::new();
    let mut open = false;
    for (_, rules, _) in allows {
        let name = match rules {
            None => continue,
            Some(L7Rules::Http(list)) => {
                open |= list.iter().any(|(_, rule)| *rule == HttpRule::default());
                texts.extend(list.iter().map(|(_, rule)| json(rule)));
                "http"
            }
            Some(L7Rules::Dns(list)) => {
                texts.extend(list.iter().map(|(_, rule): &(_, FqdnSelector)| json(rule)));
                "dns"
            }
            Some(L7Rules::Kafka(list)) => {
                texts.extend(list.iter().map(|(_, rule)| json(rule)));
                "kafka"
            }
            Some(L7Rules::ServerNames(list) | L7Rules::Held(list)) => {
                texts.extend(list.iter().map(|(_, name)| json(name)));
                "tls"
            }
            Some(L7Rules::Plugin { name, rules, .. }) => {
                open |= rules.iter().any(|(_, rule)| *rule == serde_json::json!({}));
                texts.extend(rules.iter().map(|(_, rule)| json(rule)));
                name
            }
        };
        if *reader.get_or_insert(name) != name {
            return None;
        }
    }
    let Some(reader) = reader else {
        return Some(None);
    };
    open |= allows
        .iter()
        .any(|(_, rules, exact)| rules.is_none() && (*exact || reader != "dns"));
    texts.sort();
    texts.dedup();
    Some((!open).then_some(texts))
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
