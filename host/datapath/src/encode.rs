//! From the compiler's words to the kernel's: addresses, prefixes, policy rows.
//! Pure; every format that has a byte order is written here and nowhere else.

use std::net::IpAddr;

use ipnet::IpNet;
use tidegate_ebpf_shared::{
    addr::{Addr, AddrPrefix},
    policy::{PolicyEntry, PolicyKey, direction, verdict},
};
use tidegate_policy::compiled::{Direction, PolicyRow, PortMatch, Verdict};

/// An address of either family as the kernel's tables carry it.
pub(super) fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr(v6.octets()),
    }
}

/// The address behind an [`Addr`]; v4-mapped ones are IPv4.
pub(super) fn ip(addr: Addr) -> IpAddr {
    match addr.as_v4() {
        Some(octets) => IpAddr::from(octets),
        None => IpAddr::from(addr.0),
    }
}

/// A prefix as a trie key. Bits behind the prefix are zero, so equal prefixes are
/// equal keys.
pub(super) fn prefix(net: IpNet) -> AddrPrefix {
    let family_bits = match net {
        IpNet::V4(_) => Addr::V4_PREFIX_BITS,
        IpNet::V6(_) => 0,
    };
    AddrPrefix {
        prefix_len: family_bits + u32::from(net.prefix_len()),
        addr: addr(net.network()),
    }
}

/// The prefix of a trie key, for people. Keys shorter than the v4-mapped prefix
/// are IPv6.
pub(super) fn net(key: AddrPrefix) -> Option<IpNet> {
    let (ip, bits) = match key.addr.as_v4() {
        Some(octets) if key.prefix_len >= Addr::V4_PREFIX_BITS => {
            (IpAddr::from(octets), key.prefix_len - Addr::V4_PREFIX_BITS)
        }
        _ => (IpAddr::from(key.addr.0), key.prefix_len),
    };
    IpNet::new(ip, u8::try_from(bits).ok()?).ok()
}

/// A key of the trie lookup for one address.
pub(super) fn host_prefix(addr: Addr) -> AddrPrefix {
    AddrPrefix {
        prefix_len: 128,
        addr,
    }
}

/// One policy row in the table of policy `policy_id`.
pub(super) fn policy_row(policy_id: u32, row: &PolicyRow) -> (PolicyKey, PolicyEntry) {
    let (prefix_len, protocol, port) = match row.ports {
        PortMatch::Any => (PolicyKey::ROW, 0, 0),
        PortMatch::Protocol(protocol) => (PolicyKey::PROTOCOL, protocol, 0),
        PortMatch::Ports {
            protocol,
            port,
            bits,
        } => {
            let bits = bits.min(16);
            let mask = u16::MAX.checked_shl(16 - u32::from(bits)).unwrap_or(0);
            (PolicyKey::PROTOCOL + u32::from(bits), protocol, port & mask)
        }
    };
    let verdict = self::verdict(row.decision.verdict);
    (
        PolicyKey {
            prefix_len,
            policy_id: policy_id.to_be_bytes(),
            identity: row.identity.get().to_be_bytes(),
            direction: direction(row.direction),
            protocol,
            port: port.to_be_bytes(),
        },
        PolicyEntry {
            rule: row.decision.rule.get(),
            l7: if verdict == verdict::REDIRECT {
                row.decision.l7.get()
            } else {
                0
            },
            shadow_rule: row.decision.shadow.map_or(0, |shadow| shadow.rule.get()),
            verdict,
            shadow_verdict: self::verdict(row.decision.rehearsed().verdict),
            pad: [0; 2],
        },
    )
}

/// What of protocol and port a table key covers.
pub(super) fn port_match(key: &PolicyKey) -> PortMatch {
    match key.prefix_len.saturating_sub(PolicyKey::PROTOCOL) {
        _ if key.prefix_len < PolicyKey::PROTOCOL => PortMatch::Any,
        0 => PortMatch::Protocol(key.protocol),
        bits => PortMatch::Ports {
            protocol: key.protocol,
            port: u16::from_be_bytes(key.port),
            bits: bits.min(16) as u8,
        },
    }
}

fn direction(direction: Direction) -> u8 {
    match direction {
        Direction::Ingress => direction::INGRESS,
        Direction::Egress => direction::EGRESS,
    }
}

fn verdict(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::DefaultDeny => verdict::DEFAULT_DENY,
        Verdict::Allow => verdict::ALLOW,
        Verdict::Redirect => verdict::REDIRECT,
        Verdict::Deny => verdict::DENY,
    }
}

#[cfg(test)]
mod tests {
    use tidegate_policy::compiled::{Decision, Rehearsed};
    use tidegate_policy::compiled::{IdentityId, L7Id, RuleId};

    use super::*;

    #[test]
    fn prefixes_survive_the_round_trip() {
        for text in [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "192.0.2.1/32",
            "::/0",
            "2001:db8::/32",
            "2001:db8::1/128",
        ] {
            let given: IpNet = text.parse().unwrap();
            assert_eq!(net(prefix(given)), Some(given), "{text}");
        }
    }

    #[test]
    fn host_bits_of_a_prefix_are_cleared() {
        let sloppy: IpNet = "10.1.2.3/8".parse().unwrap();
        let clean: IpNet = "10.0.0.0/8".parse().unwrap();
        assert_eq!(prefix(sloppy), prefix(clean));
    }

    #[test]
    fn port_matches_become_prefixes() {
        let check = |ports, expected: (u32, u8, [u8; 2])| {
            let row = PolicyRow {
                identity: IdentityId(0x0102_0304),
                direction: Direction::Egress,
                ports,
                decision: Decision {
                    verdict: Verdict::Allow,
                    rule: RuleId(7),
                    l7: L7Id(9),
                    shadow: None,
                },
            };
            let (key, entry) = policy_row(5, &row);
            assert_eq!((key.prefix_len, key.protocol, key.port), expected);
            assert_eq!(key.policy_id, [0, 0, 0, 5]);
            assert_eq!(key.identity, [1, 2, 3, 4]);
            assert_eq!((entry.rule, entry.l7), (7, 0), "l7 only with redirect");
            let shadow = (entry.shadow_verdict, entry.shadow_rule);
            assert_eq!(shadow, (verdict::ALLOW, 0), "the same");
            assert_eq!(
                policy_row(
                    5,
                    &PolicyRow {
                        ports: port_match(&key),
                        ..row
                    }
                )
                .0,
                key
            );
        };
        let rehearsed = Rehearsed {
            verdict: Verdict::Deny,
            rule: RuleId(8),
            l7: L7Id(0),
        };
        let row = PolicyRow {
            identity: IdentityId(0),
            direction: Direction::Ingress,
            ports: PortMatch::Any,
            decision: Decision {
                verdict: Verdict::Allow,
                rule: RuleId(7),
                l7: L7Id(0),
                shadow: Some(rehearsed),
            },
        };
        let (_, entry) = policy_row(5, &row);
        assert_eq!((entry.verdict, entry.rule), (verdict::ALLOW, 7));
        let shadow = (entry.shadow_verdict, entry.shadow_rule);
        assert_eq!(shadow, (verdict::DENY, 8));
        check(PortMatch::Any, (72, 0, [0, 0]));
        check(PortMatch::Protocol(17), (80, 17, [0, 0]));
        let ports = |port, bits| PortMatch::Ports {
            protocol: 6,
            port,
            bits,
        };
        check(ports(443, 16), (96, 6, [1, 187]));
        // 1024-2047
        check(ports(1024, 6), (86, 6, [4, 0]));
        check(ports(0xffff, 1), (81, 6, [0x80, 0]));
    }
}
