//! Events to the agent: flows on one ring, denies on their own, which a flood of
//! flows cannot fill. What does not fit, or exceeds the rate limit, is counted.

use aya_ebpf::maps::RingBuf;
use tidegate_decide::{Evaluation, Tuple};
use tidegate_ebpf_shared::{
    event::{Event, counter, kind},
    flow::{FlowEntry, FlowKey, flags},
    policy::verdict,
};

use crate::{
    clock,
    counters::count,
    maps::{DENIES, DENY_TOKENS, EVENTS, REHEARSED_TOKENS},
    packet::Packet,
    tables::config,
};

/// A flow was admitted. In a stack frame of its own, as are the next two: what they copy
/// would lie beside what decides.
#[inline(never)]
pub fn flow_new(packet: &Packet, evaluation: &Evaluation) {
    count(counter::FLOWS_CREATED, 0);
    emit(&EVENTS, counter::EVENTS_LOST, |event| {
        event.kind = kind::FLOW_NEW;
        of_packet(event, packet);
        of_evaluation(event, evaluation);
    });
}

/// A flow ended.
#[inline(never)]
pub fn flow_closed(key: &FlowKey, entry: &FlowEntry, ifindex: u32) {
    emit(&EVENTS, counter::EVENTS_LOST, |event| {
        event.kind = kind::FLOW_CLOSED;
        event.ifindex = ifindex;
        let opened = Tuple::of_flow(key, entry);
        of_tuple(event, &opened);
        event.verdict = if entry.flags & flags::REDIRECT != 0 {
            verdict::REDIRECT
        } else {
            verdict::ALLOW
        };
        event.shadow_rule = entry.shadow_rule;
        event.shadow_verdict = entry.shadow_verdict;
        event.tx_packets = entry.tx_packets;
        event.tx_bytes = entry.tx_bytes;
        event.rx_packets = entry.rx_packets;
        event.rx_bytes = entry.rx_bytes;
        event.src_identity = entry.src_identity;
        event.dst_identity = entry.dst_identity;
        event.src_endpoint = entry.src_endpoint;
        event.dst_endpoint = entry.dst_endpoint;
        event.egress_rule = entry.egress_rule;
        event.ingress_rule = entry.ingress_rule;
        event.generation = entry.generation;
        event.tcp_flags = entry.tx_tcp_flags | entry.rx_tcp_flags;
        event.hint = entry.hint;
    });
}

/// A packet was dropped, for the reason in the evaluation. Always counted; the event
/// is rate-limited.
#[inline(never)]
pub fn drop(packet: &Packet, evaluation: &Evaluation) {
    count(u32::from(evaluation.reason), packet.len);
    deny(|event| {
        event.kind = kind::DROP;
        of_packet(event, packet);
        of_evaluation(event, evaluation);
        if event.src_endpoint == 0 {
            event.src_endpoint = packet.sender;
        }
    });
}

/// Something passed that what is in shadow would refuse, and of which no other event
/// tells. As often as denies may be told, and beside those: what is only rehearsed shall
/// not hide what is refused.
#[inline(never)]
pub fn rehearsed(tuple: &Tuple, ifindex: u32, evaluation: &Evaluation) {
    let rate = config().map_or(0, |config| config.deny_events_per_second);
    let Some(bucket) = REHEARSED_TOKENS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a per-CPU value of this CPU.
    if !unsafe { &mut *bucket }.take(rate, clock::coarse()) {
        return count(counter::REHEARSED_SUPPRESSED, 0);
    }
    emit(&EVENTS, counter::EVENTS_LOST, |event| {
        event.kind = kind::REHEARSED;
        event.ifindex = ifindex;
        of_tuple(event, tuple);
        of_evaluation(event, evaluation);
    });
}

/// Sends a deny event if the rate limit of this CPU allows it.
#[inline(always)]
pub fn deny(fill: impl FnOnce(&mut Event)) {
    let rate = config().map_or(0, |config| config.deny_events_per_second);
    let Some(bucket) = DENY_TOKENS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a per-CPU value of this CPU.
    if unsafe { &mut *bucket }.take(rate, clock::coarse()) {
        emit(&DENIES, counter::DENIES_LOST, fill);
    } else {
        count(counter::DENIES_SUPPRESSED, 0);
    }
}

/// Fills an event in place in the ring: it is too large to build on the stack.
#[inline(always)]
pub fn emit(ring: &RingBuf, lost: u32, fill: impl FnOnce(&mut Event)) {
    let Some(mut slot) = ring.reserve::<Event>(0) else {
        return count(lost, 0);
    };
    let event = slot.as_mut_ptr();
    // SAFETY: the slot is as large as an event; all zero is a valid one.
    let event = unsafe {
        event.write_bytes(0, 1);
        &mut *event
    };
    event.time = clock::precise();
    fill(event);
    slot.submit(0);
}

#[inline(always)]
fn of_packet(event: &mut Event, packet: &Packet) {
    event.tcp_flags = packet.tcp_flags;
    event.ifindex = packet.ifindex;
    of_tuple(event, &packet.tuple);
}

/// Copies the ends of a packet.
#[inline(always)]
pub fn of_tuple(event: &mut Event, tuple: &Tuple) {
    event.src = tuple.src;
    event.dst = tuple.dst;
    event.src_port = tuple.src_port;
    event.dst_port = tuple.dst_port;
    event.protocol = tuple.protocol;
}

/// Copies a decision.
#[inline(always)]
pub fn of_evaluation(event: &mut Event, evaluation: &Evaluation) {
    event.verdict = evaluation.verdict;
    event.reason = evaluation.reason;
    event.direction = evaluation.direction;
    event.src_identity = evaluation.src_identity;
    event.dst_identity = evaluation.dst_identity;
    event.src_endpoint = evaluation.src_endpoint;
    event.dst_endpoint = evaluation.dst_endpoint;
    event.egress_rule = evaluation.egress_rule;
    event.ingress_rule = evaluation.ingress_rule;
    event.shadow_rule = evaluation.shadow_rule;
    event.shadow_verdict = evaluation.shadow_verdict;
    event.generation = evaluation.generation;
}
