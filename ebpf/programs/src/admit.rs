//! The path every policed packet takes, whichever hook it came through: a live flow
//! passes after one lookup, anything else is evaluated, remembered and reported.

use aya_ebpf::{
    cty::c_void,
    helpers::{bpf_get_smp_processor_id, bpf_map_lookup_elem, bpf_sk_release},
    programs::TcContext,
};
use tidegate_decide::{Age, Evaluation, Tables as _, Tuple, flow, judge, steer, tuple::icmp};
use tidegate_ebpf_shared::{
    addr::proto,
    config,
    event::counter,
    flow::{FlowEntry, FlowKey, flags},
    identity::reserved,
    limits::MAX_CPUS,
    policy::verdict,
    reason,
    steer::class,
};

use crate::{
    addr::is_v4,
    counters::{add_shared, count},
    events, lease,
    maps::{FLOWS, LISTENERS},
    packet::{self, Packet},
    scratch::Scratch,
    tables::{Maps, generation},
    verdict::Outcome,
};

/// What is asked of policy.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Asked {
    /// May this flow begin?
    New,
    /// May it go on?
    Live,
    /// May it be delivered where NAT has led it?
    Delivery,
}

/// Where a packet entered the node, and so which addresses it may come from.
#[derive(Clone, Copy)]
pub enum Origin {
    /// From this endpoint: its own addresses only.
    Endpoint(u32),
    /// From outside: no address of this node or its endpoints.
    Outside,
    /// From the node's own stack, on its way to this endpoint.
    Host(u32),
    /// Allowed where it entered, and led to this endpoint by the node's NAT.
    Nat(u32),
}

impl Origin {
    /// May a packet of this flow, from this side of it, have come from here?
    #[inline(always)]
    fn may_send(self, entry: &FlowEntry, from_source: bool) -> bool {
        let endpoint = flow::sender_endpoint(entry, from_source);
        let by_nat = from_source && entry.flags & flags::NATED != 0;
        match self {
            Self::Endpoint(id) => endpoint == id && !by_nat,
            Self::Outside => endpoint == 0 && !by_nat,
            Self::Host(_) => !by_nat,
            Self::Nat(_) => true,
        }
    }

    /// What is to be decided of a flow that begins.
    #[inline(always)]
    fn asks(self) -> Asked {
        match self {
            Self::Nat(_) => Asked::Delivery,
            _ => Asked::New,
        }
    }

    /// May an ICMP error come from here to the end that sent a packet of this flow? To
    /// whom it is about only, and a workload speaks of what was sent to it.
    #[inline(always)]
    fn may_tell(self, entry: &FlowEntry, from_source: bool) -> bool {
        match self {
            Self::Endpoint(id) => flow::sender_endpoint(entry, !from_source) == id,
            Self::Outside => true,
            Self::Host(id) | Self::Nat(id) => flow::sender_endpoint(entry, from_source) == id,
        }
    }

    /// The same question for a packet without a flow.
    #[inline(always)]
    fn owns(self, tuple: &Tuple) -> bool {
        let info = Maps.address(&tuple.src).unwrap_or_default();
        match self {
            Self::Endpoint(id) => info.endpoint == id || lease::is_question(tuple),
            Self::Outside => info.endpoint == 0 && info.identity != reserved::HOST,
            Self::Host(_) | Self::Nat(_) => true,
        }
    }
}

/// When and from which end of its flow a packet came.
#[derive(Clone, Copy)]
pub struct Seen {
    src_is_low: bool,
    now: u64,
}

impl Seen {
    /// Was the packet sent by the flow's initiator?
    #[inline(always)]
    pub fn from_source(self, entry: &FlowEntry) -> bool {
        flow::from_source(entry, self.src_is_low)
    }

    /// Does the packet belong to the flow, rather than open another of the same ends?
    #[inline(always)]
    pub fn is_of(self, entry: &FlowEntry, packet: &Packet) -> bool {
        let opener = packet.tuple.is_opener(packet.tcp_flags);
        !flow::is_expired(entry, packet.tuple.protocol, self.now)
            && !flow::is_reopened(entry, opener, self.from_source(entry))
    }
}

/// Decides an IP packet.
#[inline(always)]
pub fn admit(ctx: &TcContext, work: &mut Scratch, origin: Origin) -> Outcome {
    let seen = see(work);
    match live(work, origin, seen) {
        Some(outcome) => outcome,
        None => first(ctx, work, origin, seen),
    }
}

