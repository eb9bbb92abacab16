//! Peers by identity: what a row of a policy table is about.

use ipnet::IpNet;

use crate::{
    l7::FqdnSelector,
    labels::Label,
    rule::{Entity, PeerSelector, Peers, PortNames},
    terms::IdentityId,
};

/// Reserved identities, Cilium's numbers.
pub(crate) mod reserved {
    use crate::terms::IdentityId;

    pub(crate) const ANY: IdentityId = IdentityId(0);
    pub(crate) const HOST: IdentityId = IdentityId(1);
    pub(crate) const WORLD: IdentityId = IdentityId(2);
    pub(crate) const UNMANAGED: IdentityId = IdentityId(3);
    pub(crate) const HEALTH: IdentityId = IdentityId(4);
    pub(crate) const INIT: IdentityId = IdentityId(5);
    pub(crate) const REMOTE_NODE: IdentityId = IdentityId(6);
    pub(crate) const KUBE_APISERVER: IdentityId = IdentityId(7);
    pub(crate) const INGRESS: IdentityId = IdentityId(8);
    pub(crate) const WORLD_IPV4: IdentityId = IdentityId(9);
    pub(crate) const WORLD_IPV6: IdentityId = IdentityId(10);

    /// First of the node's own numbers: prefixes and names.
    const LOCAL_SCOPE: IdentityId = IdentityId(1 << 24);

    /// Is it an identity of addresses outside?
    pub(crate) fn is_outside(identity: IdentityId) -> bool {
        matches!(identity, WORLD | WORLD_IPV4 | WORLD_IPV6) || identity >= LOCAL_SCOPE
    }

    /// All of them that packets can carry, by label.
    pub(crate) const ALL: [(&str, IdentityId); 10] = [
        ("host", HOST),
        ("world", WORLD),
        ("unmanaged", UNMANAGED),
        ("health", HEALTH),
        ("init", INIT),
        ("remote-node", REMOTE_NODE),
        ("kube-apiserver", KUBE_APISERVER),
        ("ingress", INGRESS),
        ("world-ipv4", WORLD_IPV4),
        ("world-ipv6", WORLD_IPV6),
    ];
}

/// An identity and what rules can know about it.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) id: IdentityId,
    pub(crate) labels: Vec<Label>,
    pub(crate) kind: PeerKind,
    /// Named ports of the endpoints with this identity.
    pub(crate) ports: PortNames,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PeerKind {
    /// The wildcard row: somebody nothing is known about.
    Unknown,
    /// One of [`reserved::ALL`].
    Reserved,
    /// A label set.
    Endpoint,
    /// Addresses outside whose longest prefix named by a rule is this one.
    Cidr(IpNet),
    /// Addresses a selector's names resolved to.
    Fqdn(FqdnSelector),
}

impl Peer {
    /// The prefix all its addresses lie in, if it is outside.
    fn net(&self) -> Option<IpNet> {
        match (&self.kind, self.id) {
            (PeerKind::Cidr(net), _) => Some(*net),
            (PeerKind::Reserved, reserved::WORLD_IPV4) => Some(everything(false)),
            (PeerKind::Reserved, reserved::WORLD_IPV6) => Some(everything(true)),
            _ => None,
        }
    }

    fn is(&self, entity: Entity) -> bool {
        let id = match self.kind {
            PeerKind::Reserved => self.id,
            _ => reserved::ANY,
        };
        match entity {
            Entity::Host => id == reserved::HOST,
            Entity::RemoteNode => id == reserved::REMOTE_NODE,
            Entity::Init => id == reserved::INIT,
            Entity::Ingress => id == reserved::INGRESS,
            Entity::Health => id == reserved::HEALTH,
            Entity::Unmanaged => id == reserved::UNMANAGED,
            Entity::KubeApiserver => id == reserved::KUBE_APISERVER,
            Entity::WorldIpv4 => matches!(self.net(), Some(IpNet::V4(_))),
            Entity::WorldIpv6 => matches!(self.net(), Some(IpNet::V6(_))),
            Entity::World => {
                id == reserved::WORLD
                    || self.net().is_some()
                    || matches!(self.kind, PeerKind::Fqdn(_))
            }
            Entity::Cluster => match self.kind {
                PeerKind::Endpoint => true,
                PeerKind::Reserved => !self.is(Entity::World),
                _ => false,
            },
        }
    }

    /// Does the selector select this peer?
    fn selected_by(&self, selector: &PeerSelector) -> bool {
        match selector {
            // Nothing is known of the wildcard row's labels, so none can match, not
            // even the absence of one.
            PeerSelector::Labels(_) if self.kind == PeerKind::Unknown => false,
            PeerSelector::Labels(selector) => selector.matches(&self.labels),
            PeerSelector::Entity(entity) => self.is(*entity),
            PeerSelector::Cidr { net, except } => self.net().is_some_and(|own| {
                net.contains(&own) && !except.iter().any(|hole| hole.contains(&own))
            }),
            PeerSelector::Fqdn(fqdn) => self.kind == PeerKind::Fqdn(fqdn.clone()),
        }
    }

    /// Is it among the peers of a rule?
    pub(crate) fn is_among(&self, peers: &Peers) -> bool {
        match peers {
            Peers::Any => true,
            Peers::Of(selectors) => selectors.iter().any(|(_, s)| self.selected_by(s)),
        }
    }
}

/// `0.0.0.0/0` or `::/0`.
pub(crate) fn everything(ipv6: bool) -> IpNet {
    if ipv6 {
        IpNet::V6(ipnet::Ipv6Net::default())
    } else {
        IpNet::V4(ipnet::Ipv4Net::default())
    }
}
