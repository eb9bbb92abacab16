//! What must become of ARP, neighbour discovery, and what hosts and routers of a link say of
//! groups and routes: written from the RFCs, byte by byte, and from no parser of ours.

use std::net::{IpAddr, Ipv6Addr};

use tidegate_ebpf_shared::{
    identity::{AddrInfo, reserved},
    reason,
};

use super::{
    model::{Hook, is_link_local, lookup},
    wire::{Frame, Packet, Part, v4, v6},
    world::World,
};

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    /// Policy decides.
    Data,
    /// It passes, as many bytes of it.
    Pass(usize),
    /// Dropped, and nobody misses it.
    Needless,
    /// Dropped, for this reason.
    Refused(u8),
}

const BROKEN: u8 = reason::INVALID_PACKET;
const ETHERNET: usize = 14;
/// The least length of an Ethernet frame, without its checksum (IEEE 802.3).
const LEAST: usize = 60;

/// What becomes of a frame at a hook. `by_workload`: it came in by a workload's device.
pub fn word(world: &World, hook: Hook, frame: &[u8], read: &Frame, by_workload: bool) -> Word {
    let passes = Word::Pass(frame.len());
    match (hook, read) {
        (_, Frame::Other | Frame::Broken) => Word::Data,
        (Hook::FromEndpoint(Some(own)), _) => match said(world, own, frame, read) {
            Some(Ok(length)) => Word::Pass(length),
            Some(Err(reason)) => Word::Refused(reason),
            None => Word::Data,
        },
        (Hook::FromEndpoint(None), Frame::Arp(_)) => Word::Refused(reason::ENDPOINT_NOT_READY),
        (Hook::FromEndpoint(None), _) => Word::Data,
        (Hook::ToEndpoint(Some(own)), Frame::Arp(_) | Frame::Discovery(_)) => {
            if is_for(world, own, frame, read) {
                passes
            } else {
                Word::Refused(reason::INVALID_DESTINATION_MAC)
            }
        }
        (Hook::ToEndpoint(Some(_)), Frame::Ip(packet)) => match kind(frame, packet) {
            Kind::Report if is_multicast(packet.dst) => Word::Needless,
            Kind::Router(hops) if !by_workload && is_of_router(frame, packet, hops) => passes,
            _ => Word::Data,
        },
        (_, Frame::Arp(_) | Frame::Discovery(_)) => passes,
        (_, Frame::Ip(_)) => Word::Data,
    }
}

/// What a message is about.
#[derive(PartialEq, Eq)]
enum Kind {
    Report,
    /// Only routers say it, with so many hops.
    Router(u8),
    OtherIgmp,
    Other,
}

fn kind(frame: &[u8], packet: &Packet) -> Kind {
    match (packet.protocol, &packet.transport) {
        (2, _) if packet.src.is_ipv4() => {
            let at = ETHERNET + usize::from(frame[ETHERNET] & 15) * 4;
            match frame.get(at) {
                _ if packet.part != Part::Whole => Kind::OtherIgmp,
                Some(0x12 | 0x16 | 0x17 | 0x22) => Kind::Report,
                Some(0x11) => Kind::Router(1),
                _ => Kind::OtherIgmp,
            }
        }
        (58, Ok(transport)) => match transport.src_port[0] {
            131 | 132 | 143 => Kind::Report,
            130 => Kind::Router(1),
            134 | 137 => Kind::Router(255),
            _ => Kind::Other,
        },
        _ => Kind::Other,
    }
}

/// A query (RFC 3376 §4.1, RFC 3810 §5.1) or a router advertisement (RFC 4861 §4.2).
fn is_of_router(frame: &[u8], packet: &Packet, hops: u8) -> bool {
    let is_v4 = packet.src.is_ipv4();
    let has = frame[ETHERNET + if is_v4 { 8 } else { 7 }];
    let to = match &packet.transport {
        _ if is_v4 => is_multicast(packet.dst),
        Ok(transport) if transport.src_port[0] == 130 => is_multicast(packet.dst),
        // Redirects are not among it.
        Ok(transport) if transport.src_port[0] == 134 => {
            is_of_link(packet.dst) || is_link_local(packet.dst)
        }
        _ => false,
    };
    packet.part == Part::Whole && has == hops && to && (is_v4 || is_link_local(packet.src))
}

/// Of what a workload says: how long it may be, or why it may not be said; `None` if it is
/// data.
fn said(world: &World, own: u32, frame: &[u8], read: &Frame) -> Option<Result<usize, u8>> {
    let packet = match read {
        Frame::Arp(_) => return Some(arp(world, own, frame)),
        Frame::Discovery(packet) if is_of_neighbour(world, packet.dst) => {
            return Some(discovery(world, own, frame, packet).map(|()| frame.len()));
        }
        Frame::Ip(packet) => packet,
        _ => return None,
    };
    match (kind(frame, packet), packet.src.is_ipv4()) {
        (Kind::Other, _) => None,
        (_, true) => Some(igmp(world, own, frame, packet)),
        (Kind::Report, false) => Some(mld(frame, packet).map(|()| frame.len())),
        (_, false) => Some(Err(reason::FORBIDDEN_ICMPV6)),
    }
}