/// Works out a packet's flow key, for what follows.
#[inline(always)]
pub fn see(work: &mut Scratch) -> Seen {
    Seen {
        src_is_low: work.packet.tuple.flow_key(&mut work.key),
        now: work.tick.coarse(),
    }
}

/// Decides a packet of a live flow; `None` if there is no such flow, or not any more.
#[inline(always)]
pub fn live(work: &mut Scratch, origin: Origin, seen: Seen) -> Option<Outcome> {
    let packet = &work.packet;
    if packet.problem != 0 || !packet.tuple.is_tracked() {
        return None;
    }
    let entry = FLOWS.get_ptr_mut(&work.key)?;
    // SAFETY: a value of the map. Other CPUs may write it too: counters are added
    // atomically, the rest are flags that only ever get set.
    let entry = unsafe { &mut *entry };
    let from_source = seen.from_source(entry);
    if !origin.may_send(entry, from_source) || !seen.is_of(entry, packet) {
        return None;
    }
    established(work, entry, from_source, seen.now)
}

/// A packet of a live flow; `None` if its flow has to be opened anew.
#[inline(always)]
fn established(
    work: &mut Scratch,
    entry: &mut FlowEntry,
    from_source: bool,
    now: u64,
) -> Option<Outcome> {
    if entry.generation != generation() {
        work.opened.set_of_flow(&work.key, entry);
        let asked = if entry.flags & flags::NATED != 0 {
            Asked::Delivery
        } else {
            Asked::Live
        };
        decide(
            &work.opened,
            entry.src_endpoint,
            entry.dst_endpoint,
            asked,
            &mut work.evaluation,
        );
        let steered = entry.flags & flags::REDIRECT != 0;
        if work.evaluation.is_steered() && !steered {
            if flow::may_reopen(&work.packet.tuple, work.packet.tcp_flags, from_source) {
                return None;
            }
            work.evaluation.reason = reason::NEEDS_REOPEN;
            report(work);
            return Some(Outcome::Drop);
        }
        if work.evaluation.is_allowed() {
            let told = entry.shadow_rule == work.evaluation.shadow_rule
                && entry.shadow_verdict == work.evaluation.shadow_verdict;
            flow::renew(entry, &work.evaluation);
            if !told {
                rehearsed_of_flow(work);
            }
        } else {
            report(work);
            if !is_audited(&work.evaluation) {
                // Denied flows are not remembered: the next packet is decided afresh.
                let _ = FLOWS.remove(&work.key);
                return Some(Outcome::Drop);
            }
        }
    }
    let ended = flow::account(entry, from_source, work.packet.segment(), now, add_shared);
    if ended {
        events::flow_closed(&work.key, entry, work.packet.ifindex);
    }
    Some(forward(work, entry.flags & flags::REDIRECT != 0))
}

/// Tells that a live flow, decided anew, goes on only because what is in shadow is not
/// enforced. In a stack frame of its own.
#[inline(never)]
fn rehearsed_of_flow(work: &Scratch) {
    if work.evaluation.is_refused_in_shadow() {
        events::rehearsed(&work.opened, work.packet.ifindex, &work.evaluation);
    }
}

/// Decides a packet that no live flow covers.
#[inline(always)]
pub fn first(ctx: &TcContext, work: &mut Scratch, origin: Origin, seen: Seen) -> Outcome {
    if !origin.owns(&work.packet.tuple) {
        return refuse(work, reason::INVALID_SOURCE_IP);
    }
    if work.packet.problem != 0 {
        return refuse(work, work.packet.problem);
    }
    if let Some(outcome) = related(ctx, work, origin) {
        return outcome;
    }
    if answers_for_address(ctx, work, origin) {
        return forward(work, false);
    }
    let (src_endpoint, dst_endpoint) = match origin {
        Origin::Endpoint(endpoint) => (endpoint, 0),
        Origin::Host(endpoint) | Origin::Nat(endpoint) => (0, endpoint),
        Origin::Outside => (0, 0),
    };
    decide(
        &work.packet.tuple,
        src_endpoint,
        dst_endpoint,
        origin.asks(),
        &mut work.evaluation,
    );
    let enters = matches!(origin, Origin::Endpoint(_) | Origin::Outside);
    let answers = enters && answers_steered(work);
    if work.evaluation.is_steered() {
        work.evaluation.reason = unsteerable(work, origin);
    }
    if !work.evaluation.is_allowed() {
        report(work);
        return if is_audited(&work.evaluation) {
            forward(work, false)
        } else {
            Outcome::Drop
        };
    }
    if work.packet.tuple.may_open() {
        // Replies to a flow without an entry are decided as if they opened one. But a
        // steered flow must have one: `pick_listener` would leave it to any socket of
        // the node that listens on its port.
        if !remember(work, origin, seen, !answers) && work.evaluation.is_steered() {
            work.evaluation.reason = reason::PROXY_UNAVAILABLE;
            report(work);
            return Outcome::Drop;
        }
        events::flow_new(&work.packet, &work.evaluation);
    } else if work.evaluation.is_refused_in_shadow() {
        events::rehearsed(&work.packet.tuple, work.packet.ifindex, &work.evaluation);
    }
    if work.evaluation.is_steered() {
        count(counter::FLOWS_STEERED, 0);
    }
    forward(work, work.evaluation.is_steered())
}

