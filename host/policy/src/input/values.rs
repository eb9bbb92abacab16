//! Values that documents of several kinds have: addresses, labels, protocols.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net};

use super::reader::{Cursor, all};
use crate::{label_syntax, labels::Key, yaml};

/// A prefix, or a bare address as a full-length one; host bits are cleared, and
/// v4-mapped IPv6 is IPv4.
pub(crate) fn parse_net(text: &str) -> Option<IpNet> {
    let net = match text.parse::<IpNet>() {
        Ok(net) => net.trunc(),
        Err(_) => IpNet::from(parse_addr(text)?),
    };
    Some(match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.network().to_ipv4_mapped() {
            Some(v4) => IpNet::V4(Ipv4Net::new(v4, v6.prefix_len() - 96).ok()?),
            None => net,
        },
        _ => net,
    })
}

/// An address; v4-mapped IPv6 is IPv4.
fn parse_addr(text: &str) -> Option<IpAddr> {
    Some(match text.parse::<IpAddr>().ok()? {
        IpAddr::V6(v6) => unmap(v6),
        v4 => v4,
    })
}

fn unmap(address: Ipv6Addr) -> IpAddr {
    address
        .to_ipv4_mapped()
        .map_or(IpAddr::V6(address), IpAddr::V4)
}

pub(super) fn read_addr(cursor: &Cursor<'_>) -> Option<IpAddr> {
    cursor.parsed("an IP address", parse_addr)
}

pub(super) fn read_net(cursor: &Cursor<'_>) -> Option<IpNet> {
    cursor.parsed("a prefix like 10.0.0.0/8", parse_net)
}

/// What a label key looks like, for people.
pub(super) const KEY_HINT: &str = "like `app`, `example.com/app` or `k8s:app`";

/// A selector's plain map of labels: keys, with or without a source, to values.
/// Everything that cannot be a label is reported.
pub(super) fn read_label_map(cursor: &Cursor<'_>) -> Option<Vec<(Key, String)>> {
    let entries = cursor.entries()?;
    all(entries.iter().map(|(key, at)| {
        let parsed = Key::parse(key).map_err(|reason| {
            at.error(
                format!("`{key}` is not the key of a label: {reason}"),
                KEY_HINT,
            );
        });
        let value = match at.node().value {
            yaml::Value::Null => Some(String::new()),
            _ => read_label_value(at),
        };
        Some((parsed.ok()?, value?))
    }))
}

/// The value of a label.
pub(super) fn read_label_value(cursor: &Cursor<'_>) -> Option<String> {
    let text = cursor.text()?;
    if let Err(reason) = label_syntax::check_value(text) {
        cursor.error(
            format!("not the value of a label: {reason}"),
            "values are compared whole; there are no wildcards",
        );
        return None;
    }
    Some(text.to_owned())
}

/// A plain map of words to words.
pub(super) fn read_string_map(cursor: &Cursor<'_>) -> Option<BTreeMap<String, String>> {
    let entries = cursor.entries()?;
    let read = entries.iter().map(|(key, value)| {
        let value = match value.node().value {
            yaml::Value::Null => "",
            _ => value.text()?,
        };
        Some((key.clone(), value.to_owned()))
    });
    Some(all(read)?.into_iter().collect())
}

/// `TCP`, `UDP` or `SCTP`, in any case.
pub(super) fn read_protocol(cursor: &Cursor<'_>) -> Option<u8> {
    let text = cursor.text()?.to_ascii_uppercase();
    match text.as_str() {
        "TCP" => Some(crate::protocol::TCP),
        "UDP" => Some(crate::protocol::UDP),
        "SCTP" => Some(crate::protocol::SCTP),
        _ => {
            cursor.error("no such protocol", "one of: TCP, UDP, SCTP");
            None
        }
    }
}
