//! Everybody there is: identities, and the addresses that carry them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    compiled::AddrIdentity,
    follow::Delta,
    ids::{Exhausted, Ids, Number},
    l7::FqdnSelector,
    labels::Label,
    objects::{Endpoint, Policy},
    peer::{Peer, PeerKind, everything, reserved},
    rule::{PeerSelector, Peers, PortNames},
    terms::IdentityId,
};

/// Identities and addresses, as they are now.
#[derive(Debug)]
pub(super) struct Universe {
    /// Every identity, and the wildcard.
    pub(super) peers: BTreeMap<IdentityId, Peer>,
    /// Labels of each but the wildcard, as readers see them.
    pub(super) labels: BTreeMap<IdentityId, Vec<String>>,
    /// Selectors of names that only documents in shadow have.
    pub(super) in_shadow: BTreeSet<IdentityId>,
    /// Endpoints by full name: the order of files never matters.
    pub(super) endpoints: BTreeMap<String, Placed>,
    /// Endpoints of each label set.
    pub(super) sets: BTreeMap<IdentityId, LabelSet>,
    prefixes: BTreeMap<IpNet, Number>,
    names: BTreeMap<FqdnSelector, Number>,
}

/// An endpoint with its numbers.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) id: Number,
    pub(super) identity: IdentityId,
    pub(super) ports: PortNames,
}

/// An identity of labels, and who has it.
#[derive(Debug)]
pub(super) struct LabelSet {
    /// Held as long as somebody has these labels.
    _number: Number,
    pub(super) members: BTreeMap<String, Arc<Endpoint>>,
}

/// Which identities came and went.
#[derive(Debug, Default)]
pub(super) struct Moves {
    pub(super) come: BTreeSet<IdentityId>,
    pub(super) gone: BTreeSet<IdentityId>,
    /// Names of ports that somebody has changed.
    pub(super) ports: bool,
}

impl Moves {
    /// Everybody has come.
    pub(super) fn all(everybody: &BTreeMap<IdentityId, Peer>) -> Self {
        Self {
            come: everybody.keys().copied().collect(),
            ..Self::default()
        }
    }

    pub(super) fn is_none(&self) -> bool {
        self.come.is_empty() && self.gone.is_empty()
    }

    fn is_there(&mut self, identity: IdentityId) {
        self.come.insert(identity);
    }

    fn is_gone(&mut self, identity: IdentityId) {
        // One that came and went at once was never there.
        if !self.come.remove(&identity) {
            self.gone.insert(identity);
        }
    }
}

impl Default for Universe {
    /// The wildcard and the reserved identities.
    fn default() -> Self {
        let mut universe = Self {
            peers: BTreeMap::new(),
            labels: BTreeMap::new(),
            in_shadow: BTreeSet::new(),
            endpoints: BTreeMap::new(),
            sets: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            names: BTreeMap::new(),
        };
        let wildcard = Peer {
            id: reserved::ANY,
            labels: Vec::new(),
            kind: PeerKind::Unknown,
            ports: PortNames::new(),
        };
        universe.peers.insert(wildcard.id, wildcard);
        for (name, id) in reserved::ALL {
            let labels = vec![Label::new("reserved", name, "")];
            universe.add(id, labels, PeerKind::Reserved);
        }
        universe
    }
}

