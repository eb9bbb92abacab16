//! Everybody there is: identities, and the addresses that carry them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    compiled::{AddrIdentity, EndpointId, FqdnSelector, IdentityId},
    ids::{Exhausted, Ids},
    input::{Endpoint, Input},
    labels::Label,
    peer::{Peer, PeerKind, everything, reserved},
    problem::Problem,
    rule::{PeerSelector, Peers, Policy, PortNames},
};

/// Identities and addresses of one generation.
#[derive(Debug)]
pub(super) struct Universe {
    /// The wildcard first, then every identity once.
    pub(super) peers: Vec<Peer>,
    /// Longest-prefix-match table.
    pub(super) ipcache: BTreeMap<IpNet, AddrIdentity>,
    /// Selectors of names that only documents in shadow have.
    pub(super) in_shadow: BTreeSet<IdentityId>,
    /// Per endpoint of the input: its id and identity.
    pub(super) endpoints: Vec<(EndpointId, IdentityId)>,
}

/// Numbers everybody. Problems name the endpoint that cannot be placed.
pub(super) fn build(
    input: &Input,
    ids: &mut Ids,
    problems: &mut Vec<Problem>,
) -> Result<Universe, Exhausted> {
    let mut peers = vec![Peer {
        id: reserved::ANY,
        labels: Vec::new(),
        kind: PeerKind::Unknown,
        ports: PortNames::new(),
    }];
    for (name, id) in reserved::ALL {
        peers.push(Peer {
            id,
            labels: vec![Label::new("reserved", name, "")],
            kind: PeerKind::Reserved,
            ports: PortNames::new(),
        });
    }
    let mut ipcache = fixed_addresses(input);
    let endpoints = add_endpoints(input, ids, &mut peers, &mut ipcache, problems)?;
    for net in prefixes_of(input) {
        let id = ids.local.get(&format!("cidr:{net}"))?;
        let family = match net {
            IpNet::V4(_) => "world-ipv4",
            IpNet::V6(_) => "world-ipv6",
        };
        peers.push(Peer {
            id,
            labels: vec![
                Label::new("cidr", &net.to_string(), ""),
                Label::new("reserved", family, ""),
            ],
            kind: PeerKind::Cidr(net),
            ports: PortNames::new(),
        });
        // An endpoint's or node's own address stays what it is: prefixes are about outside.
        ipcache.entry(net).or_insert(AddrIdentity {
            identity: id,
            endpoint: None,
        });
    }
    let enforced = names_of(input.policies.iter().filter(|p| !p.meta.is_shadow()));
    let mut in_shadow = BTreeSet::new();
    for selector in names_of(&input.policies) {
        let text = match &selector {
            FqdnSelector::MatchName(name) | FqdnSelector::MatchPattern(name) => name,
        };
        let id = ids.local.get(&fqdn_key(&selector))?;
        if !enforced.contains(&selector) {
            in_shadow.insert(id);
        }
        peers.push(Peer {
            id,
            labels: vec![
                Label::new("fqdn", text, ""),
                Label::new("reserved", "world", ""),
            ],
            kind: PeerKind::Fqdn(selector),
            ports: PortNames::new(),
        });
    }
    Ok(Universe {
        peers,
        ipcache,
        in_shadow,
        endpoints,
    })
}

fn fqdn_key(selector: &FqdnSelector) -> String {
    match selector {
        FqdnSelector::MatchName(name) => format!("fqdn-name:{name}"),
        FqdnSelector::MatchPattern(pattern) => format!("fqdn-pattern:{pattern}"),
    }
}

/// Outside, loopback and the node's own addresses.
fn fixed_addresses(input: &Input) -> BTreeMap<IpNet, AddrIdentity> {
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
    for address in &input.node_addresses {
        ipcache.insert(IpNet::from(*address), of(reserved::HOST));
    }
    ipcache
}

fn loopback_v4() -> IpNet {
    IpNet::new_assert(IpAddr::from([127, 0, 0, 0]), 8)
}

fn add_endpoints(
    input: &Input,
    ids: &mut Ids,
    peers: &mut Vec<Peer>,
    ipcache: &mut BTreeMap<IpNet, AddrIdentity>,
    problems: &mut Vec<Problem>,
) -> Result<Vec<(EndpointId, IdentityId)>, Exhausted> {
    let mut index_of: BTreeMap<IdentityId, usize> = BTreeMap::new();
    let mut owners: BTreeMap<IpAddr, &Endpoint> = BTreeMap::new();
    let mut numbered = Vec::with_capacity(input.endpoints.len());
    for endpoint in &input.endpoints {
        let id = ids.endpoints.get(&endpoint.meta.full_name())?;
        let identity = ids.identities.get(&joined(&endpoint.labels))?;
        numbered.push((id, identity));
        let index = *index_of.entry(identity).or_insert_with(|| {
            peers.push(Peer {
                id: identity,
                labels: endpoint.labels.clone(),
                kind: PeerKind::Endpoint,
                ports: PortNames::new(),
            });
            peers.len() - 1
        });
        add_ports(&mut peers[index].ports, endpoint);
        for (address, at) in endpoint.addresses() {
            if let Some(owner) = owners.get(&address) {
                problems.push(endpoint.meta.problem(
                    at,
                    format!("{address} already belongs to {}", owner.meta.full_name()),
                    "an address belongs to one endpoint",
                ));
            } else {
                owners.insert(address, endpoint);
            }
            let info = AddrIdentity {
                identity,
                endpoint: Some(id),
            };
            ipcache.insert(IpNet::from(address), info);
        }
    }
    Ok(numbered)
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
fn prefixes_of(input: &Input) -> BTreeSet<IpNet> {
    selectors_of(&input.policies)
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
