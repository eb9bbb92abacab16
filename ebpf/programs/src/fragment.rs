//! Fragments: the first of a datagram says what the others are of, and all of them are
//! decided alike. They have to come in order, as Linux sends them: keeping back those that
//! come too early would take memory that anybody can fill.

use tidegate_decide::tuple::icmp;
use tidegate_ebpf_shared::{fragment::place, limits::timeout, reason};

use crate::{addr::is_v4, maps::FRAGMENTS, packet::part, scratch::Scratch};

const NANOSECONDS: u64 = 1_000_000_000;

/// Where a fragment was seen.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Seen {
    /// Coming in from a workload.
    FromEndpoint,
    /// Coming in from outside.
    FromOutside,
    /// Going out to a workload.
    ToEndpoint,
}

/// Gives a later fragment the ports of its datagram, and keeps those of a first one. What
/// cannot be known stays a problem of the packet.
#[inline(always)]
pub fn resolve(work: &mut Scratch, seen: Seen) {
    if work.packet.part != part::WHOLE {
        fragment(work, seen);
    }
}

/// In a stack frame of its own, and for the rare packet.
#[inline(never)]
fn fragment(work: &mut Scratch, seen: Seen) {
    let packet = &mut work.packet;
    work.datagram.src = packet.tuple.src;
    work.datagram.dst = packet.tuple.dst;
    work.datagram.id = packet.id;
    work.datagram.place = match seen {
        Seen::FromEndpoint => packet.ifindex,
        Seen::FromOutside => place::OUTSIDE,
        Seen::ToEndpoint => packet.ifindex | place::LEAVES,
    };
    work.datagram.protocol = if is_v4(&packet.tuple.src) {
        packet.tuple.protocol
    } else {
        0
    };
    let now = work.tick.coarse();
    if packet.part == part::FIRST {
        // Errors are judged by the packet they carry, which is in their first fragment
        // only; nobody sends any so long.
        let error = packet.tuple.is_icmp()
            && icmp::is_error(packet.tuple.protocol, packet.tuple.icmp_type());
        if packet.problem != 0 || error {
            // Nothing that follows is of the datagram that had this id before.
            let _ = FRAGMENTS.remove(&work.datagram);
            return;
        }
        work.head.seen = now;
        work.head.end = packet.at;
        work.head.src_port = packet.tuple.src_port;
        work.head.dst_port = packet.tuple.dst_port;
        work.head.protocol = packet.tuple.protocol;
        // Refused, those that follow are unknown.
        let _ = FRAGMENTS.insert(&work.datagram, &work.head, 0);
    } else if packet.part == part::LATER {
        let Some(head) = FRAGMENTS.get_ptr(&work.datagram) else {
            return;
        };
        // SAFETY: a value of the map; replaced as a whole, by packets of the same sender.
        let head = unsafe { &*head };
        if now.saturating_sub(head.seen) > timeout::FRAGMENTS * NANOSECONDS {
            return;
        }
        if packet.at < head.end {
            // It would overwrite what was judged (RFC 1858, RFC 5722).
            packet.problem = reason::INVALID_PACKET;
            return;
        }
        packet.tuple.src_port = head.src_port;
        packet.tuple.dst_port = head.dst_port;
        packet.tuple.protocol = head.protocol;
        packet.problem = 0;
        // All of it, for whom that matters: TCP that carries data.
        packet.payload = packet.len;
    }
}
