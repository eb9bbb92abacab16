//! What neighbours on a link tell each other before any policy can be asked: whose an
//! address is (ARP, RFC 826; neighbour discovery, RFC 4861), who routes, and which groups
//! somebody listens to (IGMP, RFC 3376; MLD, RFC 3810). Without it nobody is reached, so a
//! workload may say it: what is true of itself, in its plainest form, and nothing more.
//! What routers of the link say, a workload only hears.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use tidegate_decide::{Tables as _, tuple::icmp};
use tidegate_ebpf_shared::{
    addr::{Addr, proto},
    identity::reserved,
    reason,
};

use crate::{
    addr::{is_link_local, is_multicast, is_of_link, is_unspecified, is_v4, set_v6},
    bridge, groups,
    interface::{self, Tagging},
    packet::{
        Addr16, Arp, ETHERNET, HARDWARE_SOURCE, HARDWARE_TARGET, Hardware, Kind, Packet, cut,
        is_for_group, load, part, words,
    },
    scratch::{Scratch, scratch},
    tables::Maps,
};

/// What becomes of a frame.
pub enum Word {
    /// It is not of this kind: policy decides.
    Data,
    /// It passes as it is.
    Pass,
    /// It is not for a workload, and nothing was lost.
    Needless,
    /// Refused, for this reason.
    Refused(u8),
}

impl Word {
    /// As a number, because that is all the verifier believes of a global function's answer.
    #[inline(always)]
    fn number(&self) -> u32 {
        match self {
            Self::Data => 0,
            Self::Pass => 1,
            Self::Needless => 2,
            Self::Refused(reason) => 0x100 | *reason as u32,
        }
    }

    #[inline(always)]
    fn of(number: u32) -> Self {
        match number {
            0 => Self::Data,
            1 => Self::Pass,
            2 => Self::Needless,
            refused => Self::Refused(refused as u8),
        }
    }
}

/// Is the frame of one of the protocols of this file?
#[inline(always)]
pub fn is_of_link_protocols(kind: Kind, packet: &Packet) -> bool {
    match kind {
        Kind::Arp | Kind::NeighbourDiscovery => true,
        Kind::Ip => match packet.tuple.protocol {
            proto::IGMP => is_v4(&packet.tuple.src),
            proto::ICMPV6 => packet.problem == 0 && is_of_routers_or_groups(packet),
            _ => false,
        },
        Kind::Other | Kind::Broken => false,
    }
}

#[inline(always)]
fn is_of_routers_or_groups(packet: &Packet) -> bool {
    is_report(packet)
        || matches!(
            packet.tuple.icmp_type(),
            icmp::V6_LISTENER_QUERY | icmp::V6_ROUTER_ADVERTISEMENT | icmp::V6_REDIRECT
        )
}

#[inline(always)]
fn is_report(packet: &Packet) -> bool {
    matches!(
        packet.tuple.icmp_type(),
        icmp::V6_LISTENER_REPORT | icmp::V6_LISTENER_DONE | icmp::V6_LISTENER_REPORT_2
    )
}

/// What becomes of a frame of these protocols that a workload sent.
#[inline(always)]
pub fn said(ctx: &TcContext, kind: Kind, endpoint: u32) -> Word {
    Word::of(said_apart(ctx.skb.skb, kind as u32, endpoint))
}

/// What becomes of one on its way to a workload.
#[inline(always)]
pub fn heard(ctx: &TcContext, kind: Kind, endpoint: u32) -> Word {
    Word::of(heard_apart(ctx.skb.skb, kind as u32, endpoint))
}

/// A global function, for the reasons given at `admit::judge_apart`. The frame has been read
/// into this CPU's scratch memory.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn said_apart(skb: *mut __sk_buff, kind: u32, endpoint: u32) -> u32 {
    let ctx = TcContext::new(skb);
    let Some(work) = scratch() else {
        return Word::Refused(reason::INVALID_PACKET).number();
    };
    let result = if kind == Kind::Arp as u32 {
        arp(&ctx, work, endpoint)
    } else if kind == Kind::NeighbourDiscovery as u32 {
        if !is_of_neighbour(&work.packet.tuple.dst) {
            return Word::Data.number();
        }
        discovery(&ctx, work, endpoint)
    } else if work.packet.tuple.protocol == proto::IGMP {
        igmp(&ctx, work, endpoint)
    } else if is_report(&work.packet) {
        groups::mld(&ctx, work)
    } else {
        Err(reason::FORBIDDEN_ICMPV6)
    };
    match result {
        Ok(()) => Word::Pass,
        Err(reason) => Word::Refused(reason),
    }
    .number()
}

