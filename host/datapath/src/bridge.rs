//! Linux bridges whose ports are devices of ours. A bridge passes frames on between its
//! ports without the node's routing, so what needs the proxy is readdressed to the bridge
//! itself where it comes in, and the node's routing takes it as any other packet of ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use tidegate_ebpf_shared::bridge::BridgePort;

use super::netlink::Netlink;

/// A bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bridge {
    /// Its name.
    pub(super) name: String,
    /// Its own device.
    pub(super) index: u32,
    /// What its ports' entries in the table say.
    pub(super) port: BridgePort,
}

/// The bridges of this namespace, by the devices that are their ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bridges {
    by_port: BTreeMap<u32, Bridge>,
    /// Names of bridges by index, with ports or without.
    all: BTreeMap<u32, String>,
}

/// Names of the bridges in this network namespace. Asked of the kernel: `/sys` may have been
/// mounted in another one, and would show its devices.
pub fn bridges() -> io::Result<Vec<String>> {
    Ok(Bridges::now()?.names())
}

impl Bridges {
    /// Those there are now.
    pub(super) fn now() -> io::Result<Self> {
        Ok(Self::of(&Netlink::open()?.links()?))
    }

    /// Among what the kernel has listed.
    pub(super) fn of(links: &[LinkMessage]) -> Self {
        let bridges: BTreeMap<u32, Bridge> = links
            .iter()
            .filter_map(|link| Some((link.header.index, bridge(link)?)))
            .collect();
        let port = |link: &LinkMessage| {
            let above = link
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    LinkAttribute::Controller(index) => Some(*index),
                    _ => None,
                });
            Some((link.header.index, bridges.get(&above?)?.clone()))
        };
        Self {
            by_port: links.iter().filter_map(port).collect(),
            all: bridges
                .into_iter()
                .map(|(index, it)| (index, it.name))
                .collect(),
        }
    }

    /// Names of all bridges.
    pub(super) fn names(&self) -> Vec<String> {
        self.all.values().cloned().collect()
    }

    /// Indices of all bridges.
    pub(super) fn all(&self) -> BTreeSet<u32> {
        self.all.keys().copied().collect()
    }

    /// The bridge a device is a port of.
    pub(super) fn of_port(&self, index: u32) -> Option<&Bridge> {
        self.by_port.get(&index)
    }

    /// The ports of a bridge; none for any other device.
    pub(super) fn ports(&self, bridge: u32) -> impl Iterator<Item = u32> {
        let ports = self.by_port.iter();
        ports
            .filter(move |(_, above)| above.index == bridge)
            .map(|(port, _)| *port)
    }
}

fn bridge(link: &LinkMessage) -> Option<Bridge> {
    let (mut name, mut port, mut is_bridge) = (None, None, false);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) => port = bytes.as_slice().try_into().ok(),
            LinkAttribute::LinkInfo(facts) => {
                is_bridge = facts.contains(&LinkInfo::Kind(InfoKind::Bridge));
            }
            _ => {}
        }
    }
    Some(Bridge {
        name: name.filter(|_| is_bridge)?,
        index: link.header.index,
        port: BridgePort {
            address: port?,
            pad: [0; 2],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: Option<InfoKind>, above: Option<u32>) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, index as u8]),
        ];
        link.attributes.extend(above.map(LinkAttribute::Controller));
        link.attributes
            .extend(kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
        link
    }

    #[test]
    fn only_ports_of_bridges_are_found() {
        let bridges = Bridges::of(&[
            link(2, "br0", Some(InfoKind::Bridge), None),
            link(3, "web", Some(InfoKind::Veth), Some(2)),
            link(4, "eth0", None, Some(2)),
            link(5, "bond0", Some(InfoKind::Bond), None),
            link(6, "eth1", None, Some(5)),
        ]);
        let of = |port| bridges.of_port(port).map(|bridge| bridge.name.as_str());
        assert_eq!(
            [of(3), of(4), of(6), of(2)],
            [Some("br0"), Some("br0"), None, None]
        );
        let address = bridges.of_port(3).map(|bridge| bridge.port.address);
        assert_eq!(address, Some([2, 0, 0, 0, 0, 2]));
        assert_eq!(bridges.ports(2).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(bridges.ports(5).count(), 0);
    }
}
