//! `Endpoint`: something policy applies to, and where it lives.

use std::net::IpAddr;

use super::{
    Meta, Origin,
    cilium::at,
    read_addr, read_label_map, read_meta, read_protocol,
    reader::{Cursor, Fields},
};
use crate::{
    compiled::{BackendState, Location},
    labels::{CLUSTER, Key, LOCAL_CLUSTER, Label, NAMESPACE},
    protocol,
    rule::{At, PortNames},
};

/// A workload or a host service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Name and origin.
    pub meta: Meta,
    /// All labels, with those every endpoint has; sorted.
    pub labels: Vec<Label>,
    /// Where it lives.
    pub location: Location,
    /// Where that was written.
    pub location_at: At,
    /// Its addresses; a host service uses the node's.
    pub addresses: Vec<IpAddr>,
    /// Where each of them was written.
    pub addresses_at: Vec<At>,
    /// Ports that rules may name.
    pub ports: Vec<NamedPort>,
    /// First-byte hints and fast lane.
    pub fast_lane: bool,
    /// What services that select it may do with it.
    pub state: BackendState,
}

/// A port with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// Lower case.
    pub name: String,
    /// Number.
    pub port: u16,
    /// IANA protocol.
    pub protocol: u8,
}

impl Endpoint {
    /// Its addresses, each with the place it was written at.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, &At)> {
        self.addresses.iter().copied().zip(&self.addresses_at)
    }

    /// Its ports by name.
    pub fn port_names(&self) -> PortNames {
        let mut names = PortNames::new();
        for port in &self.ports {
            let numbers = names.entry(port.name.clone()).or_default();
            numbers.push((port.protocol, port.port));
        }
        names
    }
}

pub(super) fn read(root: &Cursor<'_>, origin: &Origin<'_>) -> Option<Endpoint> {
    let top = root.fields(&["apiVersion", "kind", "metadata", "spec"])?;
    let meta = read_meta(root, &top, origin)?;
    let fields = top.required("spec")?.fields(&[
        "interface",
        "cgroup",
        "addresses",
        "ports",
        "fastLane",
        "state",
    ])?;
    let (location, location_at) = read_location(top.get("spec")?, &fields)?;
    let items = fields.items("addresses").unwrap_or_default();
    let addresses: Option<Vec<IpAddr>> = items.iter().map(read_addr).collect();
    let addresses = addresses?;
    let addresses_at = items.iter().map(at).collect();
    if addresses.is_empty() && matches!(location, Location::Interface(_)) {
        root.error(
            "spec.addresses is empty",
            "a workload needs the addresses it sends from",
        );
        return None;
    }
    let ports: Option<Vec<NamedPort>> = fields
        .items("ports")
        .unwrap_or_default()
        .iter()
        .map(read_port)
        .collect();
    Some(Endpoint {
        labels: read_labels(&top, &meta)?,
        meta,
        location,
        location_at,
        addresses,
        addresses_at,
        ports: ports?,
        fast_lane: match fields.get("fastLane") {
            Some(switch) => switch.boolean()?,
            None => false,
        },
        state: match fields.get("state") {
            Some(state) => super::service::read_state(state)?,
            None => BackendState::default(),
        },
    })
}

fn read_labels(top: &Fields<'_>, meta: &Meta) -> Option<Vec<Label>> {
    let mut labels = vec![Label::new("k8s", CLUSTER, LOCAL_CLUSTER)];
    if let Some(namespace) = &meta.namespace {
        labels.push(Label::new("k8s", NAMESPACE, namespace));
    }
    let metadata = top.get("metadata")?.entries()?;
    if let Some((_, cursor)) = metadata.iter().find(|(key, _)| key == "labels") {
        let by_hand = |key: &Key| key.source.is_none() && !key.is_namespace() && !key.is_cluster();
        for (key, value) in read_label_map(cursor)? {
            if !by_hand(&key) {
                cursor.error(
                    format!("the label `{key}` cannot be set by hand"),
                    "plain keys like `app`; the namespace comes from metadata.namespace",
                );
                return None;
            }
            labels.push(Label::new("k8s", &key.key, &value));
        }
    }
    labels.sort();
    Some(labels)
}

fn read_location(spec: &Cursor<'_>, fields: &Fields<'_>) -> Option<(Location, At)> {
    /// Longest name of a network interface (`IFNAMSIZ` less the final zero byte).
    const MAX_INTERFACE: usize = 15;
    match (fields.get("interface"), fields.get("cgroup")) {
        (Some(interface), None) => {
            let name = interface.word()?;
            if name.len() > MAX_INTERFACE || name.contains(['/', ' ']) {
                interface.error("not the name of a network interface", "");
                return None;
            }
            Some((Location::Interface(name.to_owned()), at(interface)))
        }
        (None, Some(cgroup)) => {
            let path = cgroup.word()?;
            if path.split('/').any(|part| part == "..") {
                cgroup.error("must not lead upwards", "");
                return None;
            }
            Some((Location::Cgroup(path.to_owned()), at(cgroup)))
        }
        _ => {
            spec.error(
                "needs exactly one of `interface` and `cgroup`",
                "the host side of the workload's veth, or the path of a cgroup",
            );
            None
        }
    }
}

fn read_port(cursor: &Cursor<'_>) -> Option<NamedPort> {
    let fields = cursor.fields(&["name", "port", "protocol"])?;
    let name = fields.required("name")?;
    let text = name.word()?.to_ascii_lowercase();
    if let Err(reason) = super::cilium::check_port_name(&text) {
        name.error(reason, "");
        return None;
    }
    Some(NamedPort {
        name: text,
        port: fields.required("port")?.port()?,
        protocol: match fields.get("protocol") {
            Some(protocol) => read_protocol(protocol)?,
            None => protocol::TCP,
        },
    })
}
