//! `toPorts` and `icmps`: the L4 part of a rule.

use super::{
    super::reader::{Cursor, Fields, all, optional},
    l7, tls,
};
use crate::{
    protocol,
    rule::{L7Rules, PortRange, PortRule, Ports},
    terms::Direction,
    yaml::Value,
};

/// Most ports in one item of `toPorts`, and fields in one item of `icmps`.
const MAX_ITEMS: usize = 40;
/// Longest port name (RFC 6335, §5.1).
const MAX_PORT_NAME: usize = 15;

/// Reads one item of `toPorts`. One without ports covers nothing.
pub(super) fn read(
    cursor: &Cursor<'_>,
    (direction, deny): (Direction, bool),
    namespace: Option<&str>,
) -> Option<PortRule> {
    let fields = cursor.fields(&[
        "ports",
        "rules",
        "serverNames",
        "terminatingTLS",
        "originatingTLS",
        "listener",
    ])?;
    fields.unsupported(&[("listener", "there are no Envoy listeners")]);
    let items = fields.items("ports").unwrap_or_default();
    check_count(cursor, items.len());
    let ports = all(items.iter().map(read_port));
    let l7 = optional(fields.get("rules"), None, |rules| {
        if deny {
            rules.error(
                "deny rules cannot have L7 rules",
                "deny the port as a whole",
            );
            return None;
        }
        l7::read(rules, direction)
    });
    let names = optional(fields.get("serverNames"), None, |names| {
        tls::read_server_names(names, deny)
    });
    let contexts = tls::read_contexts(&fields, deny, namespace);
    let (mut ports, l7, names, contexts) = (ports?, l7?, names?, contexts?);
    let (l7, tls) = match (l7, names) {
        (l7, names) if !contexts.is_nothing() => {
            (l7, tls::both_ends(cursor, &fields, contexts, names)?)
        }
        (Some(_), Some(_)) => {
            cursor.error(
                "L7 rules beside `serverNames` would have to read what is encrypted",
                "take one of them out, or write `terminatingTLS` beside them",
            );
            return None;
        }
        (l7, names) => (l7.or(names.map(L7Rules::ServerNames)), None),
    };
    let written = match &l7 {
        Some(L7Rules::ServerNames(_)) => fields.get("serverNames"),
        _ => fields.get("rules"),
    };
    if let (Some(rules), Some(kind)) = (written, &l7) {
        check_l7(rules, &fields, kind, &mut ports)?;
    }
    if tls.is_some() {
        tls::check_inside(cursor, &fields, l7.as_ref(), &ports)?;
    }
    Some(PortRule {
        at: cursor.at(),
        ports,
        l7,
        tls,
    })
}

fn check_count(cursor: &Cursor<'_>, items: usize) {
    if items > MAX_ITEMS {
        cursor.error(
            format!("{items} entries; at most {MAX_ITEMS} are possible"),
            "spread them over several items",
        );
    }
}

/// What L7 rules ask of the ports beside them.
fn check_l7(
    rules: &Cursor<'_>,
    fields: &Fields<'_>,
    kind: &L7Rules,
    ports: &mut [Ports],
) -> Option<()> {
    let items = fields.items("ports").unwrap_or_default();
    let is_dns = matches!(kind, L7Rules::Dns(_));
    for (item, port) in items.iter().zip(ports.iter_mut()) {
        if port.range == PortRange::All {
            item.error("L7 rules need a port other than 0", "");
            return None;
        }
        if is_dns {
            if matches!(port.range, PortRange::Numbers(first, last) if first != last) {
                item.error("DNS rules cannot cover a range of ports", "list the ports");
                return None;
            }
            // DNS does not run over SCTP, which `ANY` would include.
            port.protocols
                .retain(|p| [protocol::TCP, protocol::UDP].contains(p));
            if port.protocols.is_empty() {
                item.error("DNS rules apply to TCP, UDP or ANY", "");
                return None;
            }
        } else if port.protocols != [protocol::TCP] {
            match kind {
                L7Rules::ServerNames(_) => item.error(
                    "`serverNames` apply to TCP only: over UDP nobody could read them",
                    "write protocol: TCP",
                ),
                _ => item.error(
                    "L7 rules other than DNS apply to TCP only",
                    "write protocol: TCP",
                ),
            }
            return None;
        }
    }
    if items.is_empty() {
        rules.error("L7 rules need `ports` beside them", "");
        return None;
    }
    Some(())
}

