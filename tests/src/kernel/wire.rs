//! A slow, plain reader of frames: the model's own, so that a mistake in the kernel's
//! parser cannot hide in both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tidegate_ebpf_shared::reason;

/// What a frame is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// ARP: the IPv4 addresses of its sender and its target, if it is of the kind that has
    /// them.
    Arp(Option<(IpAddr, IpAddr)>),
    /// Not IP.
    Other,
    /// A broken IP header.
    Broken,
    /// Neighbour discovery.
    Discovery(Packet),
    /// An IP packet.
    Ip(Packet),
}

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// Protocol number.
    pub protocol: u8,
    /// IP length.
    pub len: u32,
    /// Ports, or what stands for them (see `Event`), or why there are none.
    pub transport: Result<Transport, u8>,
    /// How much of a datagram it is.
    pub part: Part,
}

/// How much of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// All of it, in an IPv6 Fragment header.
    Atomic,
    /// Its beginning.
    First {
        /// Identification.
        id: u32,
        /// Bytes of the datagram it has.
        end: usize,
    },
    /// Not its beginning.
    Later {
        /// Identification.
        id: u32,
        /// Bytes of the datagram before it.
        start: usize,
    },
}

/// What is read from the transport header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Source port, or ICMP type and code.
    pub src_port: [u8; 2],
    /// Destination port, or ICMP echo identifier.
    pub dst_port: [u8; 2],
    /// TCP flags.
    pub tcp_flags: u8,
    /// TCP sequence and acknowledgment numbers.
    pub numbers: (u32, u32),
    /// Ends of the packet inside an ICMP error: source, destination, protocol, ports.
    pub inner: Option<Inner>,
    /// Where its header begins, in the IP packet.
    pub at: usize,
}

/// The packet inside an ICMP error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// Protocol number.
    pub protocol: u8,
    /// Source port, or the echo identifier.
    pub src_port: [u8; 2],
    /// Destination port, or the echo identifier.
    pub dst_port: [u8; 2],
}

/// Headers must lie within this many bytes of the frame.
const VISIBLE: usize = 256;

/// Reads a frame.
pub fn read(frame: &[u8]) -> Frame {
    match frame.get(12..14) {
        Some([0x08, 0x06]) => read_arp(&frame[14..]),
        Some([0x08, 0x00]) => read_v4(&frame[14..]).map_or(Frame::Broken, Frame::Ip),
        Some([0x86, 0xdd]) => match read_v6(&frame[14..]) {
            None => Frame::Broken,
            Some((packet, true)) if is_discovery(&packet) => Frame::Discovery(packet),
            Some((packet, _)) => Frame::Ip(packet),
        },
        _ => Frame::Other,
    }
}

fn read_arp(arp: &[u8]) -> Frame {
    match arp.get(..28) {
        None => Frame::Broken,
        Some(start) if start[..6] == [0, 1, 8, 0, 6, 4] => {
            Frame::Arp(Some((v4(start, 14), v4(start, 24))))
        }
        Some(_) => Frame::Arp(None),
    }
}

/// A length of 0 stands for one that no header can say.
fn or_rest(length: usize, ip: &[u8]) -> usize {
    if length == 0 && ip.len() > 65_535 {
        ip.len()
    } else {
        length
    }
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])
}

/// The address at this place.
pub fn v4(bytes: &[u8], at: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(
        bytes[at],
        bytes[at + 1],
        bytes[at + 2],
        bytes[at + 3],
    ))
}

/// The address at this place.
pub fn v6(bytes: &[u8], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    IpAddr::V6(Ipv6Addr::from(octets))
}

fn read_v4(ip: &[u8]) -> Option<Packet> {
    if ip.len() < 20 || ip[0] >> 4 != 4 {
        return None;
    }
    let header = usize::from(ip[0] & 15) * 4;
    let total = or_rest(u16_at(ip, 2), ip);
    if header < 20 || total < header || total > ip.len() {
        return None;
    }
    let protocol = ip[9];
    let (id, start) = (u16_at(ip, 4) as u32, u16_at(ip, 6) % 0x2000 * 8);
    let part = if start != 0 {
        Part::Later { id, start }
    } else if ip[6] & 0x20 != 0 {
        Part::First {
            id,
            end: total - header,
        }
    } else {
        Part::Whole
    };
    let transport = if start != 0 {
        Err(reason::NO_FIRST_FRAGMENT)
    } else if protocol == 58 {
        Err(reason::UNKNOWN_L4)
    } else {
        read_transport(protocol, ip, header, total)
    };
    Some(Packet {
        src: v4(ip, 12),
        dst: v4(ip, 16),
        protocol,
        len: total as u32,
        transport,
        part,
    })
}

/// The packet, and whether it still has all its hops.
fn read_v6(ip: &[u8]) -> Option<(Packet, bool)> {
    if ip.len() < 40 || ip[0] >> 4 != 6 {
        return None;
    }
    let total = match u16_at(ip, 4) {
        0 => or_rest(0, ip).max(40),
        payload => 40 + payload,
    };
    let (src, dst) = (v6(ip, 8), v6(ip, 24));
    let mapped = |addr| matches!(addr, IpAddr::V6(a) if a.to_ipv4_mapped().is_some());
    if total > ip.len() || mapped(src) || mapped(dst) {
        return None;
    }
    let visible = &ip[..ip.len().min(VISIBLE - 14)];
    let mut part = Part::Whole;
    let (protocol, transport) = match walk(visible, total, &mut part) {
        Ok((1, _)) => (1, Err(reason::UNKNOWN_L4)),
        Ok((protocol, at)) => (protocol, read_transport(protocol, ip, at, total)),
        Err((protocol, reason)) => (protocol, Err(reason)),
    };
    let packet = Packet {
        src,
        dst,
        protocol,
        len: total as u32,
        transport,
        part,
    };
    Some((packet, ip[7] == 255 && part == Part::Whole))
}

