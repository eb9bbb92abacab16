//! `Endpoint`: something policy applies to, and where it lives.

use super::{
    Heading, read_addr, read_label_map, read_meta, read_protocol,
    reader::{Cursor, Fields, all, optional},
};
use crate::{
    labels::{CLUSTER, Key, LOCAL_CLUSTER, Label, NAMESPACE},
    objects::{Endpoint, Meta, NamedPort},
    origin::At,
    protocol,
    terms::{BackendState, Location},
};

pub(super) fn read(root: &Cursor<'_>, heading: &Heading<'_>) -> Option<Endpoint> {
    let top = root.fields(&["apiVersion", "kind", "metadata", "spec"])?;
    let meta = read_meta(root, &top, heading);
    let spec = top.required("spec")?;
    let fields = spec.fields(&[
        "interface",
        "cgroup",
        "addresses",
        "ports",
        "fastLane",
        "state",
    ])?;
    let location = read_location(spec, &fields);
    let items = fields.items("addresses").unwrap_or_default();
    let addresses = all(items.iter().map(read_addr));
    let is_workload = matches!(location, Some((Location::Interface(_), _)));
    if items.is_empty() && is_workload {
        fields.get("addresses").unwrap_or(spec).error(
            "a workload needs the addresses it sends from",
            "list them in spec.addresses",
        );
    }
    let ports = fields.items("ports").unwrap_or_default();
    let ports = all(ports.iter().map(read_port));
    let fast_lane = optional(fields.get("fastLane"), false, Cursor::boolean);
    let state = optional(
        fields.get("state"),
        BackendState::default(),
        super::service::read_state,
    );
    let labels = read_labels(&top, meta.as_ref());
    let (location, location_at) = location?;
    Some(Endpoint {
        labels: labels?,
        meta: meta?,
        location,
        location_at,
        addresses: addresses?,
        addresses_at: items.iter().map(Cursor::at).collect(),
        ports: ports?,
        fast_lane: fast_lane?,
        state: state?,
    })
}

fn read_labels(top: &Fields<'_>, meta: Option<&Meta>) -> Option<Vec<Label>> {
    let mut labels = vec![Label::new("k8s", CLUSTER, LOCAL_CLUSTER)];
    if let Some(namespace) = meta.and_then(|meta| meta.namespace.as_ref()) {
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
            Some((Location::Interface(name.to_owned()), interface.at()))
        }
        (None, Some(cgroup)) => {
            let path = cgroup.word()?;
            if path.split('/').any(|part| part == "..") {
                cgroup.error("must not lead upwards", "");
                return None;
            }
            Some((Location::Cgroup(path.to_owned()), cgroup.at()))
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
    let name = fields.required("name").and_then(|name| {
        let text = name.word()?.to_ascii_lowercase();
        if let Err(reason) = super::cilium::check_port_name(&text) {
            name.error(reason, "");
            return None;
        }
        Some(text)
    });
    let port = fields.required("port").and_then(Cursor::port);
    let protocol = optional(fields.get("protocol"), protocol::TCP, read_protocol);
    Some(NamedPort {
        name: name?,
        port: port?,
        protocol: protocol?,
    })
}