impl Universe {
    /// Takes in endpoints that came and went.
    pub(super) fn follow_endpoints(
        &mut self,
        news: &Delta<Endpoint>,
        ids: &mut Ids,
        moves: &mut Moves,
    ) -> Result<(), Exhausted> {
        let mut touched = BTreeSet::new();
        for endpoint in &news.gone {
            let name = endpoint.meta.full_name();
            if let Some(placed) = self.endpoints.remove(&name) {
                touched.insert(placed.identity);
                if let Some(set) = self.sets.get_mut(&placed.identity) {
                    set.members.remove(&name);
                }
            }
        }
        for endpoint in &news.come {
            let name = endpoint.meta.full_name();
            let id = ids.endpoints.get(&name)?;
            let number = ids.identities.get(&joined(&endpoint.labels))?;
            let identity = number.get();
            touched.insert(identity);
            if !self.peers.contains_key(&identity) {
                self.add(identity, endpoint.labels.clone(), PeerKind::Endpoint);
                moves.is_there(identity);
            }
            let set = self.sets.entry(identity).or_insert_with(|| LabelSet {
                _number: number,
                members: BTreeMap::new(),
            });
            set.members.insert(name.clone(), endpoint.clone());
            let placed = Placed {
                endpoint: endpoint.clone(),
                id,
                identity,
                ports: endpoint.port_names(),
            };
            self.endpoints.insert(name, placed);
        }
        for identity in touched {
            let members = self.sets.get(&identity).map(|set| &set.members);
            let Some(members) = members.filter(|members| !members.is_empty()) else {
                self.sets.remove(&identity);
                moves.ports |= self.remove(identity);
                moves.is_gone(identity);
                continue;
            };
            let mut ports = PortNames::new();
            for endpoint in members.values() {
                add_ports(&mut ports, endpoint);
            }
            if let Some(peer) = self.peers.get_mut(&identity) {
                moves.ports |= peer.ports != ports;
                peer.ports = ports;
            }
        }
        Ok(())
    }

    /// Takes in the prefixes and names of all policies there are.
    pub(super) fn follow_policies<'p>(
        &mut self,
        policies: impl Iterator<Item = &'p Policy> + Clone,
        ids: &mut Ids,
        moves: &mut Moves,
    ) -> Result<(), Exhausted> {
        let wanted = prefixes_of(policies.clone());
        let known = self.prefixes.keys();
        let gone: Vec<IpNet> = known.filter(|net| !wanted.contains(net)).copied().collect();
        for net in gone {
            if let Some(number) = self.prefixes.remove(&net) {
                self.remove(number.get());
                moves.is_gone(number.get());
            }
        }
        for net in wanted {
            if self.prefixes.contains_key(&net) {
                continue;
            }
            let number = ids.local.get(&format!("cidr:{net}"))?;
            let family = match net {
                IpNet::V4(_) => "world-ipv4",
                IpNet::V6(_) => "world-ipv6",
            };
            let labels = vec![
                Label::new("cidr", &net.to_string(), ""),
                Label::new("reserved", family, ""),
            ];
            self.add(number.get(), labels, PeerKind::Cidr(net));
            moves.is_there(number.get());
            self.prefixes.insert(net, number);
        }

        let wanted = names_of(policies.clone());
        let known = self.names.keys();
        let gone: Vec<FqdnSelector> = known
            .filter(|name| !wanted.contains(*name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(number) = self.names.remove(&name) {
                self.remove(number.get());
                moves.is_gone(number.get());
            }
        }
        for selector in wanted {
            if self.names.contains_key(&selector) {
                continue;
            }
            let (FqdnSelector::MatchName(text) | FqdnSelector::MatchPattern(text)) = &selector;
            let number = ids.local.get(&fqdn_key(&selector))?;
            let labels = vec![
                Label::new("fqdn", text, ""),
                Label::new("reserved", "world", ""),
            ];
            self.add(number.get(), labels, PeerKind::Fqdn(selector.clone()));
            moves.is_there(number.get());
            self.names.insert(selector, number);
        }
        let enforced = names_of(policies.filter(|policy| !policy.meta.is_shadow()));
        let names = self.names.iter();
        self.in_shadow = names
            .filter(|(name, _)| !enforced.contains(*name))
            .map(|(_, number)| number.get())
            .collect();
        Ok(())
    }

    fn add(&mut self, id: IdentityId, labels: Vec<Label>, kind: PeerKind) {
        let texts = labels.iter().map(Label::to_string).collect();
        self.labels.insert(id, texts);
        let peer = Peer {
            id,
            labels,
            kind,
            ports: PortNames::new(),
        };
        self.peers.insert(id, peer);
    }

    /// True if it had named ports.
    fn remove(&mut self, id: IdentityId) -> bool {
        self.labels.remove(&id);
        let peer = self.peers.remove(&id);
        peer.is_some_and(|peer| !peer.ports.is_empty())
    }

    /// Longest-prefix-match table.
    pub(super) fn ipcache(&self, node_addresses: &[IpAddr]) -> BTreeMap<IpNet, AddrIdentity> {
        let mut ipcache = fixed_addresses(node_addresses);
        for placed in self.endpoints.values() {
            let info = AddrIdentity {
                identity: placed.identity,
                endpoint: Some(placed.id.get()),
            };
            let nets = placed.endpoint.addresses.iter().copied().map(IpNet::from);
            ipcache.extend(nets.map(|net| (net, info)));
        }
        for (net, number) in &self.prefixes {
            // An endpoint's or node's own address stays what it is: prefixes are about outside.
            ipcache.entry(*net).or_insert(AddrIdentity {
                identity: number.get(),
                endpoint: None,
            });
        }
        ipcache
    }

    /// Selectors of names.
    pub(super) fn fqdn(&self) -> BTreeMap<IdentityId, FqdnSelector> {
        let names = self.names.iter();
        names
            .map(|(selector, number)| (number.get(), selector.clone()))
            .collect()
    }
}

