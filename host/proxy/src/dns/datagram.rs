//! A UDP datagram with headers of our own making, for an answer whose sender's port a
//! process of the node holds: no socket can be bound there, but a packet can still be sent.

use std::net::{IpAddr, SocketAddr};

/// IANA protocol of UDP.
const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
const HOP_LIMIT: u8 = 64;

/// The packet, IP header first; `None` if the ends are of two families or it would be
/// longer than a packet can be. What IPv4 leaves at zero here (identification, header
/// checksum) the kernel fills in (raw(7)).
pub(super) fn packet(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(UDP_HEADER + payload.len()).ok()?;
    let mut udp = Vec::with_capacity(usize::from(length));
    udp.extend(from.port().to_be_bytes());
    udp.extend(to.port().to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0; 2]);
    udp.extend(payload);
    let (header, ends) = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = length.checked_add(20)?.to_be_bytes();
            let ends = [from.octets(), to.octets()].concat();
            let mut header = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0];
            header.extend([HOP_LIMIT, UDP, 0, 0]);
            header.extend(&ends);
            (header, ends)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = length.to_be_bytes();
            let ends = [from.octets(), to.octets()].concat();
            let mut header = vec![0x60, 0, 0, 0, length[0], length[1], UDP, HOP_LIMIT];
            header.extend(&ends);
            (header, ends)
        }
        _ => return None,
    };
    let sum = checksum(&ends, &udp);
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    Some([header, udp].concat())
}

/// RFC 768, RFC 8200 §8.1: over a pseudo-header of both addresses, length and protocol.
fn checksum(ends: &[u8], udp: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u64 {
        let pairs = bytes.chunks(2);
        pairs
            .map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0)))
            .sum()
    };
    let mut sum = words(ends) + words(udp) + udp.len() as u64 + u64::from(UDP);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !(sum as u16) {
        // Zero would mean "no checksum".
        0 => 0xffff,
        sum => sum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Summed over everything with the checksum in place, it comes out as all ones.
    #[test]
    fn headers_and_checksums() {
        for (from, to, version, header) in [
            ("192.0.2.1:53", "10.0.0.9:40000", 4, 20),
            ("[2001:db8::1]:53", "[fd00::9]:40000", 6, 40),
        ] {
            for payload in [&b"odd"[..], b"even", b""] {
                let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
                let packet = packet(from, to, payload).unwrap();
                assert_eq!(packet[0] >> 4, version);
                assert_eq!(packet.len(), header + UDP_HEADER + payload.len());
                assert_eq!(packet[header..header + 4], [0, 53, 0x9c, 0x40]);
                assert_eq!(&packet[header + UDP_HEADER..], payload);
                let ends = if version == 4 {
                    &packet[12..20]
                } else {
                    &packet[8..40]
                };
                assert_eq!(checksum(ends, &packet[header..]), 0xffff);
            }
        }
        let (v4, v6) = ("192.0.2.1:53".parse().unwrap(), "[::1]:53".parse().unwrap());
        assert_eq!(packet(v4, v6, b""), None);
        assert_eq!(packet(v4, v4, &[0; 65_536]), None);
    }
}
