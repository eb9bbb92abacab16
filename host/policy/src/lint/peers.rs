//! Peers of rules that nobody is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{SELECTOR_HINT, warn};
use crate::{
    compiled::Direction,
    input::{Endpoint, Input, Meta},
    labels::{Key, Label, NAMESPACE, Selector},
    peer::{Peer, PeerKind, reserved},
    problem::Problem,
    rule::{At, PeerSelector, Peers, PortNames, Spec},
};

/// Everybody a rule can know by labels, and the addresses that prefixes do not select.
pub(super) struct Known<'i> {
    /// Label sets with the endpoints that have them.
    pub(super) endpoints: Vec<(Peer, Vec<&'i Endpoint>)>,
    reserved: Vec<Peer>,
    addresses: BTreeMap<IpAddr, Owner<'i>>,
    /// Selectors that were asked about: rules often repeat them.
    asked: BTreeMap<Selector, bool>,
}

/// Whose an address is that is not outside.
#[derive(Clone, Copy)]
enum Owner<'i> {
    Node,
    Endpoint(&'i Endpoint),
}

impl<'i> Known<'i> {
    pub(super) fn of(input: &'i Input) -> Self {
        let mut sets: BTreeMap<&[Label], Vec<&Endpoint>> = BTreeMap::new();
        for endpoint in &input.endpoints {
            sets.entry(&endpoint.labels).or_default().push(endpoint);
        }
        let peer = |id, labels: &[Label], kind| Peer {
            id,
            labels: labels.to_vec(),
            kind,
            ports: PortNames::new(),
        };
        let node = input.node_addresses.iter();
        let node = node.map(|address| (*address, Owner::Node));
        let endpoints = input.endpoints.iter();
        let endpoints = endpoints.flat_map(|endpoint| {
            let addresses = endpoint.addresses.iter();
            addresses.map(move |address| (*address, Owner::Endpoint(endpoint)))
        });
        Self {
            addresses: node.chain(endpoints).collect(),
            endpoints: sets
                .into_iter()
                .map(|(labels, of)| (peer(reserved::ANY, labels, PeerKind::Endpoint), of))
                .collect(),
            reserved: reserved::ALL
                .iter()
                .map(|(name, id)| {
                    let labels = [Label::new("reserved", name, "")];
                    peer(*id, &labels, PeerKind::Reserved)
                })
                .collect(),
            asked: BTreeMap::new(),
        }
    }

    fn is_somebody(&mut self, selector: &Selector) -> bool {
        if let Some(known) = self.asked.get(selector) {
            return *known;
        }
        let endpoints = self.endpoints.iter().map(|(peer, _)| peer);
        let mut all = endpoints.chain(&self.reserved);
        let found = all.any(|peer| selector.matches(&peer.labels));
        self.asked.insert(selector.clone(), found);
        found
    }

    /// Whom it would select if it did not ask for a namespace.
    fn elsewhere(&self, selector: &Selector) -> Option<&Endpoint> {
        let everywhere = Selector {
            requirements: selector
                .requirements
                .iter()
                .filter(|requirement| !requirement.key().is_namespace())
                .cloned()
                .collect(),
        };
        let mut sets = self.endpoints.iter();
        let (_, of) = sets.find(|(peer, _)| everywhere.matches(&peer.labels))?;
        of.first().copied()
    }

    /// The owner of an address in the prefix, if all addresses in it have one.
    fn owner_of_all(&self, net: &IpNet, except: &[IpNet]) -> Option<Owner<'i>> {
        let bits = u32::from(net.max_prefix_len() - net.prefix_len());
        let size = 1usize.checked_shl(bits).filter(|_| bits < usize::BITS)?;
        // Network and broadcast address are nobody's.
        if size > self.addresses.len() + 2 {
            return None;
        }
        let mut hosts = net
            .hosts()
            .filter(|address| !except.iter().any(|hole| hole.contains(address)));
        let first = *self.addresses.get(&hosts.next()?)?;
        hosts
            .all(|address| self.addresses.contains_key(&address))
            .then_some(first)
    }
}

/// Looks at the peers of a spec's rules.
pub(super) fn lint(meta: &Meta, spec: &Spec, known: &mut Known<'_>, warnings: &mut Vec<Problem>) {
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
    known: &mut Known<'_>,
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
    known: &Known<'_>,
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
