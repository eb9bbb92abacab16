//! Reading rows the way the kernel does.

use crate::compiled::{Decision, Direction, IdentityId, PolicyRow, PortMatch, Verdict};

/// Decides for a peer: its own row, or else the wildcard row; within the row the
/// longest prefix. For ICMP, `port` is `type << 8`. Without any row it is a default deny.
pub fn lookup(
    rows: &[PolicyRow],
    identity: IdentityId,
    direction: Direction,
    protocol: u8,
    port: u16,
) -> Decision {
    let row = |identity| {
        let of_row = rows
            .iter()
            .filter(move |r| r.identity == identity && r.direction == direction);
        of_row
            .filter_map(|r| Some((matched_bits(r.ports, protocol, port)?, r.decision)))
            .max_by_key(|(bits, _)| *bits)
    };
    let found = row(identity).or_else(|| row(crate::peer::reserved::ANY));
    found.map_or(
        Decision {
            verdict: Verdict::DefaultDeny,
            rule: 0,
            l7: 0,
        },
        |(_, decision)| decision,
    )
}

/// Bits of protocol and port that an entry fixes, if it covers them.
fn matched_bits(ports: PortMatch, protocol: u8, port: u16) -> Option<u8> {
    match ports {
        PortMatch::Any => Some(0),
        PortMatch::Protocol(own) => (own == protocol).then_some(8),
        PortMatch::Ports {
            protocol: own,
            port: first,
            bits,
        } => {
            let shift = 16 - u32::from(bits.min(16));
            let same = u32::from(first) >> shift == u32::from(port) >> shift;
            (own == protocol && same).then_some(8 + bits)
        }
    }
}
