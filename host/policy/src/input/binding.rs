//! `PluginBinding`: a plugin that looks at traffic which policy allows.

use super::{
    Meta, Origin,
    cilium::{Selecting, at, read_selector},
    read_meta,
    reader::{Cursor, Fields},
};
use crate::{
    compiled::{Direction, FailMode, L7Protocol},
    labels::Selector,
    protocol,
    rule::At,
    yaml::Value,
};

/// A binding. It allows nothing by itself.
#[derive(Clone, Debug)]
pub struct PluginBinding {
    /// Name and origin.
    pub meta: Meta,
    /// Endpoints it applies to.
    pub subject: Selector,
    /// Direction, seen from the subject.
    pub direction: Direction,
    /// Peers it applies to; `None` means all.
    pub peers: Option<Vec<Selector>>,
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
}

impl PluginBinding {
    /// IANA protocols its ports belong to.
    pub fn transports(&self) -> &'static [u8] {
        match self.protocol {
            L7Protocol::Http => &[protocol::TCP],
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
    let meta = read_meta(root, &top, origin)?;
    let fields = top.required("spec")?.fields(&[
        "endpointSelector",
        "direction",
        "peers",
        "toPorts",
        "plugin",
        "config",
        "failMode",
        "protocol",
    ])?;
    let namespace = meta.namespace.as_deref();
    let subject = read_selector(
        fields.required("endpointSelector")?,
        Selecting::Subject(namespace),
    )?;
    let ports = fields.required("toPorts")?;
    let numbers: Option<Vec<u16>> = ports.items()?.iter().map(read_port).collect();
    let numbers = numbers?;
    if numbers.is_empty() {
        ports.error("needs at least one port", "");
        return None;
    }
    let plugin = fields.required("plugin")?;
    let fail_modes = [("open", FailMode::Open), ("closed", FailMode::Closed)];
    let protocols = [("http", L7Protocol::Http), ("dns", L7Protocol::Dns)];
    Some(PluginBinding {
        subject,
        direction: fields.required("direction")?.one_of(&[
            ("ingress", Direction::Ingress),
            ("egress", Direction::Egress),
        ])?,
        peers: read_peers(&fields, namespace)?,
        ports: numbers,
        plugin: plugin.word()?.to_owned(),
        plugin_at: at(plugin),
        config_at: at(fields.get("config").unwrap_or(plugin)),
        config: match fields.get("config") {
            Some(config) => config.node().to_json().to_string(),
            None => "{}".to_owned(),
        },
        fail_mode: match fields.get("failMode") {
            Some(mode) => mode.one_of(&fail_modes)?,
            None => FailMode::default(),
        },
        protocol: match fields.get("protocol") {
            Some(protocol) => protocol.one_of(&protocols)?,
            None => L7Protocol::Http,
        },
        meta,
    })
}

/// `peers`: label selectors. The outer `Option` is "could it be read", the inner one
/// "is there any".
#[expect(clippy::option_option, reason = "absent and unreadable are different")]
fn read_peers(fields: &Fields<'_>, namespace: Option<&str>) -> Option<Option<Vec<Selector>>> {
    let Some(peers) = fields.get("peers") else {
        return Some(None);
    };
    let selecting = Selecting::Peers {
        namespace,
        subject_is_init: false,
    };
    let items = peers.items()?;
    let read = items.iter().map(|item| read_selector(item, selecting));
    let selectors: Option<Vec<Selector>> = read.collect();
    Some(Some(selectors?))
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
