//! Packet bytes to meaning: the only file that casts packet bytes.
//!
//! All headers must lie within the first [`HEADERS`] bytes of the frame; longer
//! chains of IPv6 extension headers are refused as broken.

use core::mem::size_of;

use aya_ebpf::{
    EbpfContext as _,
    bindings::__sk_buff,
    helpers::{bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_pull_data},
    programs::TcContext,
};
use tidegate_decide::{Tuple, flow::Segment, tuple::icmp};
use tidegate_ebpf_shared::{
    addr::{Addr, proto},
    reason,
};

use crate::addr::{is_v4, set_v4, set_v6};

/// Bytes of a frame we look at.
const HEADERS: u32 = 256;
/// Bytes before the IP header: an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes before the IP header: none, as on tunnels (`tun`, WireGuard, IPIP).
pub const HEADERLESS: usize = 0;
/// IPv6 Fragment header (RFC 8200 §4.5).
const FRAGMENT: u8 = 44;
/// IPv6 extension headers we walk over (RFC 8200 §4.1 recommends an order of at
/// most seven; more than three are not seen in practice).
const EXTENSIONS: usize = 4;
/// The same in the packet that an ICMP error carries: how long a "BIG TCP" packet is, and
/// that it is a fragment.
const INNER_EXTENSIONS: usize = 2;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// ARP; the packet's ends are the protocol addresses that it says, `::` if it is not
    /// about IPv4 on Ethernet.
    Arp,
    /// Neither IP nor ARP.
    Other,
    /// An IP header that contradicts itself or the frame.
    Broken,
    /// IPv6 neighbour discovery between neighbours.
    NeighbourDiscovery,
    /// IP; see [`Packet::problem`] for what is wrong with the rest.
    Ip,
}

/// What we know of an IP packet.
#[derive(Default)]
#[repr(C)]
pub struct Packet {
    /// Ends and protocol; ports are 0 if there is a problem.
    pub tuple: Tuple,
    /// TCP flags, 0 for other protocols.
    pub tcp_flags: u8,
    /// One of [`reason`] if the transport header cannot be used, else 0.
    pub problem: u8,
    /// Length from the IP header on.
    pub len: u32,
    /// TCP sequence number.
    pub seq: u32,
    /// TCP acknowledgment number.
    pub ack: u32,
    /// Bytes of TCP payload.
    pub payload: u32,
    /// Interface the packet was seen on. Kept here because code that reads it in many
    /// places makes the compiler form a pointer into the context, which the verifier
    /// refuses.
    pub ifindex: u32,
    /// Endpoint id of the host service that sent it, as far as somebody asked and it can be
    /// told, else 0. For what is told of a drop only: policy knows the node's packets by
    /// their address.
    pub sender: u32,
    /// Where the transport header starts in the frame.
    pub transport: u32,
    /// Identification of the datagram, if this is a fragment.
    pub id: u32,
    /// Of a first fragment, where its data ends in the datagram; of a later one, where
    /// they begin. In bytes.
    pub at: u32,
    /// One of [`part`].
    pub part: u8,
    /// Hops it has left (hop limit, TTL).
    pub hops: u8,
    pad: [u8; 2],
}

/// How much of a datagram a packet is.
pub mod part {
    /// All of it.
    pub const WHOLE: u8 = 0;
    /// Its beginning, with the transport header.
    pub const FIRST: u8 = 1;
    /// Not its beginning: without ports.
    pub const LATER: u8 = 2;
    /// All of it, and it says so in an IPv6 Fragment header (RFC 6946).
    pub const ATOMIC: u8 = 3;
}

impl Packet {
    /// What of the packet changes the state of its flow.
    #[inline(always)]
    pub fn segment(&self) -> Segment {
        Segment {
            len: self.len,
            tcp_flags: self.tcp_flags,
            seq: self.seq,
            ack: self.ack,
        }
    }

    /// Nothing about the frame is in question.
    #[inline(always)]
    fn is_clear(&self, kind: Kind) -> bool {
        match kind {
            Kind::Arp | Kind::NeighbourDiscovery => true,
            Kind::Ip => self.problem == 0,
            Kind::Other | Kind::Broken => false,
        }
    }

