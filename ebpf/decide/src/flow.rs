//! The life of a flow entry: which packets it covers, when it ends, what it counts.

use tidegate_ebpf_shared::{
    addr::{Addr, proto},
    flow::{FlowEntry, FlowKey, flags},
    limits::timeout,
    policy::verdict,
};

use crate::{
    policy::Evaluation,
    tuple::{Tuple, tcp},
};

const NANOSECONDS: u64 = 1_000_000_000;
const CLOSING: u16 = flags::TX_FIN | flags::RX_FIN | flags::RST;

/// Was the packet whose source is (or is not) the low end sent by the initiator?
#[inline(always)]
pub fn from_source(entry: &FlowEntry, src_is_low: bool) -> bool {
    (entry.flags & flags::SRC_IS_LOW != 0) == src_is_low
}

/// Endpoint id on the side that sent the packet; 0 if that side is not local.
#[inline(always)]
pub fn sender_endpoint(entry: &FlowEntry, from_source: bool) -> u32 {
    if from_source {
        entry.src_endpoint
    } else {
        entry.dst_endpoint
    }
}

/// Seconds of silence after which a flow counts as gone.
#[inline(always)]
pub fn idle_limit(entry: &FlowEntry, protocol: u8) -> u64 {
    if protocol != proto::TCP {
        timeout::ANY
    } else if is_closed(entry) {
        timeout::TCP_CLOSED
    } else if entry.flags & flags::REPLIED != 0 {
        timeout::TCP_ESTABLISHED
    } else {
        timeout::TCP_SYN
    }
}

/// Has the flow been silent for longer than its limit? `now` in `CLOCK_MONOTONIC` ns.
#[inline(always)]
pub fn is_expired(entry: &FlowEntry, protocol: u8, now: u64) -> bool {
    // Saturating: another CPU may have seen a packet after our clock was read.
    now.saturating_sub(entry.last_seen) > idle_limit(entry, protocol) * NANOSECONDS
}

/// Both FINs or a RST were seen.
#[inline(always)]
pub fn is_closed(entry: &FlowEntry) -> bool {
    let both = flags::TX_FIN | flags::RX_FIN;
    entry.flags & flags::RST != 0 || entry.flags & both == both
}

/// Does an opening packet (see [`Tuple::is_opener`]) start a new flow although the
/// table has a live entry of the same key?
///
/// From the initiator: when the old flow has begun to end (port reuse). From the
/// other end: always, or it could pass as a reply to something it was never asked;
/// except for steered flows, whose entry stands between their two legs.
#[inline(always)]
pub fn is_reopened(entry: &FlowEntry, opener: bool, from_source: bool) -> bool {
    opener
        && if from_source {
            entry.flags & CLOSING != 0
        } else {
            entry.flags & flags::REDIRECT == 0
        }
}

/// May the initiator's packet open a flow anew, this time steered? Datagrams may at
/// any time, a TCP connection only from its first segment.
#[inline(always)]
pub fn may_reopen(tuple: &Tuple, tcp_flags: u8, from_source: bool) -> bool {
    from_source && (tuple.protocol != proto::TCP || tuple.is_opener(tcp_flags))
}

/// What of a packet changes the state of its flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// IP length.
    pub len: u32,
    /// TCP flags, 0 for other protocols.
    pub tcp_flags: u8,
    /// TCP sequence number.
    pub seq: u32,
    /// TCP acknowledgment number; means something with the ACK flag.
    pub ack: u32,
}

/// How far beyond the last acknowledgment a RST is still believed: more than the
/// default receive window of Linux, a thousandth of the sequence space.
const RST_WINDOW: u32 = 1 << 22;

/// Sixteen bits that tell two flow keys apart nearly always, in the lower fourteen: for
/// bookkeeping only, anybody can find two keys with the same.
#[inline(always)]
pub fn fingerprint(key: &FlowKey) -> u16 {
    let fold = |addr: &Addr| {
        let [a, b, c, d] = *addr.words();
        a ^ b.rotate_left(8) ^ c.rotate_left(16) ^ d
    };
    let ports = u32::from(u16::from_ne_bytes(key.low_port)) << 16
        | u32::from(u16::from_ne_bytes(key.high_port));
    let mixed = fold(&key.low_addr).wrapping_mul(0x9e37_79b1)
        ^ fold(&key.high_addr).wrapping_mul(0x85eb_ca6b)
        ^ ports.wrapping_mul(0xc2b2_ae35);
    (mixed.wrapping_mul(0x27d4_eb2f) >> 18) as u16
}

/// Writes the entry of a flow opened at `now`; counts nothing yet.
#[inline(always)]
pub fn open(entry: &mut FlowEntry, evaluation: &Evaluation, src_is_low: bool, now: u64) {
    *entry = FlowEntry {
        created: now,
        last_seen: now,
        flags: if src_is_low { flags::SRC_IS_LOW } else { 0 },
        ..FlowEntry::default()
    };
    renew(entry, evaluation);
}