/// RFC 826, RFC 5227.
fn arp(world: &World, own: u32, frame: &[u8]) -> Result<usize, u8> {
    let (to, from) = (&frame[..6], &frame[6..12]);
    let arp = &frame[14..42];
    let (sender, target) = (&arp[8..14], &arp[18..24]);
    let ethernet_and_ipv4 = arp[..6] == [0, 1, 8, 0, 6, 4];
    let operation = arp[7];
    if !ethernet_and_ipv4 || arp[6] != 0 || !(1..=2).contains(&operation) {
        return Err(BROKEN);
    }
    let (says, about) = (v4(arp, 14), v4(arp, 24));
    let is_probe = says.is_unspecified() && operation == 1;
    if !is_own(world, if is_probe { about } else { says }, own) {
        return Err(reason::INVALID_SOURCE_IP);
    }
    if sender != from {
        return Err(reason::INVALID_SOURCE_MAC);
    }
    let usual = [&[0; 6][..], &[0xff; 6], from, to];
    if !usual.contains(&target) {
        return Err(BROKEN);
    }
    padded(frame, 42)
}

/// How much of a frame stays if its content ends at `end`.
fn padded(frame: &[u8], end: usize) -> Result<usize, u8> {
    if frame.len() > LEAST && frame.len() != end {
        return Err(BROKEN);
    }
    Ok(end)
}

/// RFC 4861 §4.1, §4.3, §4.4, §7.1, §7.2; RFC 7527 §4.1.
fn discovery(world: &World, own: u32, frame: &[u8], packet: &Packet) -> Result<(), u8> {
    let nobody = packet.src.is_unspecified();
    if !nobody && !may_claim(world, packet.src, own) {
        return Err(reason::INVALID_SOURCE_IP);
    }
    let from = &frame[6..12];
    let ip = &frame[ETHERNET..];
    let (header, message) = ip.split_at(40);
    // Nothing between the headers, nothing behind the message.
    if header[6] != 58 || ip.len() != packet.len as usize {
        return Err(BROKEN);
    }
    let (kind, code) = (message[0], message[1]);
    let fixed = if kind == 133 { 8 } else { 24 };
    if code != 0 || (message.len() != fixed && message.len() != fixed + 8) {
        return Err(BROKEN);
    }
    let reserved = [message[4], message[5], message[6], message[7]];
    let flags = if kind == 136 { 0xe000_0000 } else { 0 };
    if u32::from_be_bytes(reserved) & !flags != 0 {
        return Err(BROKEN);
    }
    let option = &message[fixed..];
    let target = (kind != 133).then(|| v6(message, 8));
    if let Some(target) = target {
        // What is asked from nobody's address is asked for oneself; what is answered, too.
        let claims = nobody || kind == 136;
        if claims && !may_claim(world, target, own) || nobody && kind == 136 {
            return Err(reason::INVALID_SOURCE_IP);
        }
        let alone = packet.dst == target && !nobody;
        if kind == 135 && !alone && packet.dst != solicited_node(target) {
            return Err(BROKEN);
        }
    }
    let all = ["ff02::1", "ff02::2"].map(|text| text.parse::<IpAddr>().expect("literal"));
    if kind != 135 && is_multicast(packet.dst) && !all.contains(&packet.dst) {
        return Err(BROKEN);
    }
    if option.is_empty() {
        return Ok(());
    }
    // Source and target link-layer address, and nonce.
    let wanted = match kind {
        136 => 2,
        135 if nobody => 14,
        _ if nobody => return Err(BROKEN),
        _ => 1,
    };
    if option[..2] != [wanted, 1] {
        return Err(BROKEN);
    }
    if wanted != 14 && &option[2..] != from {
        return Err(reason::INVALID_SOURCE_MAC);
    }
    Ok(())
}

/// RFC 4291 §2.7.1.
fn solicited_node(target: IpAddr) -> IpAddr {
    let IpAddr::V6(target) = target else {
        return target;
    };
    let [.., a, b, c] = target.octets();
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xff, 0x02]);
    octets[11..].copy_from_slice(&[1, 0xff, a, b, c]);
    Ipv6Addr::from(octets).into()
}