/// Decides the delivery of a packet to an endpoint that the table's flow of these ends was
/// not decided for: one frame may reach any number of them. The flow stays what it is, so
/// that each packet is decided by itself. In a stack frame of its own.
#[inline(never)]
pub fn deliver(work: &mut Scratch, origin: Origin) -> Outcome {
    let (Origin::Endpoint(endpoint) | Origin::Host(endpoint) | Origin::Nat(endpoint)) = origin
    else {
        return Outcome::Drop;
    };
    decide(
        &work.packet.tuple,
        0,
        endpoint,
        origin.asks(),
        &mut work.evaluation,
    );
    if work.evaluation.is_steered() {
        work.evaluation.reason = reason::UNSTEERABLE;
    }
    if !work.evaluation.is_allowed() {
        report(work);
        if !is_audited(&work.evaluation) {
            return Outcome::Drop;
        }
    }
    forward(work, false)
}

/// Is this packet, of no known flow, an answer of one that needs L7? If so the table has
/// forgotten that flow (it evicts the oldest when full, and believes a reset or a
/// silence that the ends do not), and the flow is opened again with its true initiator:
/// the evaluation and the packet's ends become those of the question. Else an answer
/// would open a flow past the proxy. In a stack frame of its own.
#[inline(never)]
fn answers_steered(work: &mut Scratch) -> bool {
    let packet = &mut work.packet;
    if work.evaluation.is_steered() || !packet.tuple.may_answer(packet.tcp_flags) {
        return false;
    }
    packet.tuple.set_reverse(&mut work.opened);
    decide(&work.opened, 0, 0, Asked::Live, &mut work.asked);
    if !work.asked.is_steered() {
        return false;
    }
    work.evaluation = work.asked;
    packet.tuple = work.opened;
    true
}

/// Is it an answer to a question that the endpoint's policy lets it ask before it has an
/// address? In a stack frame of its own.
#[inline(never)]
fn answers_for_address(ctx: &TcContext, work: &mut Scratch, origin: Origin) -> bool {
    let tuple = &work.packet.tuple;
    let endpoint = match origin {
        Origin::Endpoint(_) => return false,
        Origin::Host(endpoint) | Origin::Nat(endpoint) => endpoint,
        Origin::Outside => Maps.address(&tuple.dst).unwrap_or_default().endpoint,
    };
    lease::is_answer(ctx, tuple, &mut work.opened)
        && may_ask(&work.opened, endpoint, &mut work.asked)
}

/// Does the endpoint's policy let it ask this, without the proxy? In the end of a flow that
/// began before, as the answer shows.
#[inline(always)]
pub fn may_ask(question: &Tuple, endpoint: u32, asked: &mut Evaluation) -> bool {
    decide(question, endpoint, 0, Asked::Live, asked);
    asked.is_allowed() && !asked.is_steered()
}

/// What a packet of the proxy has to do with flows it reads, if the table knows of none
/// between its ends.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Relation {
    /// It is of one, which the table has forgotten.
    Forgotten,
    /// It is of a workload's, and NAT has led it elsewhere.
    Translated,
    /// The proxy speaks for the node.
    Node,
}