    /// All zero, word by word. Volatile, or the compiler makes it a call that writes
    /// bytes, for a sixth of the packet's whole cost.
    #[inline(always)]
    fn clear(&mut self) {
        const { assert!(align_of::<Self>() == 4 && size_of::<Self>() % 4 == 0) };
        let words = (&raw mut *self).cast::<u32>();
        for i in 0..size_of::<Self>() / 4 {
            // SAFETY: within the packet, which is aligned for words; zero is valid.
            unsafe { words.add(i).write_volatile(0) };
        }
    }
}

/// ARP about IPv4 on Ethernet (RFC 826).
#[repr(C, packed)]
pub struct Arp {
    /// Kinds and lengths of hardware and protocol addresses.
    pub spaces: [u8; 6],
    /// 1 for a request, 2 for a reply.
    pub operation: [u8; 2],
    /// The sender's hardware address.
    pub sender_hardware: [u8; 6],
    /// The sender's protocol address.
    pub sender: [u8; 4],
    /// The hardware address of whom it is for, if that is known.
    pub target_hardware: [u8; 6],
    /// The protocol address of whom it is for.
    pub target: [u8; 4],
}

impl Arp {
    /// Hardware of Ethernet, protocol IPv4, and the lengths of their addresses.
    pub const SPACES: [u8; 6] = [0, 1, 8, 0, 6, 4];
}

#[repr(C, packed)]
struct Ipv4 {
    version_ihl: u8,
    tos: u8,
    total: [u8; 2],
    id: [u8; 2],
    fragment: [u8; 2],
    ttl: u8,
    protocol: u8,
    checksum: [u8; 2],
    src: [u8; 4],
    dst: [u8; 4],
}

#[repr(C, packed)]
struct Ipv6 {
    version: u8,
    class_flow: [u8; 3],
    payload: [u8; 2],
    next: u8,
    hops: u8,
    src: Addr16,
    dst: Addr16,
}

/// An IPv6 address without the alignment of [`Addr`].
pub type Addr16 = [u8; 16];

#[repr(C, packed)]
struct Tcp {
    ports: Ports,
    seq: [u8; 4],
    ack: [u8; 4],
    offset: u8,
    flags: u8,
    window: [u8; 2],
    checksum: [u8; 2],
    urgent: [u8; 2],
}

#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Ports {
    src: [u8; 2],
    dst: [u8; 2],
}

#[repr(C, packed)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: [u8; 2],
    id: [u8; 2],
    rest: [u8; 2],
}

const UDP_HEADER: u32 = 8;
const SCTP_HEADER: u32 = 12;

/// The linear part of a frame.
struct Bytes {
    start: usize,
    end: usize,
}

impl Bytes {
    /// A `T` at `offset`, if the frame reaches that far. `T` must be packed: nothing
    /// is aligned in a packet.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<&T> {
        const { assert!(core::mem::align_of::<T>() == 1) };
        let from = self.start + offset;
        if offset + size_of::<T>() > HEADERS as usize || from + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: within the frame, as just checked (the verifier checks it again);
        // every bit pattern of the header types is valid and they need no alignment.
        Some(unsafe { &*(from as *const T) })
    }
}

/// Reads a frame's headers into `packet`; its IP header is behind `LINK` bytes.
///
/// A frame with payload in fragments is read as it is: its headers are in the linear
/// part already, and pulling more of it in would also copy a head that TCP still holds
/// for retransmission (`skb_ensure_writable`), for every packet with data. Only where
/// that leaves a question is more pulled in, and all read again.
#[inline(always)]
pub fn parse<const LINK: usize>(ctx: &TcContext, packet: &mut Packet) -> Kind {
    let frame = ctx.len();
    let wanted = if frame < HEADERS { frame } else { HEADERS };
    let kind = read::<LINK>(ctx, frame, packet);
    if packet.is_clear(kind) || ctx.data() + wanted as usize <= ctx.data_end() {
        return kind;
    }
    // SAFETY: a valid context. If it fails, the frame is found short again.
    unsafe { bpf_skb_pull_data(ctx.as_ptr().cast::<__sk_buff>(), wanted) };
    read::<LINK>(ctx, frame, packet)
}

