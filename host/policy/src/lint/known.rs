//! Everybody that rules can be about.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    labels::{Label, Selector},
    objects::{Endpoint, Input, Policy},
    peer::{Peer, PeerKind, reserved},
    rule::PortNames,
};

/// Prefixes of more addresses than this are not looked into: not all of them are this node's.
const MOST_ADDRESSES: usize = 1 << 12;

/// Everybody a rule can know by labels, and the addresses that prefixes do not select.
#[derive(Debug)]
pub(super) struct Known {
    /// Label sets with the endpoints that have them, by name: the order of files never
    /// matters.
    pub(super) sets: Vec<(Peer, Vec<Arc<Endpoint>>)>,
    reserved: Vec<Peer>,
    addresses: HashMap<IpAddr, Owner>,
    /// Selectors that were asked about: rules often repeat them.
    asked: HashMap<Selector, bool>,
}

/// Whose an address is that is not outside.
#[derive(Clone, Debug)]
pub(super) enum Owner {
    Node,
    Endpoint(Arc<Endpoint>),
}

impl Known {
    pub(super) fn of(input: &Input) -> Self {
        let mut endpoints: Vec<&Arc<Endpoint>> = input.endpoints.values().map(|it| &**it).collect();
        endpoints.sort_by_cached_key(|endpoint| {
            let meta = &endpoint.meta;
            (meta.full_name(), meta.origin.clone(), meta.at.line)
        });
        let mut sets: BTreeMap<&[Label], Vec<Arc<Endpoint>>> = BTreeMap::new();
        let node = input.node_addresses.iter();
        let mut addresses: HashMap<IpAddr, Owner> =
            node.map(|address| (*address, Owner::Node)).collect();
        for endpoint in endpoints {
            let of_set = sets.entry(&endpoint.labels).or_default();
            of_set.push(endpoint.clone());
            for address in &endpoint.addresses {
                addresses.insert(*address, Owner::Endpoint(endpoint.clone()));
            }
        }
        let peer = |id, labels: &[Label], kind| Peer {
            id,
            labels: labels.to_vec(),
            kind,
            ports: PortNames::new(),
        };
        let reserved = reserved::ALL.iter().map(|(name, id)| {
            let labels = [Label::new("reserved", name, "")];
            peer(*id, &labels, PeerKind::Reserved)
        });
        Self {
            sets: sets
                .into_iter()
                .map(|(labels, of)| (peer(reserved::ANY, labels, PeerKind::Endpoint), of))
                .collect(),
            reserved: reserved.collect(),
            addresses,
            asked: HashMap::new(),
        }
    }

    /// Endpoints that a selector selects.
    pub(super) fn selected_by(&self, selector: &Selector) -> impl Iterator<Item = &Arc<Endpoint>> {
        let sets = self.sets.iter();
        let sets = sets.filter(|(peer, _)| selector.matches(&peer.labels));
        sets.flat_map(|(_, of)| of)
    }

    /// Is some endpoint of this node selected?
    pub(super) fn selects_somebody(&self, selector: &Selector) -> bool {
        self.selected_by(selector).next().is_some()
    }

    /// Label sets, by position, that one of these policies applies to.
    pub(super) fn subjects_of(&self, policies: &[&Policy]) -> BTreeSet<usize> {
        let specs = || policies.iter().flat_map(|policy| &policy.specs);
        let sets = self.sets.iter().enumerate();
        sets.filter(|(_, (peer, _))| specs().any(|spec| spec.subject.matches(&peer.labels)))
            .map(|(position, _)| position)
            .collect()
    }

    /// Does a policy apply to one of these label sets?
    pub(super) fn applies_to(&self, policy: &Policy, sets: &BTreeSet<usize>) -> bool {
        let mut sets = sets.iter().filter_map(|position| self.sets.get(*position));
        sets.any(|(peer, _)| {
            let mut specs = policy.specs.iter();
            specs.any(|spec| spec.subject.matches(&peer.labels))
        })
    }

    /// Is anybody selected, reserved identities included?
    pub(super) fn is_somebody(&mut self, selector: &Selector) -> bool {
        if let Some(known) = self.asked.get(selector) {
            return *known;
        }
        let endpoints = self.sets.iter().map(|(peer, _)| peer);
        let mut all = endpoints.chain(&self.reserved);
        let found = all.any(|peer| selector.matches(&peer.labels));
        self.asked.insert(selector.clone(), found);
        found
    }

    /// Whom it would select if it did not ask for a namespace.
    pub(super) fn elsewhere(&self, selector: &Selector) -> Option<&Endpoint> {
        let everywhere = selector.in_any_namespace();
        self.selected_by(&everywhere).next().map(|found| &**found)
    }

    /// The endpoint that has an address.
    pub(super) fn endpoint_at(&self, address: &IpAddr) -> Option<&Endpoint> {
        match self.addresses.get(address)? {
            Owner::Node => None,
            Owner::Endpoint(endpoint) => Some(endpoint),
        }
    }

    /// The owner of an address in the prefix, if all addresses in it have one.
    pub(super) fn owner_of_all(&self, net: &IpNet, except: &[IpNet]) -> Option<Owner> {
        let bits = u32::from(net.max_prefix_len() - net.prefix_len());
        1usize
            .checked_shl(bits)
            .filter(|size| *size <= MOST_ADDRESSES)?;
        let mut hosts = net
            .hosts()
            .filter(|address| !except.iter().any(|hole| hole.contains(address)));
        let first = self.addresses.get(&hosts.next()?)?.clone();
        hosts
            .all(|address| self.addresses.contains_key(&address))
            .then_some(first)
    }
}