fn read_port(cursor: &Cursor<'_>) -> Option<Ports> {
    let fields = cursor.fields(&["port", "endPort", "protocol"])?;
    let protocols = optional(
        fields.get("protocol"),
        protocol::ANY.to_vec(),
        read_protocols,
    );
    let port = fields.required("port")?;
    let range = read_range(port, fields.get("endPort"));
    Some(Ports {
        at: port.at(),
        protocols: protocols?,
        range: range?,
    })
}

fn read_range(port: &Cursor<'_>, end: Option<&Cursor<'_>>) -> Option<PortRange> {
    let text = port.text()?;
    Some(match check_port_name(text) {
        Ok(()) => PortRange::Named(text.to_ascii_lowercase()),
        Err(reason) => match parse_number(text) {
            Some(0) => PortRange::All,
            Some(first) => {
                let last = match end {
                    Some(end) => end
                        .number(0, u16::MAX.into())
                        .and_then(|n| u16::try_from(n).ok())?,
                    None => first,
                };
                if text.len() > 1 && text.starts_with('0') {
                    port.warn(
                        format!("begins with 0 and so is octal, as Cilium reads it: port {first}"),
                        "write the number without a leading 0",
                    );
                }
                // An end below the start means the start alone.
                PortRange::Numbers(first, last.max(first))
            }
            None => {
                port.error(reason, "a number from 0 to 65535, or the name of a port");
                return None;
            }
        },
    })
}

fn read_protocols(cursor: &Cursor<'_>) -> Option<Vec<u8>> {
    let text = cursor.text()?.to_ascii_uppercase();
    match text.as_str() {
        "TCP" => Some(vec![protocol::TCP]),
        "UDP" => Some(vec![protocol::UDP]),
        "SCTP" => Some(vec![protocol::SCTP]),
        "ANY" | "" => Some(protocol::ANY.to_vec()),
        "ICMP" | "ICMPV6" => {
            cursor.error("ICMP has no ports", "use `icmps` instead of `toPorts`");
            None
        }
        _ => {
            cursor.error("no such protocol", "one of: TCP, UDP, SCTP, ANY");
            None
        }
    }
}

/// A port number as Cilium reads it: Go's literals, of which those with a letter are
/// names. A leading 0 means octal; `_` may stand between digits.
fn parse_number(text: &str) -> Option<u16> {
    let mut digits = text.split('_').peekable();
    digits.peek().filter(|first| !first.is_empty())?;
    if !digits.all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    let digits = text.replace('_', "");
    match digits.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => u16::from_str_radix(octal, 8).ok(),
        _ => digits.parse().ok(),
    }
}

/// Is it a port name (RFC 6335, §5.1)? Kubernetes asks the same of the names of
/// container ports, in lower case.
pub(crate) fn check_port_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > MAX_PORT_NAME {
        Err("neither a port number nor a port name")
    } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        Err("a port name has letters, digits and `-` only")
    } else if !name.bytes().any(|b| b.is_ascii_alphabetic()) {
        Err("not a port number, and a port name has at least one letter")
    } else if name.split('-').any(str::is_empty) {
        Err("a port name has single `-`, and none at its ends")
    } else {
        Ok(())
    }
}

/// Reads one item of `icmps`.
pub(super) fn read_icmp(cursor: &Cursor<'_>) -> Option<PortRule> {
    let fields = cursor.fields(&["fields"])?;
    let items = fields.items("fields").unwrap_or_default();
    check_count(cursor, items.len());
    let ports = all(items.iter().map(read_icmp_field));
    Some(PortRule {
        at: cursor.at(),
        ports: ports?,
        l7: None,
        tls: None,
    })
}

fn read_icmp_field(cursor: &Cursor<'_>) -> Option<Ports> {
    let fields = cursor.fields(&["family", "type"])?;
    let ipv6 = optional(fields.get("family"), false, |family| {
        family.one_of(&[("IPv4", false), ("IPv6", true)])
    });
    let ty = fields.required("type")?;
    let number = match &ty.node().value {
        // Named types, and numbers in quotes, are accepted like numbers.
        Value::Text(text) => text
            .parse()
            .ok()
            .or_else(|| protocol::icmp_type(text, ipv6?)),
        Value::Int(number) => u8::try_from(*number).ok(),
        _ => None,
    };
    if number.is_none() && ipv6.is_some() {
        ty.error(
            "no such ICMP type",
            "a number from 0 to 255, or a name like EchoRequest",
        );
    }
    Some(Ports::icmp(ty.at(), ipv6?, number?))
}