/// Reads what lies in the linear part.
#[inline(always)]
fn read<const LINK: usize>(ctx: &TcContext, frame: u32, packet: &mut Packet) -> Kind {
    packet.clear();
    // SAFETY: the kernel hands the program a valid context.
    packet.ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let bytes = Bytes {
        start: ctx.data(),
        end: ctx.data_end(),
    };
    match network::<LINK>(&bytes) {
        Network::V4 => ipv4::<LINK>(&bytes, frame, packet),
        Network::V6 => ipv6::<LINK>(&bytes, frame, packet),
        Network::Arp => arp(&bytes, packet),
        Network::Other => Kind::Other,
    }
}

/// What a frame carries.
enum Network {
    V4,
    V6,
    Arp,
    Other,
}

/// By the Ethernet header; without one, by the IP version.
#[inline(always)]
fn network<const LINK: usize>(bytes: &Bytes) -> Network {
    if LINK == HEADERLESS {
        // No IP packet is shorter than IPv4's header; one byte alone, the compiler would check
        // in a way that the verifier does not know.
        return match bytes.at::<Ipv4>(0).map(|ip| ip.version_ihl >> 4) {
            Some(4) => Network::V4,
            Some(6) => Network::V6,
            _ => Network::Other,
        };
    }
    match bytes.at::<[u8; 2]>(ETHERNET - 2) {
        Some([0x08, 0x00]) => Network::V4,
        Some([0x86, 0xdd]) => Network::V6,
        Some([0x08, 0x06]) => Network::Arp,
        _ => Network::Other,
    }
}

#[inline(always)]
fn arp(bytes: &Bytes, packet: &mut Packet) -> Kind {
    let Some(arp) = bytes.at::<Arp>(ETHERNET) else {
        return Kind::Broken;
    };
    if arp.spaces == Arp::SPACES {
        set_v4(&mut packet.tuple.src, u32::from_ne_bytes(arp.sender));
        set_v4(&mut packet.tuple.dst, u32::from_ne_bytes(arp.target));
    }
    Kind::Arp
}

/// IP length of a packet that says 0: the rest of the frame if that is longer than any
/// IP header can say, as TCP's are under "BIG TCP" (`gso_max_size` above 65,535; RFC 2675
/// for IPv6, with or without its option). Else 0.
#[inline(always)]
fn big<const LINK: usize>(frame: u32) -> u32 {
    let len = frame.saturating_sub(LINK as u32);
    if len > u32::from(u16::MAX) { len } else { 0 }
}

#[inline(always)]
fn ipv4<const LINK: usize>(bytes: &Bytes, frame: u32, packet: &mut Packet) -> Kind {
    let Some(ip) = bytes.at::<Ipv4>(LINK) else {
        return Kind::Broken;
    };
    let header = u32::from(ip.version_ihl & 0x0f) * 4;
    let mut total = u32::from(u16::from_be_bytes(ip.total));
    if total == 0 {
        total = big::<LINK>(frame);
    }
    if ip.version_ihl >> 4 != 4
        || header < size_of::<Ipv4>() as u32
        || total < header
        || total + LINK as u32 > frame
    {
        return Kind::Broken;
    }
    packet.len = total;
    set_v4(&mut packet.tuple.src, u32::from_ne_bytes(ip.src));
    set_v4(&mut packet.tuple.dst, u32::from_ne_bytes(ip.dst));
    packet.tuple.protocol = ip.protocol;
    packet.hops = ip.ttl;
    // "More fragments", and the offset.
    let fragment = u16::from_be_bytes(ip.fragment) & 0x3fff;
    if fragment != 0 {
        packet.id = u32::from(u16::from_be_bytes(ip.id));
        packet.at = u32::from(fragment & 0x1fff) * 8;
        if packet.at != 0 {
            packet.part = part::LATER;
            packet.problem = reason::NO_FIRST_FRAGMENT;
            return Kind::Ip;
        }
        packet.part = part::FIRST;
        packet.at = total - header;
    }
    if ip.protocol == proto::ICMPV6 {
        packet.problem = reason::UNKNOWN_L4;
        return Kind::Ip;
    }
    transport(bytes, LINK + header as usize, total - header, packet);
    Kind::Ip
}