/// The same for [`heard`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn heard_apart(skb: *mut __sk_buff, kind: u32, endpoint: u32) -> u32 {
    let ctx = TcContext::new(skb);
    let Some(work) = scratch() else {
        return Word::Refused(reason::INVALID_PACKET).number();
    };
    if kind == Kind::Arp as u32 || kind == Kind::NeighbourDiscovery as u32 {
        return about(&ctx, work, endpoint).number();
    }
    let packet = &work.packet;
    let (src, dst) = (&packet.tuple.src, &packet.tuple.dst);
    let (is_query, is_report, hops) = if packet.tuple.protocol == proto::IGMP {
        let Some([kind]) = load::<[u8; 1]>(&ctx, packet.transport, &mut work.room) else {
            return Word::Data.number();
        };
        let is_whole = packet.part == part::WHOLE && is_multicast(dst);
        (
            is_whole && *kind == groups::IGMP_QUERY,
            is_whole && groups::is_igmp_report(*kind),
            1,
        )
    } else {
        let of_router = is_link_local(src) && packet.part == part::WHOLE;
        match packet.tuple.icmp_type() {
            icmp::V6_ROUTER_ADVERTISEMENT => (
                of_router && (is_of_link(dst) || is_link_local(dst)),
                false,
                255,
            ),
            icmp::V6_LISTENER_QUERY => (of_router && is_multicast(dst), false, 1),
            _ => (false, is_report(packet) && is_multicast(dst), 1),
        }
    };
    let word = if is_report {
        // For routers and bridges that listen (RFC 4541 §2.1.1): neither is a workload.
        Word::Needless
    } else if is_query && packet.hops == hops && !is_by_workload(&ctx) {
        Word::Pass
    } else {
        Word::Data
    };
    word.number()
}

/// Did the packet come in by a workload's device?
#[inline(always)]
pub fn is_by_workload(ctx: &TcContext) -> bool {
    // SAFETY: the kernel hands the program a valid context.
    let ingress = unsafe { (&raw const (*ctx.skb.skb).ingress_ifindex).read_volatile() };
    ingress != 0 && interface::tagging(ingress) == Tagging::Workloads
}

/// Is an address that endpoint's?
#[inline(always)]
pub fn is_own(addr: &Addr, endpoint: u32) -> bool {
    Maps.address(addr)
        .is_some_and(|info| info.endpoint == endpoint)
}

/// May the endpoint say that it has this address? One of its link: endpoints do not declare
/// those, and nothing is delivered for one but what ingress policy lets in.
#[inline(always)]
fn may_claim(addr: &Addr, endpoint: u32) -> bool {
    is_link_local(addr) || is_own(addr, endpoint)
}

/// May neighbour discovery for this address be for a neighbour? The node forwards what is
/// not, as any packet: it is judged as one, or a workload could send what it likes in the
/// options of a solicitation. Another endpoint is a neighbour on a bridge, or one that the node
/// answers for (`proxy_ndp`); forwarded to it, it has a hop less and is discovery no more, so
/// that both policies are asked at its device.
#[inline(always)]
fn is_of_neighbour(dst: &Addr) -> bool {
    if is_of_link(dst) || is_link_local(dst) {
        return true;
    }
    let Some(info) = Maps.address(dst) else {
        return false;
    };
    info.identity == reserved::HOST || info.endpoint != 0
}