/// RFC 3376 §4 and §4.2; RFC 2236 §2 and §3; RFC 1112 appendix I.
fn igmp(world: &World, own: u32, frame: &[u8], packet: &Packet) -> Result<usize, u8> {
    if !packet.src.is_unspecified() && !is_own(world, packet.src, own) {
        return Err(reason::INVALID_SOURCE_IP);
    }
    let ip = &frame[ETHERNET..ETHERNET + packet.len as usize];
    let (header, message) = ip.split_at(usize::from(ip[0] & 15) * 4);
    let options = &header[20..];
    let router_alert = [0x94, 4, 0, 0];
    let whole = packet.part == Part::Whole;
    if !whole || header[8] != 1 || !(options.is_empty() || options == router_alert) {
        return Err(BROKEN);
    }
    // Read as it lies in the frame, padding included.
    let message_in_frame = &frame[ETHERNET + header.len()..];
    if message_in_frame.len() < 8 {
        return Err(BROKEN);
    }
    let group = v4(message_in_frame, 4);
    let to = |text: &str| packet.dst == text.parse::<IpAddr>().expect("literal");
    let one = message.len() == 8 && message[1] == 0 && is_multicast(group);
    let fits = match message_in_frame[0] {
        0x12 | 0x16 => one && packet.dst == group,
        0x17 => one && to("224.0.0.2"),
        0x22 => {
            let no_less = message.len() >= 8 && message[1] == 0 && message[4..6] == [0, 0];
            no_less && to("224.0.0.22") && are_records(&message[6..], 4)
        }
        _ => return Err(reason::FORBIDDEN_IGMP),
    };
    if !fits {
        return Err(BROKEN);
    }
    padded(frame, ETHERNET + packet.len as usize)
}

/// RFC 3810 §5 and §5.2; RFC 2710 §3; RFC 3590 §4; RFC 2711 §2.
fn mld(frame: &[u8], packet: &Packet) -> Result<(), u8> {
    if !is_link_local(packet.src) && !packet.src.is_unspecified() {
        return Err(reason::INVALID_SOURCE_IP);
    }
    let ip = &frame[ETHERNET..];
    let alert: [&[u8]; 2] = [&[58, 0, 5, 2, 0, 0, 1, 0], &[58, 0, 5, 2, 0, 0, 0, 0]];
    if packet.part != Part::Whole
        || ip.len() != packet.len as usize
        || (ip[6], ip[7]) != (0, 1)
        || !alert.contains(&&ip[40..48])
    {
        return Err(BROKEN);
    }
    let message = &ip[48..];
    if message[1] != 0 || message[4..6] != [0, 0] {
        return Err(BROKEN);
    }
    let to = |text: &str| packet.dst == text.parse::<IpAddr>().expect("literal");
    let fits = if message[0] == 143 {
        to("ff02::16") && are_records(&message[6..], 16)
    } else {
        let whole = message.len() == 24 && message[6..8] == [0, 0];
        whole
            && is_multicast(v6(message, 8))
            && if message[0] == 131 {
                packet.dst == v6(message, 8)
            } else {
                to("ff02::2")
            }
    };
    if fits { Ok(()) } else { Err(BROKEN) }
}

/// The number of group records, and as many, with addresses of this length.
fn are_records(bytes: &[u8], address: usize) -> bool {
    let mut left = usize::from(bytes[0]) << 8 | usize::from(bytes[1]);
    let mut rest = &bytes[2..];
    if left > 96 {
        return false;
    }
    while left > 0 {
        let Some((record, others)) = rest.split_at_checked(4 + address) else {
            return false;
        };
        let (kind, auxiliary) = (record[0], record[1]);
        let is_group = if address == 4 {
            record[4] >> 4 == 14
        } else {
            record[4] == 255
        };
        let sources = (usize::from(record[2]) << 8 | usize::from(record[3])) * address;
        if !(1..=6).contains(&kind) || auxiliary != 0 || !is_group || others.len() < sources {
            return false;
        }
        rest = &others[sources..];
        left -= 1;
    }
    rest.is_empty()
}

/// Is a frame for one neighbour alone brought to who has the address that it is about?
fn is_for(world: &World, own: u32, frame: &[u8], read: &Frame) -> bool {
    let about = match read {
        _ if frame[0] & 1 != 0 => return true,
        Frame::Arp(Some((_, target))) => *target,
        Frame::Discovery(packet) => match &packet.transport {
            Ok(transport) if transport.src_port[0] == 135 => {
                let at = ETHERNET + transport.at + 8;
                if frame.len() < at + 16 {
                    return true;
                }
                v6(frame, at)
            }
            _ => packet.dst,
        },
        _ => return true,
    };
    if about.is_unspecified() || is_multicast(about) || is_link_local(about) {
        return true;
    }
    let owner = lookup(world, about).unwrap_or_default().endpoint;
    owner == own || (owner == 0 && !world.bridged)
}

/// May neighbour discovery for it be for a neighbour?
fn is_of_neighbour(world: &World, dst: IpAddr) -> bool {
    let of = |info: AddrInfo| info.identity == reserved::HOST || info.endpoint != 0;
    is_of_link(dst) || is_link_local(dst) || lookup(world, dst).is_some_and(of)
}

/// May this endpoint say that it has the address? One of its link, its own.
fn may_claim(world: &World, address: IpAddr, endpoint: u32) -> bool {
    is_link_local(address) || is_own(world, address, endpoint)
}

fn is_own(world: &World, address: IpAddr, endpoint: u32) -> bool {
    lookup(world, address).is_some_and(|info| info.endpoint == endpoint)
}

fn is_of_link(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.segments()[0] == 0xff02)
}

fn is_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast(),
        // A mapped address is none of IPv6.
        IpAddr::V6(address) => address.octets()[0] == 0xff,
    }
}
