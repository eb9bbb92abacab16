//! `Service`: addresses and ports that stand for backends.

use std::net::IpAddr;

use super::{
    Meta, Origin, cilium, read_addr, read_meta, read_protocol,
    reader::{Cursor, Fields},
};
use crate::{
    compiled::{Algorithm, BackendState},
    labels::Selector,
    protocol,
    yaml::Value,
};

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Name and origin.
    pub meta: Meta,
    /// Frontend addresses.
    pub addresses: Vec<IpAddr>,
    /// Frontend ports.
    pub ports: Vec<ServicePort>,
    /// How a backend is chosen.
    pub algorithm: Algorithm,
    /// Backends given by address.
    pub backends: Vec<Backend>,
    /// Endpoints that are backends; their namespace is the service's.
    pub selector: Option<Selector>,
}

/// A frontend port.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// Name, if there is one.
    pub name: Option<String>,
    /// Frontend port.
    pub port: u16,
    /// Backend port.
    pub target: TargetPort,
    /// IANA protocol.
    pub protocol: u8,
    /// Line, from 1.
    pub line: u32,
}

/// Backend port of a frontend port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// This one.
    Number(u16),
    /// The one with this name at the endpoint.
    Name(String),
}

/// A backend given by address.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Address.
    pub address: IpAddr,
    /// Port, if it is not the target port.
    pub port: Option<u16>,
    /// Relative share of new connections; 0 means none.
    pub weight: u32,
    /// State.
    pub state: BackendState,
}

/// Most a backend may weigh; Maglev tables would not tell more apart.
pub(crate) const MAX_WEIGHT: u32 = 1_000;

pub(super) fn read(root: &Cursor<'_>, origin: &Origin<'_>) -> Option<Service> {
    let top = root.fields(&["apiVersion", "kind", "metadata", "spec"])?;
    let meta = read_meta(root, &top, origin)?;
    let spec = top.required("spec")?;
    let fields = spec.fields(&["addresses", "ports", "algorithm", "backends", "selector"])?;

    let addresses: Option<Vec<IpAddr>> = fields
        .required("addresses")?
        .items()?
        .iter()
        .map(read_addr)
        .collect();
    let port_items = fields.required("ports")?.items()?;
    let ports: Option<Vec<ServicePort>> = port_items.iter().map(read_port).collect();
    let (addresses, ports) = (addresses?, ports?);
    if addresses.is_empty() || ports.is_empty() {
        spec.error("needs at least one address and one port", "");
        return None;
    }
    if port_items.len() > 1 && ports.iter().any(|port| port.name.is_none()) {
        spec.error("each of several ports needs a name", "");
        return None;
    }
    let backend_items = fields.items("backends").unwrap_or_default();
    let backends: Option<Vec<Backend>> = backend_items.iter().map(read_backend).collect();
    Some(Service {
        selector: read_selector(&fields, &meta)?,
        meta,
        addresses,
        ports,
        algorithm: match fields.get("algorithm") {
            Some(algorithm) => {
                algorithm.one_of(&[("random", Algorithm::Random), ("maglev", Algorithm::Maglev)])?
            }
            None => Algorithm::default(),
        },
        backends: backends?,
    })
}

/// A service's selector is a plain map of labels, as in Kubernetes. The outer
/// `Option` is "could it be read", the inner one "is there any".
#[expect(clippy::option_option, reason = "absent and unreadable are different")]
fn read_selector(fields: &Fields<'_>, meta: &Meta) -> Option<Option<Selector>> {
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
    if let Some(namespace) = &meta.namespace {
        selector.require_namespace(namespace);
    }
    Some(Some(selector))
}

fn read_port(cursor: &Cursor<'_>) -> Option<ServicePort> {
    let fields = cursor.fields(&["name", "port", "targetPort", "protocol"])?;
    let port = fields.required("port")?.port()?;
    Some(ServicePort {
        name: match fields.get("name") {
            Some(name) => Some(name.word()?.to_owned()),
            None => None,
        },
        port,
        target: match fields.get("targetPort") {
            Some(target) => read_target(target)?,
            None => TargetPort::Number(port),
        },
        protocol: match fields.get("protocol") {
            Some(protocol) => read_protocol(protocol)?,
            None => protocol::TCP,
        },
        line: cursor.line(),
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
    Some(Backend {
        address: read_addr(fields.required("address")?)?,
        port: match fields.get("port") {
            Some(port) => Some(port.port()?),
            None => None,
        },
        weight: match fields.get("weight") {
            Some(weight) => weight.number(0, MAX_WEIGHT)?,
            None => 1,
        },
        state: match fields.get("state") {
            Some(state) => read_state(state)?,
            None => BackendState::default(),
        },
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
