//! `PluginBinding`: a plugin that looks at traffic which policy allows.

use super::{
    Heading,
    cilium::{Selecting, read_selector},
    read_meta,
    reader::{Cursor, Fields, all, optional},
};
use crate::{
    http_options::HttpOptions,
    l7::{FailMode, L7Protocol},
    labels::Selector,
    objects::PluginBinding,
    origin::At,
    terms::Direction,
    yaml::Value,
};

pub(super) fn read(root: &Cursor<'_>, heading: &Heading<'_>) -> Option<PluginBinding> {
    let top = root.fields(&["apiVersion", "kind", "metadata", "spec"])?;
    let meta = read_meta(root, &top, heading);
    let spec = top.required("spec")?;
    let fields = spec.fields(&[
        "endpointSelector",
        "direction",
        "peers",
        "toPorts",
        "plugin",
        "http",
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
    let plugin_at = fields.get("plugin");
    let plugin = optional(plugin_at, None, |at| at.word().map(Some));
    let http_at = fields.get("http");
    let http = optional(http_at, HttpOptions::default(), super::http_options::read);
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
    let consistent = is_consistent(spec, &fields, protocol);
    Some(PluginBinding {
        subject: subject?,
        subject_at: subject_at?.at(),
        direction: direction?,
        peers: peers?,
        ports: ports?,
        plugin: plugin?.map(str::to_owned),
        plugin_at: plugin_at.unwrap_or(spec).at(),
        http: http?,
        config_at: config.or(plugin_at).unwrap_or(spec).at(),
        config: match config {
            Some(config) => config.node().to_json().to_string(),
            None => "{}".to_owned(),
        },
        fail_mode: fail_mode?,
        protocol: protocol.filter(|_| consistent)?,
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

/// Does it say something, and nothing that is for what it does not name?
fn is_consistent(spec: &Cursor<'_>, fields: &Fields<'_>, protocol: Option<L7Protocol>) -> bool {
    let (plugin, http) = (fields.get("plugin"), fields.get("http"));
    if let Some(http) = http
        && protocol.is_some_and(|protocol| protocol != L7Protocol::Http)
    {
        http.error("is for `protocol: http` alone", "leave one of the two out");
        return false;
    }
    if plugin.is_some() {
        return true;
    }
    if http.is_none() {
        spec.error(
            "names neither `plugin` nor `http`, and so does nothing",
            "write one of them",
        );
        return false;
    }
    let of_plugins = ["config", "failMode"].map(|key| fields.get(key));
    for of_plugin in of_plugins.into_iter().flatten() {
        of_plugin.error(
            "is for a plugin, and there is none",
            "name it: `plugin: NAME`",
        );
    }
    of_plugins.iter().all(Option::is_none)
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