/// See [`Relation`]; `known` says that the packet's socket is connected to where it
/// goes. In a stack frame of its own.
#[inline(never)]
pub fn relation(work: &mut Scratch, known: bool) -> Relation {
    let packet = &work.packet;
    let src = Maps.address(&packet.tuple.src).unwrap_or_default();
    if packet.problem != 0 || src.identity == reserved::HOST {
        return Relation::Node;
    }
    // An answer; the socket that answers datagrams has no peer.
    packet.tuple.set_reverse(&mut work.opened);
    decide(&work.opened, 0, 0, Asked::Live, &mut work.asked);
    if work.asked.is_steered() && (known || packet.tuple.protocol == proto::UDP) {
        return Relation::Forgotten;
    }
    decide(&packet.tuple, 0, 0, Asked::Live, &mut work.asked);
    if work.asked.is_steered() && known {
        Relation::Forgotten
    } else {
        Relation::Translated
    }
}

/// Takes what the proxy sends on a leg of a steered flow into the flow's state. In a
/// stack frame of its own.
#[inline(never)]
pub fn relayed(work: &mut Scratch) {
    if work.packet.problem != 0 || !work.packet.tuple.is_tracked() {
        return;
    }
    let seen = see(work);
    let Some(entry) = FLOWS.get_ptr_mut(&work.key) else {
        return;
    };
    // SAFETY: a value of the map; written like every other packet of the flow does.
    let entry = unsafe { &mut *entry };
    if entry.flags & flags::REDIRECT == 0 {
        return;
    }
    let segment = work.packet.segment();
    if flow::relayed(entry, seen.from_source(entry), segment, seen.now) {
        events::flow_closed(&work.key, entry, work.packet.ifindex);
    }
}

/// Puts an allowed flow in the table; false if the table refused it. The packet's ends
/// are the initiator's already, whoever sent it.
#[inline(always)]
fn remember(work: &mut Scratch, origin: Origin, seen: Seen, from_source: bool) -> bool {
    let Seen { src_is_low, now } = seen;
    let source_is_low = src_is_low == from_source;
    flow::open(&mut work.entry, &work.evaluation, source_is_low, now);
    if let Origin::Nat(_) = origin {
        work.entry.flags |= flags::NATED;
    }
    flow::account(
        &mut work.entry,
        from_source,
        work.packet.segment(),
        now,
        |cell, value| *cell += value,
    );
    let is_in = FLOWS.insert(&work.key, &work.entry, 0).is_ok();
    if !is_in {
        count(counter::FLOW_INSERT_FAILED, 0);
    }
    is_in
}

/// An ICMP error about a packet of a live flow passes like the flow it is about. The
/// error must go to whoever sent that packet, or it is none. Steered where it enters;
/// where it leaves it is for the client, whose packets the proxy took.
#[inline(always)]
fn related(ctx: &TcContext, work: &mut Scratch, origin: Origin) -> Option<Outcome> {
    let packet = &work.packet;
    if !packet.tuple.is_icmp() || !icmp::is_error(packet.tuple.protocol, packet.tuple.icmp_type()) {
        return None;
    }
    let inner = &mut work.opened;
    if !packet::inner(ctx, packet, &mut work.room, inner) || inner.src != packet.tuple.dst {
        return None;
    }
    let src_is_low = inner.flow_key(&mut work.key);
    let entry = FLOWS.get_ptr(&work.key)?;
    // SAFETY: a value of the map, read only.
    let entry = unsafe { &*entry };
    if !origin.may_tell(entry, flow::from_source(entry, src_is_low)) {
        return None;
    }
    let steered = entry.flags & flags::REDIRECT != 0;
    let enters = matches!(origin, Origin::Endpoint(_) | Origin::Outside);
    Some(forward(work, steered && enters))
}

/// Why a flow that needs L7 cannot be brought to the proxy; 0 if it can.
#[inline(always)]
fn unsteerable(work: &Scratch, origin: Origin) -> u8 {
    let evaluation = &work.evaluation;
    // What the node sends would have to leave its own stack to come back to it, and
    // what it answers does not pass a hook that could steer it.
    let host = matches!(origin, Origin::Host(_) | Origin::Nat(_))
        || (evaluation.dst_identity == reserved::HOST && evaluation.dst_endpoint == 0);
    if host {
        return reason::UNSTEERABLE;
    }
    match listener_slot(&work.packet.tuple, &work.key) {
        Some(slot) if has_listener(slot) => 0,
        _ => reason::PROXY_UNAVAILABLE,
    }
}