fn fqdn_key(selector: &FqdnSelector) -> String {
    match selector {
        FqdnSelector::MatchName(name) => format!("fqdn-name:{name}"),
        FqdnSelector::MatchPattern(pattern) => format!("fqdn-pattern:{pattern}"),
    }
}

/// Outside, loopback and the node's own addresses.
fn fixed_addresses(node: &[IpAddr]) -> BTreeMap<IpNet, AddrIdentity> {
    let of = |identity| AddrIdentity {
        identity,
        endpoint: None,
    };
    let mut ipcache = BTreeMap::from([
        (everything(false), of(reserved::WORLD_IPV4)),
        (everything(true), of(reserved::WORLD_IPV6)),
        (loopback_v4(), of(reserved::HOST)),
        (
            IpNet::from(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])),
            of(reserved::HOST),
        ),
    ]);
    for address in node {
        ipcache.insert(IpNet::from(*address), of(reserved::HOST));
    }
    ipcache
}

fn loopback_v4() -> IpNet {
    IpNet::new_assert(IpAddr::from([127, 0, 0, 0]), 8)
}

fn joined(labels: &[Label]) -> String {
    let labels: Vec<String> = labels.iter().map(Label::to_string).collect();
    labels.join(",")
}

/// Endpoints of one identity may give a name different numbers; all of them count.
fn add_ports(names: &mut PortNames, endpoint: &Endpoint) {
    for (name, numbers) in endpoint.port_names() {
        let all = names.entry(name).or_default();
        all.extend(numbers);
        all.sort_unstable();
        all.dedup();
    }
}

fn selectors_of<'p>(
    policies: impl IntoIterator<Item = &'p Policy>,
) -> impl Iterator<Item = &'p PeerSelector> {
    let specs = policies.into_iter().flat_map(|p| &p.specs);
    let rules = specs.flat_map(|s| &s.rules);
    let placed = rules.flat_map(|rule| match &rule.peers {
        Peers::Any => &[][..],
        Peers::Of(selectors) => selectors,
    });
    placed.map(|(_, selector)| selector)
}

/// Every prefix a rule names, the excepted ones too: so that the longest match of any
/// address lies either inside or outside of every prefix of every rule.
fn prefixes_of<'p>(policies: impl IntoIterator<Item = &'p Policy>) -> BTreeSet<IpNet> {
    selectors_of(policies)
        .filter_map(|selector| match selector {
            PeerSelector::Cidr { net, except } => Some((net, except)),
            _ => None,
        })
        .flat_map(|(net, except)| std::iter::once(net).chain(except))
        .filter(|net| net.prefix_len() > 0)
        .copied()
        .collect()
}

fn names_of<'p>(policies: impl IntoIterator<Item = &'p Policy>) -> BTreeSet<FqdnSelector> {
    selectors_of(policies)
        .filter_map(|selector| match selector {
            PeerSelector::Fqdn(fqdn) => Some(fqdn.clone()),
            _ => None,
        })
        .collect()
}