/// Takes over a new evaluation. A steered flow stays steered for its whole life:
/// its two legs have different sequence numbers.
#[inline(always)]
pub fn renew(entry: &mut FlowEntry, evaluation: &Evaluation) {
    entry.src_identity = evaluation.src_identity;
    entry.dst_identity = evaluation.dst_identity;
    entry.src_endpoint = evaluation.src_endpoint;
    entry.dst_endpoint = evaluation.dst_endpoint;
    entry.egress_rule = evaluation.egress_rule;
    entry.ingress_rule = evaluation.ingress_rule;
    entry.egress_l7 = evaluation.egress_l7;
    entry.ingress_l7 = evaluation.ingress_l7;
    entry.shadow_rule = evaluation.shadow_rule;
    entry.shadow_verdict = evaluation.shadow_verdict;
    if evaluation.verdict == verdict::REDIRECT {
        entry.flags |= flags::REDIRECT;
    }
    // Last: a reader on another CPU that sees the new number sees the new policy.
    entry.generation = evaluation.generation;
}

/// Counts a packet and advances the TCP state. True if this packet ended the flow:
/// reported once.
///
/// `add` adds to a counter. The kernel's is atomic, because two CPUs may meet in one
/// entry; the language has no portable way to say so on that target.
#[inline(always)]
pub fn account(
    entry: &mut FlowEntry,
    from_source: bool,
    segment: Segment,
    now: u64,
    add: impl Fn(&mut u64, u64),
) -> bool {
    let was_closed = is_closed(entry);
    let len = u64::from(segment.len);
    if from_source {
        add(&mut entry.tx_packets, 1);
        add(&mut entry.tx_bytes, len);
        entry.tx_tcp_flags |= segment.tcp_flags;
    } else {
        add(&mut entry.rx_packets, 1);
        add(&mut entry.rx_bytes, len);
        entry.rx_tcp_flags |= segment.tcp_flags;
        entry.flags |= flags::REPLIED;
    }
    // The two legs of a steered flow number their bytes apart: the proxy's segments say
    // what either end may reset.
    if entry.flags & flags::REDIRECT == 0 {
        acknowledged(entry, !from_source, segment);
    }
    advance(entry, from_source, segment);
    entry.last_seen = now;
    !was_closed && is_closed(entry)
}

/// A segment the proxy sent on one of a steered flow's legs, towards its destination if
/// `from_source`. Keeps the flow alive and ends it: what the proxy has closed towards
/// the client is over whether there ever was an upstream leg or not. Not counted: the
/// packet it relays was. True if it ended the flow.
#[inline(always)]
pub fn relayed(entry: &mut FlowEntry, from_source: bool, segment: Segment, now: u64) -> bool {
    let was_closed = is_closed(entry);
    if !from_source {
        entry.flags |= flags::REPLIED;
    }
    acknowledged(entry, !from_source, segment);
    if segment.tcp_flags & tcp::RST != 0 && !from_source {
        // From our own stack, so there is nothing to believe.
        entry.flags |= flags::RST;
    } else if segment.tcp_flags & tcp::FIN != 0 {
        entry.flags |= fin(from_source);
    }
    entry.last_seen = now;
    !was_closed && is_closed(entry)
}

/// Remembers the acknowledgment a segment carries to the source or the destination.
#[inline(always)]
fn acknowledged(entry: &mut FlowEntry, to_source: bool, segment: Segment) {
    if segment.tcp_flags & (tcp::ACK | tcp::RST) != tcp::ACK {
        return;
    }
    if to_source {
        entry.ack_to_src = segment.ack;
        entry.flags |= flags::ACKED_SRC;
    } else {
        entry.ack_to_dst = segment.ack;
        entry.flags |= flags::ACKED_DST;
    }
}

#[inline(always)]
fn advance(entry: &mut FlowEntry, from_source: bool, segment: Segment) {
    if segment.tcp_flags & (tcp::FIN | tcp::RST) == 0 {
        return;
    }
    if segment.tcp_flags & tcp::RST == 0 {
        entry.flags |= fin(from_source);
    } else if is_believed(entry, from_source, segment.seq) {
        entry.flags |= flags::RST;
    }
}

/// Would the receiver of a RST with this sequence number believe it? Before anything
/// was acknowledged we cannot know, and the entry lives for seconds only.
#[inline(always)]
fn is_believed(entry: &FlowEntry, from_source: bool, seq: u32) -> bool {
    let (known, ack) = if from_source {
        (flags::ACKED_SRC, entry.ack_to_src)
    } else {
        (flags::ACKED_DST, entry.ack_to_dst)
    };
    entry.flags & known == 0 || seq.wrapping_sub(ack) < RST_WINDOW
}

#[inline(always)]
const fn fin(from_source: bool) -> u16 {
    if from_source {
        flags::TX_FIN
    } else {
        flags::RX_FIN
    }
}

/// Key and protocol are enough to say whether a stored flow is gone; for the
/// agent's sweep of the table.
pub fn is_gone(key: &FlowKey, entry: &FlowEntry, now: u64) -> bool {
    is_expired(entry, key.protocol, now)
}
