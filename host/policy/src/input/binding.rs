//! `PluginBinding`: a plugin that looks at traffic which policy allows.

use super::{
    Meta, Origin,
    cilium::{Selecting, read_selector},
    read_meta,
    reader::{Cursor, Fields, all, optional},
};
use crate::{
    compiled::{Direction, FailMode, L7Protocol},
    labels::Selector,
    protocol,
    rule::At,
    yaml::Value,
};

/// A binding. It allows nothing by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginBinding {
    /// Name and origin.
    pub meta: Meta,
    /// Endpoints it applies to.
    pub subject: Selector,
    /// Where that was written.
    pub subject_at: At,
    /// Direction, seen from the subject.
    pub direction: Direction,
    /// Peers it applies to, each selector with its place; `None` means all.
    pub peers: Option<Vec<(At, Selector)>>,
    /// Destination ports it applies to.
    pub ports: Vec<u16>,
    /// Name of the plugin.
    pub plugin: String,
    /// Where that was written.
    pub plugin_at: At,
    /// Configuration, JSON text.
    pub config: String,
    /// Where that was written; the plugin's place if it was not.
    pub config_at: At,
    /// What happens when the plugin cannot decide.
    pub fail_mode: FailMode,
    /// How the stream is read.
    pub protocol: L7Protocol,
    /// Where that was written; if it was not, where it would have to be.
    pub protocol_at: At,
}

impl PluginBinding {
    /// IANA protocols its ports belong to.
    pub fn transports(&self) -> &'static [u8] {
        match self.protocol {
            L7Protocol::Http | L7Protocol::Stream => &[protocol::TCP],
            L7Protocol::Dns => &[protocol::TCP, protocol::UDP],
        }
    }

    /// Does it apply to this port?
    pub fn covers(&self, transport: u8, port: u16) -> bool {
        self.transports().contains(&transport) && self.ports.contains(&port)
    }
}

pub(super) fn read(root: &Cursor<'_>, origin: &Origin<'_>) -> Option<PluginBinding> {
    let top = root.fields(&["apiVersion", "kind", "metadata", "spec"])?;
    let meta = read_meta(root, &top, origin);
    let spec = top.required("spec")?;
    let fields = spec.fields(&[
        "endpointSelector",
        "direction",
        "peers",
        "toPorts",
        "plugin",
        "config",
        "failMode",
        "protocol",
    ])?;
    let namespace = meta.as_ref().and_then(|meta| meta.namespace.as_deref());
    let subject_at = fields.required("endpointSelector");
    let subject = subject_at.and_then(|at| read_selector(at, Selecting::Subject(namespace)));
    let direction = fields.required("direction").and_then(|direction| {
        direction.one_of(&[
            ("ingress", Direction::Ingress),
            ("egress", Direction::Egress),
        ])
    });
    let peers = read_peers(&fields, namespace);
    let ports = fields.required("toPorts").and_then(read_ports);
    let plugin_at = fields.required("plugin");
    let plugin = plugin_at.and_then(Cursor::word);
    let config = fields.get("config");
    let fail_modes = [("open", FailMode::Open), ("closed", FailMode::Closed)];
    let protocols = [L7Protocol::Http, L7Protocol::Dns, L7Protocol::Stream]
        .map(|protocol| (protocol.name(), protocol));
    let fail_mode = optional(fields.get("failMode"), FailMode::default(), |mode| {
        mode.one_of(&fail_modes)
    });
    let protocol_at = fields.get("protocol");
    let protocol = optional(protocol_at, L7Protocol::Http, |protocol| {
        protocol.one_of(&protocols)
    });
    Some(PluginBinding {
        subject: subject?,
        subject_at: subject_at?.at(),
        direction: direction?,
        peers: peers?,
        ports: ports?,
        plugin: plugin?.to_owned(),
        plugin_at: plugin_at?.at(),
        config_at: config.or(plugin_at)?.at(),
        config: match config {
            Some(config) => config.node().to_json().to_string(),
            None => "{}".to_owned(),
        },
        fail_mode: fail_mode?,
        protocol: protocol?,
        protocol_at: match protocol_at {
            Some(protocol) => protocol.at(),
            None => At {
                path: "spec.protocol".to_owned(),
                ..spec.at()
            },
        },
        meta: meta?,
    })
}

fn read_ports(cursor: &Cursor<'_>) -> Option<Vec<u16>> {
    let items = cursor.items()?;
    if items.is_empty() {
        cursor.error("needs at least one port", "");
        return None;
    }
    all(items.iter().map(read_port))
}

/// `peers`: label selectors. The outer `Option` is "could it be read", the inner one
/// "is there any".
#[expect(clippy::option_option, reason = "absent and unreadable are different")]
fn read_peers(fields: &Fields<'_>, namespace: Option<&str>) -> Option<Option<Vec<(At, Selector)>>> {
    let Some(peers) = fields.get("peers") else {
        return Some(None);
    };
    let selecting = Selecting::Peers {
        namespace,
        subject_is_init: false,
    };
    let items = peers.items()?;
    let read = items
        .iter()
        .map(|item| Some((item.at(), read_selector(item, selecting)?)));
    Some(Some(all(read)?))
}

/// A port number, with or without quotes.
fn read_port(cursor: &Cursor<'_>) -> Option<u16> {
    match &cursor.node().value {
        Value::Text(_) => cursor.parsed("a port number from 1 to 65535", |text| {
            text.parse().ok().filter(|port| *port != 0)
        }),
        _ => cursor.port(),
    }
}
