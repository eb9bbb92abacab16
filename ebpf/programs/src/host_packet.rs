//! Packets of host services' sockets whose kind has no hook where it connects or sends:
//! raw, ping, UDP-Lite, SCTP and whatever comes. Each packet is decided, for there is no
//! connection to decide about; TCP and UDP sockets have been judged before.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id},
    programs::{SkBuffContext, TcContext},
};
use tidegate_decide::{Evaluation, Tuple};
use tidegate_ebpf_shared::{addr::proto, policy::verdict, reason};

use crate::{
    addr::{set_v4, set_v6},
    attempt::Attempt,
    events,
    host_service::{decide_as, innermost, is_audited, report_denied},
    packet::Packet,
};

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;

/// Extension headers of IPv6 that are looked behind (RFC 8200 §4.1).
const EXTENSIONS: usize = 6;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Endpoint id of the innermost host service whose socket the packet is of; 0 if it is of none
/// or of another's.
///
/// # Safety
///
/// A valid context of a program that has these helpers: of a tc hook, or a cgroup's packets.
#[inline(always)]
unsafe fn owner(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the helpers read the packet's socket; a level below its own reads as 0.
    innermost(unsafe { bpf_skb_cgroup_id(skb) }, |level| unsafe {
        bpf_skb_ancestor_cgroup_id(skb, level)
    })
}

/// Notes which host service has sent a packet, if one of the node has. In a stack frame of its
/// own: only packets that may be dropped come here.
#[inline(never)]
pub fn note_sender(ctx: &TcContext, packet: &mut Packet) {
    // SAFETY: the kernel hands the program a valid context.
    packet.sender = unsafe {
        match (&raw const (*ctx.skb.skb).ingress_ifindex).read_volatile() {
            0 => owner(ctx.skb.skb),
            _ => 0,
        }
    };
}

/// Endpoint id of the host service whose socket is about to get a packet.
#[inline(always)]
pub fn receiver(ctx: &SkBuffContext) -> u32 {
    // SAFETY: the kernel hands the program a valid context.
    unsafe { owner(ctx.skb.skb) }
}

/// May this packet leave its socket?
#[inline(always)]
pub fn run(ctx: &SkBuffContext) -> bool {
    if !is_odd(ctx) {
        return true;
    }
    // SAFETY: the kernel hands the program a valid context.
    let endpoint = unsafe { owner(ctx.skb.skb) };
    if endpoint == 0 {
        return true;
    }
    let mut attempt = Attempt::default();
    let mut evaluation = Evaluation::default();
    let problem = read(ctx, &mut attempt.tuple);
    decide_as(endpoint, &attempt.tuple, &mut evaluation);
    if evaluation.is_allowed() {
        evaluation.reason = problem;
        if problem == 0 && evaluation.verdict == verdict::REDIRECT {
            evaluation.reason = reason::UNSTEERABLE;
        }
    }
    if evaluation.is_allowed() {
        if evaluation.is_refused_in_shadow() {
            events::rehearsed(&attempt.tuple, 0, &evaluation);
        }
        return true;
    }
    report_denied(&attempt, &evaluation);
    is_audited(&evaluation)
}

/// Is its socket of a kind that `connect` and `sendmsg` do not ask about?
#[inline(always)]
fn is_odd(ctx: &SkBuffContext) -> bool {
    // SAFETY: a valid context; the helper takes a socket that is not null, and says null
    // of one that is not whole (a handshake or its remains: TCP).
    unsafe {
        let sk = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return false;
        }
        let sk = bpf_sk_fullsock(sk);
        if sk.is_null() {
            return false;
        }
        let kind = (&raw const (*sk).type_).read_volatile();
        let protocol = (&raw const (*sk).protocol).read_volatile();
        !((kind == SOCK_STREAM && protocol == u32::from(proto::TCP))
            || (kind == SOCK_DGRAM && protocol == u32::from(proto::UDP)))
    }
}

/// Reads ends and protocol of the packet, which starts with its IP header; the reason if
/// it cannot be read that far.
#[inline(always)]
pub fn read(ctx: &SkBuffContext, tuple: &mut Tuple) -> u8 {
    let Ok(first) = ctx.load::<u8>(0) else {
        return reason::INVALID_PACKET;
    };
    let (at, whole) = if first >> 4 == 4 {
        let (Ok(protocol), Ok(fragment), Ok(src), Ok(dst)) = (
            ctx.load::<u8>(9),
            ctx.load::<[u8; 2]>(6),
            ctx.load::<u32>(12),
            ctx.load::<u32>(16),
        ) else {
            return reason::INVALID_PACKET;
        };
        tuple.protocol = protocol;
        set_v4(&mut tuple.src, src);
        set_v4(&mut tuple.dst, dst);
        // Offset, and "more fragments".
        let whole = u16::from_be_bytes(fragment) & 0x3fff == 0;
        (usize::from(first & 15) * 4, whole)
    } else {
        let (Ok(next), Ok(src), Ok(dst)) = (
            ctx.load::<u8>(6),
            ctx.load::<[u32; 4]>(8),
            ctx.load::<[u32; 4]>(24),
        ) else {
            return reason::INVALID_PACKET;
        };
        set_v6(&mut tuple.src, src);
        set_v6(&mut tuple.dst, dst);
        let (protocol, at, whole) = behind_extensions(ctx, next);
        tuple.protocol = protocol;
        (at, whole)
    };
    if !whole {
        return reason::FRAGMENT;
    }
    // Protocols without ports are judged by rules for every port, and have some bytes there.
    let ports = ctx.load::<[u8; 4]>(at).unwrap_or([0; 4]);
    tuple.src_port = [ports[0], ports[1]];
    if !tuple.is_icmp() {
        tuple.dst_port = [ports[2], ports[3]];
    }
    0
}

/// The transport protocol and where its header starts; false if the packet is a fragment
/// or does not come to an end.
#[inline(always)]
fn behind_extensions(ctx: &SkBuffContext, first: u8) -> (u8, usize, bool) {
    let (mut next, mut at) = (first, 40);
    for _ in 0..EXTENSIONS {
        if next == FRAGMENT {
            return (next, at, false);
        }
        if next != HOP_BY_HOP && next != ROUTING && next != DESTINATION {
            return (next, at, true);
        }
        let Ok([following, length]) = ctx.load::<[u8; 2]>(at) else {
            return (next, at, false);
        };
        next = following;
        at += (usize::from(length) + 1) * 8;
    }
    (next, at, false)
}