#[inline(always)]
fn ipv6<const LINK: usize>(bytes: &Bytes, frame: u32, packet: &mut Packet) -> Kind {
    let Some(ip) = bytes.at::<Ipv6>(LINK) else {
        return Kind::Broken;
    };
    let fixed = size_of::<Ipv6>() as u32;
    let mut total = fixed + u32::from(u16::from_be_bytes(ip.payload));
    if total == fixed {
        total = big::<LINK>(frame).max(fixed);
    }
    if ip.version >> 4 != 6 || total + LINK as u32 > frame {
        return Kind::Broken;
    }
    packet.len = total;
    packet.hops = ip.hops;
    set_v6(&mut packet.tuple.src, words(&ip.src));
    set_v6(&mut packet.tuple.dst, words(&ip.dst));
    // A mapped address never appears on the wire (RFC 6890); here it would pass for
    // the IPv4 address.
    if is_v4(&packet.tuple.src) || is_v4(&packet.tuple.dst) {
        return Kind::Broken;
    }
    let mut next = ip.next;
    let mut offset = fixed;
    for _ in 0..EXTENSIONS {
        let at = LINK + offset as usize;
        match next {
            // Hop-by-hop options, routing, destination options (RFC 8200 §4).
            0 | 43 | 60 => {
                let Some(header) = bytes.at::<[u8; 2]>(at) else {
                    packet.problem = reason::INVALID_PACKET;
                    return Kind::Ip;
                };
                next = header[0];
                offset += (u32::from(header[1]) + 1) * 8;
            }
            FRAGMENT => {
                let Some(header) = bytes.at::<[u8; 8]>(at) else {
                    packet.problem = reason::INVALID_PACKET;
                    return Kind::Ip;
                };
                next = header[0];
                offset += 8;
                if packet.part != part::WHOLE {
                    // A fragment of fragments: which of the two would be judged?
                    packet.problem = reason::INVALID_PACKET;
                    return Kind::Ip;
                }
                // The offset in units of eight bytes, and "more fragments".
                let fragment = u16::from_be_bytes([header[2], header[3]]) & 0xfff9;
                packet.id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                packet.at = u32::from(fragment & 0xfff8);
                if packet.at != 0 {
                    packet.tuple.protocol = next;
                    packet.part = part::LATER;
                    packet.problem = reason::NO_FIRST_FRAGMENT;
                    return Kind::Ip;
                }
                packet.at = total.saturating_sub(offset);
                packet.part = if fragment == 0 {
                    part::ATOMIC
                } else {
                    part::FIRST
                };
            }
            _ => break,
        }
    }
    packet.tuple.protocol = next;
    if matches!(next, 0 | 43 | FRAGMENT | 60) || offset > total {
        packet.problem = reason::INVALID_PACKET;
        return Kind::Ip;
    }
    if next == proto::ICMP {
        packet.problem = reason::UNKNOWN_L4;
        return Kind::Ip;
    }
    transport(bytes, LINK + offset as usize, total - offset, packet);
    let discovery = packet.problem == 0
        && next == proto::ICMPV6
        // Neighbours ignore it in fragments (RFC 6980).
        && packet.part == part::WHOLE
        // Only a neighbour's packet can still have all its hops (RFC 4861 §11.2).
        && ip.hops == 255
        && matches!(
            packet.tuple.icmp_type(),
            icmp::V6_ROUTER_SOLICITATION
                | icmp::V6_NEIGHBOUR_SOLICITATION
                | icmp::V6_NEIGHBOUR_ADVERTISEMENT
        );
    if discovery {
        Kind::NeighbourDiscovery
    } else {
        Kind::Ip
    }
}

/// An address from the packet, without the call that a copy of its bytes would be.
#[inline(always)]
pub fn words(bytes: &Addr16) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *bytes;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

/// Reads the transport header; `length` bytes of IP payload start at `offset`.
#[inline(always)]
fn transport(bytes: &Bytes, offset: usize, length: u32, packet: &mut Packet) {
    packet.transport = offset as u32;
    packet.problem = reason::INVALID_PACKET;
    match packet.tuple.protocol {
        proto::TCP => {
            if length < size_of::<Tcp>() as u32 {
                return;
            }
            let Some(tcp) = bytes.at::<Tcp>(offset) else {
                return;
            };
            packet.tcp_flags = tcp.flags;
            packet.seq = u32::from_be_bytes(tcp.seq);
            packet.ack = u32::from_be_bytes(tcp.ack);
            packet.payload = length.saturating_sub(u32::from(tcp.offset >> 4) * 4);
            ports(&tcp.ports, packet);
        }
        proto::UDP | proto::SCTP => {
            let header = if packet.tuple.protocol == proto::UDP {
                UDP_HEADER
            } else {
                SCTP_HEADER
            };
            if length < header {
                return;
            }
            let Some(both) = bytes.at::<Ports>(offset) else {
                return;
            };
            ports(both, packet);
        }
        proto::ICMP | proto::ICMPV6 => {
            if length < size_of::<Icmp>() as u32 {
                return;
            }
            let Some(icmp) = bytes.at::<Icmp>(offset) else {
                return;
            };
            packet.tuple.src_port = [icmp.kind, icmp.code];
            if icmp::is_echo(packet.tuple.protocol, icmp.kind) {
                packet.tuple.dst_port = icmp.id;
            }
            packet.problem = 0;
        }
        proto::IGMP => packet.problem = reason::FORBIDDEN_IGMP,
        _ => packet.problem = reason::UNKNOWN_L4,
    }
}

