//! Everybody there is: identities, and the addresses that carry them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    compiled::AddrIdentity,
    follow::Delta,
    ids::{Ids, NoNumber, Number},
    l7::FqdnSelector,
    labels::Label,
    objects::{Endpoint, Policy},
    peer::{Peer, PeerKind, everything, reserved},
    rule::{PeerSelector, Peers, PortNames},
    shared::{Map, set},
    terms::{EndpointId, IdentityId},
};

/// Identities and addresses, as they are now.
#[derive(Debug)]
pub(super) struct Universe {
    /// Every identity, and the wildcard.
    pub(super) peers: BTreeMap<IdentityId, Peer>,
    /// Labels of each but the wildcard, as readers see them.
    pub(super) labels: Map<IdentityId, Arc<[String]>>,
    /// Selectors of names.
    pub(super) fqdn: Map<IdentityId, FqdnSelector>,
    /// Selectors of names that only documents in shadow have.
    pub(super) in_shadow: BTreeSet<IdentityId>,
    /// Longest-prefix-match table.
    pub(super) ipcache: Map<IpNet, AddrIdentity>,
    /// Endpoints by full name: the order of files never matters.
    pub(super) endpoints: BTreeMap<String, Placed>,
    /// Endpoints of each label set.
    pub(super) sets: BTreeMap<IdentityId, LabelSet>,
    /// Outside, loopback and the node's own addresses.
    fixed: BTreeMap<IpNet, AddrIdentity>,
    /// The node's own addresses.
    node: Vec<IpAddr>,
    /// Addresses of endpoints.
    owned: HashMap<IpNet, AddrIdentity>,
    prefixes: BTreeMap<IpNet, Named>,
    names: BTreeMap<FqdnSelector, Named>,
}

/// A prefix or a selector of names, and who asks for it.
#[derive(Debug, Default)]
struct Named {
    /// Held as long as somebody asks.
    number: Option<Number>,
    /// Policies that name it, and those of them that are enforced.
    asked: usize,
    enforced: usize,
}

impl Named {
    fn count(&mut self, policy: &Policy, came: bool) {
        let change = |times: &mut usize| match came {
            true => *times += 1,
            false => *times -= 1,
        };
        change(&mut self.asked);
        if !policy.meta.is_shadow() {
            change(&mut self.enforced);
        }
    }

