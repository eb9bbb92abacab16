//! The life of a flow entry: which packets it covers, when it ends, what it counts.

use tidegate_ebpf_shared::{
    addr::proto,
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
    if evaluation.verdict == verdict::REDIRECT {
        entry.flags |= flags::REDIRECT;
    }
    // Last: a reader on another CPU that sees the new number sees the new policy.
    entry.generation = evaluation.generation;
}

/// Counts a packet of `len` bytes (IP length) and advances the TCP state.
/// True if this packet ended the flow: reported once.
///
/// `add` adds to a counter. The kernel's is atomic, because two CPUs may meet in one
/// entry; the language has no portable way to say so on that target.
#[inline(always)]
pub fn account(
    entry: &mut FlowEntry,
    from_source: bool,
    len: u32,
    tcp_flags: u8,
    now: u64,
    add: impl Fn(&mut u64, u64),
) -> bool {
    let was_closed = is_closed(entry);
    let len = u64::from(len);
    if from_source {
        add(&mut entry.tx_packets, 1);
        add(&mut entry.tx_bytes, len);
        entry.tx_tcp_flags |= tcp_flags;
    } else {
        add(&mut entry.rx_packets, 1);
        add(&mut entry.rx_bytes, len);
        entry.rx_tcp_flags |= tcp_flags;
        entry.flags |= flags::REPLIED;
    }
    if tcp_flags & (tcp::FIN | tcp::RST) != 0 {
        if tcp_flags & tcp::RST != 0 {
            entry.flags |= flags::RST;
        }
        if tcp_flags & tcp::FIN != 0 {
            entry.flags |= if from_source {
                flags::TX_FIN
            } else {
                flags::RX_FIN
            };
        }
    }
    entry.last_seen = now;
    !was_closed && is_closed(entry)
}

/// Keeps a steered flow alive when the proxy speaks on one of its legs. Not
/// counted: the packet it relays was.
#[inline(always)]
pub fn touch(entry: &mut FlowEntry, from_source: bool, now: u64) {
    if !from_source {
        entry.flags |= flags::REPLIED;
    }
    entry.last_seen = now;
}

/// Key and protocol are enough to say whether a stored flow is gone; for the
/// agent's sweep of the table.
pub fn is_gone(key: &FlowKey, entry: &FlowEntry, now: u64) -> bool {
    is_expired(entry, key.protocol, now)
}