#[inline(always)]
fn ports(ports: &Ports, packet: &mut Packet) {
    packet.tuple.src_port = ports.src;
    packet.tuple.dst_port = ports.dst;
    packet.problem = 0;
}

/// Reads the source address of an IP frame between `start` and `end`; false if it is
/// not one.
#[inline(always)]
pub fn source<const LINK: usize>(start: usize, end: usize, addr: &mut Addr) -> bool {
    let bytes = Bytes { start, end };
    match network::<LINK>(&bytes) {
        Network::V4 => {
            let Some(ip) = bytes.at::<Ipv4>(LINK) else {
                return false;
            };
            set_v4(addr, u32::from_ne_bytes(ip.src));
            true
        }
        Network::V6 => {
            let Some(ip) = bytes.at::<Ipv6>(LINK) else {
                return false;
            };
            *addr = Addr(ip.src);
            true
        }
        Network::Arp | Network::Other => false,
    }
}

/// Reads the rest of the tuple of a frame whose source was read: destination and protocol,
/// and the ports where they stand right behind a plain IP header.
#[inline(always)]
pub fn beyond_source<const LINK: usize>(start: usize, end: usize, tuple: &mut Tuple) {
    let bytes = Bytes { start, end };
    let at = match network::<LINK>(&bytes) {
        Network::V4 => {
            let Some(ip) = bytes.at::<Ipv4>(LINK) else {
                return;
            };
            set_v4(&mut tuple.dst, u32::from_ne_bytes(ip.dst));
            tuple.protocol = ip.protocol;
            // Behind options the ports are elsewhere, in a later fragment nowhere.
            if ip.version_ihl & 15 != 5 || u16::from_be_bytes(ip.fragment) & 0x1fff != 0 {
                return;
            }
            LINK + size_of::<Ipv4>()
        }
        Network::V6 => {
            let Some(ip) = bytes.at::<Ipv6>(LINK) else {
                return;
            };
            tuple.dst = Addr(ip.dst);
            tuple.protocol = ip.next;
            LINK + size_of::<Ipv6>()
        }
        Network::Arp | Network::Other => return,
    };
    let has_ports = matches!(tuple.protocol, proto::TCP | proto::UDP | proto::SCTP);
    if let Some(ports) = bytes.at::<[u8; 4]>(at).filter(|_| has_ports) {
        tuple.src_port = [ports[0], ports[1]];
        tuple.dst_port = [ports[2], ports[3]];
    }
}

/// The first `N` bytes between `start` and `end`, if there are as many.
#[inline(always)]
pub fn head<'a, const N: usize>(start: usize, end: usize) -> Option<&'a [u8; N]> {
    if start + N > end {
        return None;
    }
    // SAFETY: within the message, as just checked (the verifier checks it again).
    Some(unsafe { &*(start as *const [u8; N]) })
}

/// A hardware address.
pub type Hardware = [u8; 6];
/// Where in the frame the hardware address is that it is for.
pub const HARDWARE_TARGET: u32 = 0;
/// Where in the frame the hardware address is that it is from.
pub const HARDWARE_SOURCE: u32 = 6;

/// Cuts off what follows the frame's content, as padding to the least length of an Ethernet
/// frame does (IEEE 802.3 §3.2.8): nobody reads it, and it may hold anything. What is longer
/// than that, nobody pads.
#[inline(always)]
pub fn cut(ctx: &TcContext, end: u32) -> Result<(), u8> {
    const LEAST: u32 = 60;
    let len = ctx.len();
    if len == end {
        return Ok(());
    }
    // SAFETY: a valid context; the length is one that the frame has, and no flags.
    if len < end || len > LEAST || unsafe { bpf_skb_change_tail(ctx.as_ptr().cast(), end, 0) } != 0
    {
        return Err(reason::INVALID_PACKET);
    }
    Ok(())
}

