//! What properties say: Envoy's attributes, as far as this host knows them. What it does not
//! know is not found.
//!
//! <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/advanced/attributes>

use std::net::SocketAddr;

use crate::{Exchange, Fields};

/// What is known of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Client.
    pub source: SocketAddr,
    /// Where it meant to go.
    pub destination: SocketAddr,
}

/// What is known of one request beside its header fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The connection it came on.
    pub connection: Connection,
    /// `HTTP/1.1` and the like.
    pub protocol: &'static str,
    /// When it came, nanoseconds since 1970.
    pub time_ns: u64,
}

/// Of the binding: names a filter may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) plugin: String,
    pub(crate) root_id: String,
    pub(crate) vm_id: String,
}

/// Which way traffic of the listener goes, as Envoy numbers it: to workloads.
const INBOUND: i64 = 1;

/// The property at a path whose parts are divided by zeros; `None` if there is none.
pub(crate) fn property(path: &[u8], names: &Names, exchange: Option<&Exchange>) -> Option<Vec<u8>> {
    let mut parts = path.split(|byte| *byte == 0);
    let first = parts.next()?;
    let rest: Vec<&[u8]> = parts.filter(|part| !part.is_empty()).collect();
    let text = |text: &str| Some(text.as_bytes().to_vec());
    match (first, &rest[..]) {
        (b"plugin_name", []) => text(&names.plugin),
        (b"plugin_root_id", []) => text(&names.root_id),
        (b"plugin_vm_id", []) => text(&names.vm_id),
        (b"listener_direction", []) => Some(INBOUND.to_le_bytes().to_vec()),
        (b"request", path) => request(path, exchange?),
        (b"response", path) => response(path, exchange?),
        (b"source", [part]) => end(part, exchange?.attributes.connection.source),
        (b"destination", [part]) => end(part, exchange?.attributes.connection.destination),
        // Never with a client's certificate: TLS that ends here asks for none.
        (b"connection", [b"mtls"]) => exchange.map(|_| vec![0]),
        (own, []) => exchange?.properties.get(own).cloned(),
        _ => None,
    }
}

fn end(part: &[u8], address: SocketAddr) -> Option<Vec<u8>> {
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    match part {
        b"address" => Some(address.to_string().into_bytes()),
        b"port" => Some(i64::from(address.port()).to_le_bytes().to_vec()),
        _ => None,
    }
}

fn number(number: u64) -> Option<Vec<u8>> {
    Some(number.to_le_bytes().to_vec())
}

fn headers(fields: &Fields, rest: &[&[u8]]) -> Option<Vec<u8>> {
    match rest {
        [] => Some(fields.write()),
        // All values, as one.
        [name] => {
            let values: Vec<&[u8]> = fields.all(name).collect();
            (!values.is_empty()).then(|| values.join(&b","[..]))
        }
        _ => None,
    }
}

fn request(path: &[&[u8]], exchange: &Exchange) -> Option<Vec<u8>> {
    let fields = &exchange.request.fields;
    let field = |name: &[u8]| fields.get(name).map(<[u8]>::to_vec);
    let whole = || fields.get(b":path").unwrap_or_default();
    let cut = |path: &[u8]| path.iter().position(|byte| *byte == b'?');
    match path {
        [b"path"] => field(b":path"),
        [b"url_path"] => {
            let path = whole();
            Some(path[..cut(path).unwrap_or(path.len())].to_vec())
        }
        [b"query"] => {
            let path = whole();
            Some(cut(path).map_or_else(Vec::new, |at| path[at + 1..].to_vec()))
        }
        [b"host"] => field(b":authority"),
        [b"scheme"] => field(b":scheme"),
        [b"method"] => field(b":method"),
        [b"referer"] => field(b"referer"),
        [b"useragent"] => field(b"user-agent"),
        [b"id"] => field(b"x-request-id"),
        [b"protocol"] => Some(exchange.attributes.protocol.as_bytes().to_vec()),
        [b"time"] => number(exchange.attributes.time_ns),
        [b"size"] => number(exchange.request.size),
        [b"headers", rest @ ..] => headers(fields, rest),
        _ => None,
    }
}

fn response(path: &[&[u8]], exchange: &Exchange) -> Option<Vec<u8>> {
    let side = &exchange.response;
    let status = side.fields.get(b":status");
    match path {
        [b"code"] => {
            let code: u64 = std::str::from_utf8(status?).ok()?.parse().ok()?;
            number(code)
        }
        [b"size"] => number(side.size),
        [b"headers", rest @ ..] => headers(&side.fields, rest),
        [b"trailers", rest @ ..] => headers(&side.trailers, rest),
        _ => None,
    }
}
