//! What policies mean, once read: subjects, peers, ports and L7 rules.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::{
    l7::{FqdnSelector, HttpRule, KafkaRule},
    labels::Selector,
    origin::At,
    protocol,
    terms::Direction,
    tls::TlsContexts,
};

/// One `spec`.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Where it stands.
    pub at: At,
    /// Endpoints it applies to.
    pub subject: Selector,
    /// Where that was written.
    pub subject_at: At,
    /// Does it switch the directions to default deny?
    pub default_deny: [bool; 2],
    /// All rules, in the order of the file.
    pub rules: Vec<Rule>,
}

impl Spec {
    /// Does it switch this direction to default deny?
    pub fn denies_by_default(&self, direction: Direction) -> bool {
        self.default_deny[index(direction)]
    }
}

/// Ingress 0, egress 1.
pub(crate) fn index(direction: Direction) -> usize {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}

/// One item of `ingress`, `ingressDeny`, `egress` or `egressDeny`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Where it stands.
    pub at: At,
    /// Seen from the subject.
    pub direction: Direction,
    /// Does it refuse what it matches?
    pub deny: bool,
    /// Who is at the other end.
    pub peers: Peers,
    /// What is allowed or denied of them.
    pub traffic: Traffic,
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq)]
pub enum Peers {
    /// Anybody, known or not.
    Any,
    /// Whoever one of these selects, each with its place; nobody if there are none.
    Of(Vec<(At, PeerSelector)>),
}

/// One way to select peers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerSelector {
    /// By labels (`fromEndpoints`, `toEndpoints`).
    Labels(Selector),
    /// By what they are.
    Entity(Entity),
    /// Addresses outside, by prefix.
    Cidr {
        /// The prefix.
        net: IpNet,
        /// Prefixes taken out of it.
        except: Vec<IpNet>,
    },
    /// Addresses outside, by a name that resolved to them.
    Fqdn(FqdnSelector),
}

/// `fromEntities`, `toEntities`, without `all` (which is [`Peers::Any`]) and `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entity {
    /// The node itself.
    Host,
    /// Another node.
    RemoteNode,
    /// Outside.
    World,
    /// Outside, IPv4.
    WorldIpv4,
    /// Outside, IPv6.
    WorldIpv6,
    /// Everything that is not outside.
    Cluster,
    /// Labels not known yet.
    Init,
    /// L7 ingress.
    Ingress,
    /// Health endpoint.
    Health,
    /// Known to the node, but not managed.
    Unmanaged,
    /// The API server.
    KubeApiserver,
}

/// What a rule covers of its peers' traffic.
#[derive(Clone, Debug, PartialEq)]
pub enum Traffic {
    /// All protocols and ports.
    All,
    /// What one of these covers; nothing if there are none.
    Of(Vec<PortRule>),
}

/// One item of `toPorts` or `icmps`.
#[derive(Clone, Debug, PartialEq)]
pub struct PortRule {
    /// Where it stands.
    pub at: At,
    /// Ports, ORed.
    pub ports: Vec<Ports>,
    /// L7 rules for traffic on these ports.
    pub l7: Option<L7Rules>,
    /// Their TLS is not the ends' own.
    pub tls: Option<PortTls>,
}

/// TLS that ends and begins at the proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct PortTls {
    /// With which secrets.
    pub contexts: TlsContexts,
    /// What a client may ask for; anything if there are none.
    pub names: Vec<(At, FqdnSelector)>,
}

/// A set of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Where the port, or the ICMP type, was written.
    pub at: At,
    /// IANA protocols, ORed.
    pub protocols: Vec<u8>,
    /// Which ports of them.
    pub range: PortRange,
}

/// Ports by number or name. For ICMP the numbers are types, 0–255.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRange {
    /// All of them.
    All,
    /// From the first to the last.
    Numbers(u16, u16),
    /// Those with this name: of the subject for ingress, of the peer for egress.
    Named(String),
}

/// Named ports of an endpoint or an identity: name to (protocol, port).
pub type PortNames = BTreeMap<String, Vec<(u8, u16)>>;

impl Ports {
    /// One ICMP type.
    pub fn icmp(at: At, ipv6: bool, ty: u8) -> Self {
        Ports {
            at,
            protocols: vec![if ipv6 {
                protocol::ICMPV6
            } else {
                protocol::ICMP
            }],
            range: PortRange::Numbers(ty.into(), ty.into()),
        }
    }

    /// The (protocol, first, last) it stands for.
    pub fn resolve(&self, names: &PortNames) -> Vec<(u8, u16, u16)> {
        match &self.range {
            PortRange::Numbers(first, last) => self.expand(*first, *last),
            PortRange::All => self.expand(0, u16::MAX),
            PortRange::Named(name) => names
                .get(name)
                .into_iter()
                .flatten()
                // A name narrows what the rule says of the protocol, never widens it.
                .filter(|(protocol, _)| self.protocols.contains(protocol))
                .map(|(protocol, port)| (*protocol, *port, *port))
                .collect(),
        }
    }

    fn expand(&self, first: u16, last: u16) -> Vec<(u8, u16, u16)> {
        self.protocols.iter().map(|p| (*p, first, last)).collect()
    }
}

/// L7 rules of one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum L7Rules {
    /// `rules.http`.
    Http(Vec<(At, HttpRule)>),
    /// `rules.dns`.
    Dns(Vec<(At, FqdnSelector)>),
    /// `rules.kafka`.
    Kafka(Vec<(At, KafkaRule)>),
    /// `serverNames`: what a client may ask for before it encrypts.
    ServerNames(Vec<(At, FqdnSelector)>),
    /// Names of `toFQDNs` that what is asked for is held to, in TLS or as the host of a
    /// request of HTTP.
    Held(Vec<(At, FqdnSelector)>),
    /// `rules.l7proto` with `rules.l7`.
    Plugin {
        /// Where its name was written.
        at: At,
        /// Name of the plugin.
        name: String,
        /// The entries of `l7`, as JSON objects.
        rules: Vec<(At, serde_json::Value)>,
    },
}