/// Is the frame for more than one neighbour: broadcast or multicast (IEEE 802, the first bit
/// on the wire)?
#[inline(always)]
pub fn is_for_group(ctx: &TcContext) -> bool {
    ctx.load::<u8>(0).is_ok_and(|first| first & 1 != 0)
}

/// Reads the tuple of the packet that an ICMP error carries; false if it is not one
/// we can read: with many extension headers, or a later fragment.
#[inline(always)]
pub fn inner(ctx: &TcContext, packet: &Packet, room: &mut Room, tuple: &mut Tuple) -> bool {
    read_inner(ctx, packet, room, tuple).is_some()
}

/// Where a header is copied to: on the stack, each kind of header would have a place of
/// its own.
pub type Room = [u8; size_of::<Ipv6>()];

#[inline(always)]
fn read_inner(ctx: &TcContext, packet: &Packet, room: &mut Room, tuple: &mut Tuple) -> Option<()> {
    let start = packet.transport + size_of::<Icmp>() as u32;
    let ports_at;
    if packet.tuple.protocol == proto::ICMP {
        let ip: &Ipv4 = load(ctx, start, room)?;
        if ip.version_ihl >> 4 != 4 || u16::from_be_bytes(ip.fragment) & 0x1fff != 0 {
            return None;
        }
        set_v4(&mut tuple.src, u32::from_ne_bytes(ip.src));
        set_v4(&mut tuple.dst, u32::from_ne_bytes(ip.dst));
        tuple.protocol = ip.protocol;
        ports_at = start + u32::from(ip.version_ihl & 0x0f) * 4;
    } else {
        let ip: &Ipv6 = load(ctx, start, room)?;
        if ip.version >> 4 != 6 {
            return None;
        }
        set_v6(&mut tuple.src, words(&ip.src));
        set_v6(&mut tuple.dst, words(&ip.dst));
        tuple.protocol = ip.next;
        let mut behind = start + size_of::<Ipv6>() as u32;
        for _ in 0..INNER_EXTENSIONS {
            match tuple.protocol {
                0 | 43 | 60 => {
                    let header: &[u8; 2] = load(ctx, behind, room)?;
                    tuple.protocol = header[0];
                    behind += (u32::from(header[1]) + 1) * 8;
                }
                // "Packet too big" is about fragments, too.
                FRAGMENT => {
                    let header: &[u8; 4] = load(ctx, behind, room)?;
                    if u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 {
                        return None;
                    }
                    tuple.protocol = header[0];
                    behind += 8;
                }
                _ => break,
            }
        }
        ports_at = behind;
    }
    match tuple.protocol {
        proto::TCP | proto::UDP | proto::SCTP => {
            let ports: &Ports = load(ctx, ports_at, room)?;
            tuple.src_port = ports.src;
            tuple.dst_port = ports.dst;
        }
        proto::ICMP | proto::ICMPV6 => {
            let icmp: &Icmp = load(ctx, ports_at, room)?;
            if !icmp::is_echo(tuple.protocol, icmp.kind) {
                return None;
            }
            tuple.src_port = [icmp.kind, icmp.code];
            tuple.dst_port = icmp.id;
        }
        _ => return None,
    }
    Some(())
}

/// A copy of the `T` at `offset`: for the rare packet, where the verifier could not
/// follow the offset.
#[inline(always)]
pub fn load<'a, T>(ctx: &TcContext, offset: u32, room: &'a mut Room) -> Option<&'a T> {
    const { assert!(core::mem::align_of::<T>() == 1 && size_of::<T>() <= size_of::<Room>()) };
    // SAFETY: the helper writes a `T`'s worth of bytes into the room, or fails; every bit
    // pattern of the header types is valid and they need no alignment.
    unsafe {
        let result = bpf_skb_load_bytes(
            ctx.as_ptr().cast(),
            offset,
            room.as_mut_ptr().cast(),
            size_of::<T>() as u32,
        );
        (result == 0).then(|| &*room.as_ptr().cast::<T>())
    }
}
