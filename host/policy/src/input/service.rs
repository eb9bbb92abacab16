//! `Service`: addresses and ports that stand for backends.

use super::{
    Heading, cilium, read_addr, read_meta, read_protocol,
    reader::{Cursor, Fields, all, optional},
};
use crate::{
    labels::Selector,
    objects::{Backend, MAX_WEIGHT, Service, ServicePort, TargetPort},
    protocol,
    terms::{Algorithm, BackendState},
    yaml::Value,
};

pub(super) fn read(root: &Cursor<'_>, heading: &Heading<'_>) -> Option<Service> {
    let top = root.fields(&["apiVersion", "kind", "metadata", "spec"])?;
    let meta = read_meta(root, &top, heading);
    let spec = top.required("spec")?;
    let fields = spec.fields(&["addresses", "ports", "algorithm", "backends", "selector"])?;

    let addresses = read_some(&fields, "addresses", |item| {
        Some((item.at(), read_addr(item)?))
    });
    let ports = read_some(&fields, "ports", read_port);
    if let (Some(ports), Some(cursor)) = (&ports, fields.get("ports"))
        && ports.len() > 1
        && ports.iter().any(|port| port.name.is_none())
    {
        cursor.error("each of several ports needs a name", "");
    }
    let backends = fields.items("backends").unwrap_or_default();
    let backends = all(backends.iter().map(read_backend));
    let algorithm = optional(fields.get("algorithm"), Algorithm::default(), |cursor| {
        cursor.one_of(&[("random", Algorithm::Random), ("maglev", Algorithm::Maglev)])
    });
    let namespace = meta.as_ref().and_then(|meta| meta.namespace.as_deref());
    let selector = read_selector(&fields, namespace);
    let backends_at = fields.get("selector").or_else(|| fields.get("backends"));
    Some(Service {
        backends_at: backends_at.unwrap_or(root).at(),
        selector: selector?,
        meta: meta?,
        addresses: addresses?,
        ports: ports?,
        algorithm: algorithm?,
        backends: backends?,
    })
}

/// A list that must be there and not be empty.
fn read_some<T>(
    fields: &Fields<'_>,
    key: &str,
    read: impl Fn(&Cursor<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let cursor = fields.required(key)?;
    let items = cursor.items()?;
    if items.is_empty() {
        cursor.error("must not be empty", "");
        return None;
    }
    all(items.iter().map(read))
}

/// A service's selector is a plain map of labels, as in Kubernetes. The outer
/// `Option` is "could it be read", the inner one "is there any".
#[expect(clippy::option_option, reason = "absent and unreadable are different")]
fn read_selector(fields: &Fields<'_>, namespace: Option<&str>) -> Option<Option<Selector>> {
    let Some(cursor) = fields.get("selector") else {
        return Some(None);
    };
    if fields.get("backends").is_some() {
        cursor.error("cannot stand beside `backends`", "one or the other");
        return None;
    }
    let mut selector = Selector::default();
    for (key, value) in super::read_label_map(cursor)? {
        let requirement = crate::labels::Requirement::equals(key, &value);
        selector.requirements.push(requirement);
    }
    if let Some(namespace) = namespace {
        selector.require_namespace(namespace);
    }
    Some(Some(selector))
}

fn read_port(cursor: &Cursor<'_>) -> Option<ServicePort> {
    let fields = cursor.fields(&["name", "port", "targetPort", "protocol"])?;
    let port_at = fields.required("port");
    let port = port_at.and_then(Cursor::port);
    let name = optional(fields.get("name"), None, |name| Some(Some(name.word()?)));
    let target_at = fields.get("targetPort");
    let target = match target_at {
        Some(target) => read_target(target),
        None => port.map(TargetPort::Number),
    };
    let protocol = optional(fields.get("protocol"), protocol::TCP, read_protocol);
    Some(ServicePort {
        name: name?.map(str::to_owned),
        port: port?,
        port_at: port_at?.at(),
        target: target?,
        target_at: target_at.or(port_at)?.at(),
        protocol: protocol?,
    })
}

fn read_target(cursor: &Cursor<'_>) -> Option<TargetPort> {
    let Value::Text(text) = &cursor.node().value else {
        return cursor.port().map(TargetPort::Number);
    };
    let name = text.to_ascii_lowercase();
    if let Err(reason) = cilium::check_port_name(&name) {
        cursor.error(reason, "a number from 1 to 65535, or the name of a port");
        return None;
    }
    Some(TargetPort::Name(name))
}

fn read_backend(cursor: &Cursor<'_>) -> Option<Backend> {
    let fields = cursor.fields(&["address", "port", "weight", "state"])?;
    let address = fields.required("address").and_then(read_addr);
    let port = optional(fields.get("port"), None, |port| Some(Some(port.port()?)));
    let weight = optional(fields.get("weight"), 1, |weight| {
        weight.number(0, MAX_WEIGHT)
    });
    let state = optional(fields.get("state"), BackendState::default(), read_state);
    Some(Backend {
        at: cursor.at(),
        address: address?,
        port: port?,
        weight: weight?,
        state: state?,
    })
}

/// The state of a backend, or of an endpoint that services may choose.
pub(super) fn read_state(cursor: &Cursor<'_>) -> Option<BackendState> {
    cursor.one_of(&[
        ("active", BackendState::Active),
        ("terminating", BackendState::Terminating),
        ("quarantined", BackendState::Quarantined),
        ("maintenance", BackendState::Maintenance),
    ])
}