    fn get(&self) -> Option<IdentityId> {
        let number = self.number.as_ref()?;
        Some(IdentityId(number.get()))
    }
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
            labels: Map::new(),
            fqdn: Map::new(),
            in_shadow: BTreeSet::new(),
            ipcache: Map::new(),
            endpoints: BTreeMap::new(),
            sets: BTreeMap::new(),
            fixed: fixed_addresses(&[]),
            node: Vec::new(),
            owned: HashMap::new(),
            prefixes: BTreeMap::new(),
            names: BTreeMap::new(),
        };
        universe.ipcache = universe
            .fixed
            .iter()
            .map(|(net, info)| (*net, *info))
            .collect();
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
    ) -> Result<(), NoNumber> {
        let mut touched = BTreeSet::new();
        for endpoint in &news.gone {
            let name = endpoint.meta.full_name();
            for address in &endpoint.addresses {
                self.owned.remove(&IpNet::from(*address));
            }
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
            let number = ids.identities.given(&joined(&endpoint.labels))?;
            let identity = IdentityId(number.get());
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
            for address in &endpoint.addresses {
                let info = AddrIdentity {
                    identity,
                    endpoint: Some(EndpointId(id.get())),
                };
                self.owned.insert(IpNet::from(*address), info);
            }
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
        for address in news.all().flat_map(|endpoint| &endpoint.addresses) {
            self.settle(IpNet::from(*address));
        }
        Ok(())
    }

    /// Takes in the node's own addresses.
    pub(super) fn follow_node(&mut self, node: &[IpAddr]) {
        if self.node == node {
            return;
        }
        self.node = node.to_vec();
        let before = std::mem::replace(&mut self.fixed, fixed_addresses(node));
        let nets: BTreeSet<IpNet> = before.keys().chain(self.fixed.keys()).copied().collect();
        for net in nets {
            self.settle(net);
        }
    }

    /// Brings one line of the longest-prefix-match table up to date. An endpoint's or node's
    /// own address stays what it is: prefixes are about outside.
    fn settle(&mut self, net: IpNet) {
        let of_prefix = || {
            let identity = self.prefixes.get(&net)?.get()?;
            Some(AddrIdentity {
                identity,
                endpoint: None,
            })
        };
        let known = self.owned.get(&net).or_else(|| self.fixed.get(&net));
        let info = known.copied().or_else(of_prefix);
        set(&mut self.ipcache, net, info);
    }

    /// Takes in prefixes and names of policies that came and went.
    pub(super) fn follow_policies(
        &mut self,
        news: &Delta<Policy>,
        ids: &mut Ids,
        moves: &mut Moves,
    ) -> Result<(), NoNumber> {
        // Sorted, so that numbers do not depend on the order of files.
        let mut nets: BTreeSet<IpNet> = BTreeSet::new();
        let mut names: BTreeSet<FqdnSelector> = BTreeSet::new();
        for (policies, came) in [(&news.come, true), (&news.gone, false)] {
            for policy in policies {
                for net in prefixes_of(policy) {
                    self.prefixes.entry(net).or_default().count(policy, came);
                    nets.insert(net);
                }
                for name in names_of(policy) {
                    let named = self.names.entry(name.clone()).or_default();
                    named.count(policy, came);
                    names.insert(name);
                }
            }
        }
        nets.retain(|net| {
            let asked = self.prefixes.get(net).is_some_and(|named| named.asked > 0);
            if !asked && let Some(number) = self.prefixes.remove(net).and_then(|n| n.number) {
                self.remove(IdentityId(number.get()));
                moves.is_gone(IdentityId(number.get()));
                self.settle(*net);
            }
            asked
        });
        for net in nets {
            if self.prefixes.get(&net).and_then(Named::get).is_some() {
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
            self.add(IdentityId(number.get()), labels, PeerKind::Cidr(net));
            moves.is_there(IdentityId(number.get()));
            self.prefixes.entry(net).or_default().number = Some(number);
            self.settle(net);
        }

        names.retain(|name| {
            let asked = self.names.get(name).is_some_and(|named| named.asked > 0);
            if !asked && let Some(number) = self.names.remove(name).and_then(|n| n.number) {
                let identity = IdentityId(number.get());
                self.remove(identity);
                self.fqdn.remove(&identity);
                self.in_shadow.remove(&identity);
                moves.is_gone(identity);
            }
            asked
        });
        for selector in names {
            let identity = match self.names.get(&selector).and_then(Named::get) {
                Some(identity) => identity,
                None => self.add_name(&selector, ids, moves)?,
            };
            let enforced = self.names.get(&selector).is_some_and(|n| n.enforced > 0);
            match enforced {
                true => _ = self.in_shadow.remove(&identity),
                false => _ = self.in_shadow.insert(identity),
            }
        }
        Ok(())
    }

    fn add_name(
        &mut self,
        selector: &FqdnSelector,
        ids: &mut Ids,
        moves: &mut Moves,
    ) -> Result<IdentityId, NoNumber> {
        let (FqdnSelector::MatchName(text) | FqdnSelector::MatchPattern(text)) = selector;
        let number = ids.local.get(&fqdn_key(selector))?;
        let identity = IdentityId(number.get());
        let labels = vec![
            Label::new("fqdn", text, ""),
            Label::new("reserved", "world", ""),
        ];
        self.add(identity, labels, PeerKind::Fqdn(selector.clone()));
        self.fqdn.insert(identity, selector.clone());
        moves.is_there(identity);
        self.names.entry(selector.clone()).or_default().number = Some(number);
        Ok(identity)
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

/// A label set as a key.
pub(super) fn joined(labels: &[Label]) -> String {
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

fn selectors_of(policy: &Policy) -> impl Iterator<Item = &PeerSelector> {
    let rules = policy.specs.iter().flat_map(|spec| &spec.rules);
    let placed = rules.flat_map(|rule| match &rule.peers {
        Peers::Any => &[][..],
        Peers::Of(selectors) => selectors,
    });
    placed.map(|(_, selector)| selector)
}

/// Every prefix a rule names, the excepted ones too: so that the longest match of any
/// address lies either inside or outside of every prefix of every rule.
fn prefixes_of(policy: &Policy) -> BTreeSet<IpNet> {
    selectors_of(policy)
        .filter_map(|selector| match selector {
            PeerSelector::Cidr { net, except } => Some((net, except)),
            _ => None,
        })
        .flat_map(|(net, except)| std::iter::once(net).chain(except))
        .filter(|net| net.prefix_len() > 0)
        .copied()
        .collect()
}

fn names_of(policy: &Policy) -> BTreeSet<FqdnSelector> {
    selectors_of(policy)
        .filter_map(|selector| match selector {
            PeerSelector::Fqdn(fqdn) => Some(fqdn.clone()),
            _ => None,
        })
        .collect()
}