/// Walks over at most four extension headers: the transport protocol and its place,
/// or the protocol to report and what is wrong.
fn walk(ip: &[u8], total: usize, part: &mut Part) -> Result<(u8, usize), (u8, u8)> {
    let mut next = ip[6];
    let mut at = 40;
    for _ in 0..4 {
        match next {
            0 | 43 | 60 => {
                // The protocol is reported only once the walk is over.
                let [following, length] = ip.get(at..at + 2).ok_or((0, reason::INVALID_PACKET))?
                else {
                    unreachable!("two bytes")
                };
                next = *following;
                at += (usize::from(*length) + 1) * 8;
            }
            44 => {
                let header = ip.get(at..at + 8).ok_or((0, reason::INVALID_PACKET))?;
                if *part != Part::Whole {
                    return Err((0, reason::INVALID_PACKET));
                }
                next = header[0];
                at += 8;
                let id = (u16_at(header, 4) << 16 | u16_at(header, 6)) as u32;
                let start = u16_at(header, 2) & 0xfff8;
                if start != 0 {
                    *part = Part::Later { id, start };
                    return Err((next, reason::NO_FIRST_FRAGMENT));
                }
                *part = if header[3] & 1 == 0 {
                    Part::Atomic
                } else {
                    let end = total.saturating_sub(at);
                    Part::First { id, end }
                };
            }
            _ => break,
        }
    }
    if [0, 43, 44, 60].contains(&next) || at > total {
        return Err((next, reason::INVALID_PACKET));
    }
    Ok((next, at))
}

fn read_transport(protocol: u8, ip: &[u8], at: usize, total: usize) -> Result<Transport, u8> {
    let shortest = match protocol {
        6 => 20,
        17 | 1 | 58 => 8,
        132 => 12,
        2 => return Err(reason::FORBIDDEN_IGMP),
        _ => return Err(reason::UNKNOWN_L4),
    };
    // What is looked at: the whole TCP or ICMP header, the ports of the others.
    let looked_at = if protocol == 17 || protocol == 132 {
        4
    } else {
        shortest
    };
    if total - at < shortest || at + looked_at > VISIBLE - 14 {
        return Err(reason::INVALID_PACKET);
    }
    let header = &ip[at..at + looked_at];
    let pair = |i: usize| [header[i], header[i + 1]];
    Ok(match protocol {
        1 | 58 => Transport {
            src_port: pair(0),
            dst_port: if is_echo(protocol, header[0]) {
                pair(4)
            } else {
                [0, 0]
            },
            tcp_flags: 0,
            numbers: (0, 0),
            inner: if is_error(protocol, header[0]) {
                read_inner(protocol, &ip[at + 8..])
            } else {
                None
            },
            at,
        },
        _ => Transport {
            src_port: pair(0),
            dst_port: pair(2),
            tcp_flags: if protocol == 6 { header[13] } else { 0 },
            numbers: if protocol == 6 {
                let number = |at: usize| (u16_at(header, at) << 16 | u16_at(header, at + 2)) as u32;
                (number(4), number(8))
            } else {
                (0, 0)
            },
            inner: None,
            at,
        },
    })
}

fn read_inner(outer: u8, ip: &[u8]) -> Option<Inner> {
    let (src, dst, protocol, at) = if outer == 1 {
        if ip.len() < 20 || ip[0] >> 4 != 4 || !u16_at(ip, 6).is_multiple_of(0x2000) {
            return None;
        }
        (v4(ip, 12), v4(ip, 16), ip[9], usize::from(ip[0] & 15) * 4)
    } else {
        if ip.len() < 40 || ip[0] >> 4 != 6 {
            return None;
        }
        let (src, dst) = (v6(ip, 8), v6(ip, 24));
        let (mut next, mut at) = (ip[6], 40);
        for _ in 0..2 {
            match next {
                0 | 43 | 60 => {
                    let header = ip.get(at..at + 2)?;
                    (next, at) = (header[0], at + (usize::from(header[1]) + 1) * 8);
                }
                44 => {
                    let header = ip.get(at..at + 4)?;
                    if u16_at(header, 2) & 0xfff8 != 0 {
                        return None;
                    }
                    (next, at) = (header[0], at + 8);
                }
                _ => break,
            }
        }
        (src, dst, next, at)
    };
    let (src_port, dst_port) = match protocol {
        6 | 17 | 132 => {
            let ports = ip.get(at..at + 4)?;
            ([ports[0], ports[1]], [ports[2], ports[3]])
        }
        1 | 58 => {
            let header = ip.get(at..at + 8)?;
            if !is_echo(protocol, header[0]) {
                return None;
            }
            ([header[4], header[5]], [header[4], header[5]])
        }
        _ => return None,
    };
    Some(Inner {
        src,
        dst,
        protocol,
        src_port,
        dst_port,
    })
}

/// Echo request or reply.
pub fn is_echo(protocol: u8, kind: u8) -> bool {
    matches!((protocol, kind), (1, 0 | 8) | (58, 128 | 129))
}

/// An error message that passes with the flow it is about.
pub fn is_error(protocol: u8, kind: u8) -> bool {
    matches!((protocol, kind), (1, 3 | 11 | 12) | (58, 1..=4))
}

fn is_discovery(packet: &Packet) -> bool {
    packet.protocol == 58
        && matches!(&packet.transport, Ok(t) if [133, 135, 136].contains(&t.src_port[0]))
}