/// ARP: neighbours, and the node, remember who said last that an address is his. Of kinds
/// that we do not read, some are believed all the same (IEEE 802 for Ethernet).
#[inline(always)]
fn arp(ctx: &TcContext, work: &mut Scratch, endpoint: u32) -> Result<(), u8> {
    const REQUEST: [u8; 2] = [0, 1];
    const REPLY: [u8; 2] = [0, 2];
    let arp: &Arp = load(ctx, ETHERNET as u32, &mut work.room).ok_or(reason::INVALID_PACKET)?;
    if arp.spaces != Arp::SPACES || (arp.operation != REQUEST && arp.operation != REPLY) {
        return Err(reason::INVALID_PACKET);
    }
    let tuple = &work.packet.tuple;
    // Who asks whether an address is free has none yet (RFC 5227 §2.1.1), and whoever is
    // about to take it as well gives it up (§2.1.1, last paragraph).
    let claimed = if is_unspecified(&tuple.src) {
        if arp.operation != REQUEST {
            return Err(reason::INVALID_SOURCE_IP);
        }
        &tuple.dst
    } else {
        &tuple.src
    };
    if !is_own(claimed, endpoint) {
        return Err(reason::INVALID_SOURCE_IP);
    }
    let sender = arp.sender_hardware;
    // Nothing is known of it in a request (RFC 826); programs fill it in these ways.
    let target = arp.target_hardware;
    let source: Hardware = *hardware(ctx, HARDWARE_SOURCE, work)?;
    if sender != source {
        return Err(reason::INVALID_SOURCE_MAC);
    }
    let to: Hardware = *hardware(ctx, HARDWARE_TARGET, work)?;
    if target != [0; 6] && target != [0xff; 6] && target != source && target != to {
        return Err(reason::INVALID_PACKET);
    }
    cut(ctx, (ETHERNET + size_of::<Arp>()) as u32)
}

#[inline(always)]
fn hardware<'a>(ctx: &TcContext, at: u32, work: &'a mut Scratch) -> Result<&'a Hardware, u8> {
    load(ctx, at, &mut work.room).ok_or(reason::INVALID_PACKET)
}

/// Neighbour discovery of RFC 4861 §4.1, §4.3 and §4.4, with the nonce of RFC 7527 §4.1.
#[inline(always)]
fn discovery(ctx: &TcContext, work: &mut Scratch, endpoint: u32) -> Result<(), u8> {
    /// IPv6 header, and message without and with a target.
    const IP: u32 = 40;
    const SHORT: u32 = 8;
    const LONG: u32 = SHORT + 16;
    /// One unit of eight bytes: kind, length, and six bytes.
    const OPTION: u32 = 8;
    const SOURCE: u8 = 1;
    const TARGET: u8 = 2;
    const NONCE: u8 = 14;
    let packet = &work.packet;
    let kind = packet.tuple.icmp_type();
    let (src, dst) = (&packet.tuple.src, &packet.tuple.dst);
    let is_probe = is_unspecified(src);
    if !(is_probe || may_claim(src, endpoint)) {
        return Err(reason::INVALID_SOURCE_IP);
    }
    let fixed = if kind == icmp::V6_ROUTER_SOLICITATION {
        SHORT
    } else {
        LONG
    };
    let has_option = packet.len == IP + fixed + OPTION;
    let at = packet.transport;
    if at != ETHERNET as u32 + IP
        || (packet.len != IP + fixed && !has_option)
        || ctx.len() != ETHERNET as u32 + packet.len
        || packet.tuple.src_port[1] != 0
    {
        return Err(reason::INVALID_PACKET);
    }
    // Flags of an advertisement, else nothing.
    let flags = *load::<[u8; 4]>(ctx, at + 4, &mut work.room).ok_or(reason::INVALID_PACKET)?;
    let known = if kind == icmp::V6_NEIGHBOUR_ADVERTISEMENT {
        0xe0
    } else {
        0
    };
    if flags[0] & !known != 0 || flags[1] != 0 || flags[2] != 0 || flags[3] != 0 {
        return Err(reason::INVALID_PACKET);
    }
    let target = &mut work.opened.src;
    if kind != icmp::V6_ROUTER_SOLICITATION {
        let bytes: &Addr16 = load(ctx, at + SHORT, &mut work.room).ok_or(reason::INVALID_PACKET)?;
        set_v6(target, words(bytes));
    }
    let wanted = match kind {
        icmp::V6_NEIGHBOUR_SOLICITATION => {
            // Duplicate address detection: as for ARP (RFC 4862 §5.4.3).
            if is_probe && !may_claim(target, endpoint) {
                return Err(reason::INVALID_SOURCE_IP);
            }
            let is_alone = dst.words() == target.words() && !is_probe;
            if !is_alone && !is_solicited_node(dst, target) {
                return Err(reason::INVALID_PACKET);
            }
            if is_probe { NONCE } else { SOURCE }
        }
        icmp::V6_NEIGHBOUR_ADVERTISEMENT => {
            if is_probe || !may_claim(target, endpoint) {
                return Err(reason::INVALID_SOURCE_IP);
            }
            TARGET
        }
        _ if is_probe => 0,
        _ => SOURCE,
    };
    // All nodes, or all routers (RFC 9131 §4.1), or one.
    if kind != icmp::V6_NEIGHBOUR_SOLICITATION && is_multicast(dst) && !is_all(dst) {
        return Err(reason::INVALID_PACKET);
    }
    if !has_option {
        return Ok(());
    }
    let source =
        *load::<Hardware>(ctx, HARDWARE_SOURCE, &mut work.room).ok_or(reason::INVALID_PACKET)?;
    let option = load::<[u8; 8]>(ctx, at + fixed, &mut work.room).ok_or(reason::INVALID_PACKET)?;
    if option[0] != wanted || option[1] != 1 {
        return Err(reason::INVALID_PACKET);
    }
    let [_, _, a, b, c, d, e, f] = *option;
    if wanted != NONCE && [a, b, c, d, e, f] != source {
        return Err(reason::INVALID_SOURCE_MAC);
    }
    Ok(())
}