/// Index in `LISTENERS` for this flow; `None` if the proxy cannot read the protocol. A
/// connection is asked for once, so it may stay on this CPU; each datagram is asked for,
/// so the flow must say where.
#[inline(always)]
pub fn listener_slot(tuple: &Tuple, key: &FlowKey) -> Option<u32> {
    let class = match (tuple.protocol, is_v4(&tuple.src)) {
        (proto::TCP, true) => class::TCP4,
        (proto::TCP, false) => class::TCP6,
        (proto::UDP, true) => class::UDP4,
        (proto::UDP, false) => class::UDP6,
        _ => return None,
    };
    let place = if tuple.protocol == proto::UDP {
        steer::place(key)
    } else {
        // SAFETY: the helper takes nothing and only reads.
        unsafe { bpf_get_smp_processor_id() }
    };
    (place < MAX_CPUS).then_some(class * MAX_CPUS + place)
}

#[inline(always)]
fn has_listener(slot: u32) -> bool {
    // SAFETY: the address of a map definition and a key of its size; the socket it
    // may return is released at once.
    unsafe {
        let socket = bpf_map_lookup_elem(
            (&raw const LISTENERS).cast_mut().cast::<c_void>(),
            (&raw const slot).cast::<c_void>(),
        );
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket);
        true
    }
}

/// [`judge`] over the maps.
#[inline(always)]
fn decide(
    tuple: &Tuple,
    src_endpoint: u32,
    dst_endpoint: u32,
    asked: Asked,
    evaluation: &mut Evaluation,
) {
    judge_apart(tuple, src_endpoint, dst_endpoint, asked, evaluation);
}

/// In a stack frame of its own, and a global function: the verifier walks such a one once,
/// whoever calls it with whatever in hand, where it would walk an inlined or static one again
/// for every caller and every state of each (up to 250,000 instructions a program, most of
/// them for the names of an address). It takes for granted nothing that the caller knows: its
/// arguments may be null, so that is asked; and it must return a number.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn judge_apart(
    tuple: *const Tuple,
    src_endpoint: u32,
    dst_endpoint: u32,
    asked: Asked,
    evaluation: *mut Evaluation,
) -> u32 {
    // SAFETY: references of `decide`, the only caller.
    let (Some(tuple), Some(evaluation)) = (unsafe { (tuple.as_ref(), evaluation.as_mut()) }) else {
        return 0;
    };
    let age = match asked {
        Asked::New => Some(Age::New),
        Asked::Live => Some(Age::Live),
        Asked::Delivery => None,
    };
    judge(&Maps, tuple, src_endpoint, dst_endpoint, age, evaluation);
    0
}

/// Does audit mode let this denial pass?
#[inline(always)]
fn is_audited(evaluation: &Evaluation) -> bool {
    evaluation.is_policy_denial() && Maps.config_flags() & config::flags::AUDIT != 0
}

#[inline(always)]
fn forward(work: &Scratch, steered: bool) -> Outcome {
    if steered {
        count(counter::REDIRECTED, work.packet.len);
        Outcome::ToProxy
    } else {
        count(counter::FORWARDED, work.packet.len);
        Outcome::Checked(flow::fingerprint(&work.key))
    }
}

/// Drops a packet before any policy was asked. In a stack frame of its own, as is the
/// next.
#[inline(never)]
pub fn refuse(work: &mut Scratch, reason: u8) -> Outcome {
    work.evaluation = Evaluation {
        generation: generation(),
        reason,
        ..Evaluation::default()
    };
    report(work);
    Outcome::Drop
}

/// Drops a packet that needs the proxy where only a packet that went past it can be, and
/// says who decided that it needs the proxy.
#[inline(never)]
pub fn refuse_unsteered(work: &mut Scratch, reason: u8) -> Outcome {
    work.evaluation = Evaluation {
        generation: generation(),
        verdict: verdict::REDIRECT,
        shadow_verdict: verdict::REDIRECT,
        reason,
        ..Evaluation::default()
    };
    let src_is_low = work.packet.tuple.flow_key(&mut work.key);
    if work.packet.problem == 0 && work.packet.tuple.is_tracked() {
        if let Some(entry) = FLOWS.get_ptr(&work.key) {
            // SAFETY: a value of the map, read only.
            let entry = unsafe { &*entry };
            let from_source = flow::from_source(entry, src_is_low);
            work.evaluation.set_steered(entry, from_source);
        }
    }
    report(work);
    Outcome::Drop
}

#[inline(always)]
fn report(work: &Scratch) {
    events::drop(&work.packet, &work.evaluation);
}