/// ff02::1:ff00:0/104 with the last three bytes of the target (RFC 4291 §2.7.1).
#[inline(always)]
fn is_solicited_node(dst: &Addr, target: &Addr) -> bool {
    let [a, b, c, d] = *dst.words();
    let low = u32::from_be(target.words()[3]) & 0x00ff_ffff;
    u32::from_be(a) == 0xff02_0000
        && b == 0
        && u32::from_be(c) == 1
        && u32::from_be(d) == 0xff00_0000 | low
}

/// ff02::1 or ff02::2.
#[inline(always)]
fn is_all(dst: &Addr) -> bool {
    let [a, b, c, d] = *dst.words();
    u32::from_be(a) == 0xff02_0000 && b == 0 && c == 0 && matches!(u32::from_be(d), 1 | 2)
}

/// IGMP by whom it may be by.
#[inline(always)]
fn igmp(ctx: &TcContext, work: &mut Scratch, endpoint: u32) -> Result<(), u8> {
    let src = &work.packet.tuple.src;
    // Who has no address yet reports from none (RFC 3376 §4.2.13).
    if !is_unspecified(src) && !is_own(src, endpoint) {
        return Err(reason::INVALID_SOURCE_IP);
    }
    groups::igmp(ctx, work)
}

/// ARP and discovery for one neighbour alone are for who has the address that they are
/// about: a frame goes by its hardware address.
#[inline(always)]
fn about(ctx: &TcContext, work: &mut Scratch, endpoint: u32) -> Word {
    if is_for_group(ctx) {
        return Word::Pass;
    }
    let packet = &work.packet;
    let is_solicitation = packet.tuple.protocol == proto::ICMPV6
        && packet.tuple.icmp_type() == icmp::V6_NEIGHBOUR_SOLICITATION;
    let mut addr = &packet.tuple.dst;
    if is_solicitation {
        // What ends before its target nobody reads.
        let Some(target) = load::<Addr16>(ctx, packet.transport + 8, &mut work.room) else {
            return Word::Pass;
        };
        set_v6(&mut work.opened.src, words(target));
        addr = &work.opened.src;
    }
    // An answer to who has no address yet is for nobody's.
    if is_unspecified(addr) || is_link_local(addr) || is_multicast(addr) {
        return Word::Pass;
    }
    let info = Maps.address(addr).unwrap_or_default();
    let is_others =
        info.endpoint != endpoint && (info.endpoint != 0 || bridge::is_port(work.packet.ifindex));
    if is_others {
        Word::Refused(reason::INVALID_DESTINATION_MAC)
    } else {
        Word::Pass
    }
}
