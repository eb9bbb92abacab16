//! Egress policy of host services, applied where they open a socket: they have no
//! veth whose packets could be judged.

use aya_ebpf::helpers::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id};
use tidegate_decide::{
    Age, Evaluation, Tables as _, Tuple,
    policy::{address, evaluate_egress},
};
use tidegate_ebpf_shared::{
    config,
    event::{counter, kind},
    identity::reserved,
    policy::verdict,
};

use crate::{
    addr::word,
    attempt::{Attempt, Call},
    counters::count_shared,
    events,
    maps::{CGROUPS, EVENTS},
    tables::{Maps, generation},
};

/// Cgroup levels searched for a host service, from the root.
const LEVELS: i32 = 10;

/// Decides an attempt of the current process: allowed if it is no host service.
#[inline(never)]
pub fn decide(tuple: &Tuple, evaluation: &mut Evaluation) {
    decide_as(current(), tuple, evaluation);
}

/// Decides an attempt of a host service, or of nobody (0).
#[inline(always)]
pub fn decide_as(endpoint: u32, tuple: &Tuple, evaluation: &mut Evaluation) {
    let dst = address(&Maps, &tuple.dst);
    *evaluation = Evaluation {
        generation: generation(),
        src_endpoint: endpoint,
        dst_identity: if is_loopback(tuple) {
            reserved::HOST
        } else {
            dst.identity
        },
        dst_endpoint: dst.endpoint,
        verdict: verdict::ALLOW,
        shadow_verdict: verdict::ALLOW,
        ..Evaluation::default()
    };
    if endpoint != 0 {
        judge_egress_apart(tuple, evaluation);
    }
}

/// Adds the egress policy of the evaluation's source endpoint. A global function, for the
/// reasons given at `admit::judge_apart`.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn judge_egress_apart(tuple: *const Tuple, evaluation: *mut Evaluation) -> u32 {
    // SAFETY: references of `decide_as`, the only caller.
    let (Some(tuple), Some(evaluation)) = (unsafe { (tuple.as_ref(), evaluation.as_mut()) }) else {
        return 0;
    };
    let endpoint = Maps.endpoint(evaluation.src_endpoint);
    evaluation.src_identity = endpoint.map_or(0, |info| info.identity);
    evaluate_egress(&Maps, tuple, Age::New, evaluation);
    0
}

/// Endpoint id of the host service the current process belongs to, the innermost one
/// if they are nested; 0 if none.
#[inline(always)]
pub fn current() -> u32 {
    // SAFETY: the helpers take a number and only read; a level below the process's own
    // reads as 0.
    innermost(unsafe { bpf_get_current_cgroup_id() }, |level| unsafe {
        bpf_get_current_ancestor_cgroup_id(level)
    })
}

/// Endpoint id of the innermost host service of a cgroup and its ancestors.
#[inline(always)]
pub fn innermost(own: u64, ancestor: impl Fn(i32) -> u64) -> u32 {
    let endpoint = by_cgroup(own);
    if endpoint != 0 {
        return endpoint;
    }
    for level in 0..LEVELS {
        let endpoint = by_cgroup(ancestor(LEVELS - level));
        if endpoint != 0 {
            return endpoint;
        }
    }
    0
}

#[inline(always)]
fn by_cgroup(id: u64) -> u32 {
    if id == 0 {
        return 0;
    }
    // SAFETY: the agent replaces values as a whole.
    unsafe { CGROUPS.get(&id) }.copied().unwrap_or(0)
}

/// 127.0.0.0/8 and ::1: the node itself, whatever the address table says of them.
#[inline(always)]
fn is_loopback(tuple: &Tuple) -> bool {
    let addr = &tuple.dst;
    if word(addr, 0) != 0 || word(addr, 1) != 0 {
        return false;
    }
    let (third, last) = (word(addr, 2), word(addr, 3));
    (third == 0xffff_u32.to_be() && last.to_ne_bytes()[0] == 127)
        || (third == 0 && last == 1_u32.to_be())
}

/// Does audit mode let this denial pass?
#[inline(always)]
pub fn is_audited(evaluation: &Evaluation) -> bool {
    evaluation.is_policy_denial() && Maps.config_flags() & config::flags::AUDIT != 0
}

/// Reports what a host service's egress policy allowed. Of single datagrams there would
/// be too many: only those that what is in shadow would refuse, and not all of them.
#[inline(never)]
pub fn report_opened(attempt: &Attempt, evaluation: &Evaluation, call: Call) {
    if call != Call::Connect {
        if evaluation.is_refused_in_shadow() {
            events::rehearsed(&attempt.tuple, 0, evaluation);
        }
        return;
    }
    events::emit(&EVENTS, counter::EVENTS_LOST, |event| {
        event.kind = kind::SOCKET_OPENED;
        events::of_tuple(event, &attempt.tuple);
        events::of_evaluation(event, evaluation);
    });
}

/// Counts and reports a refused attempt, for the reason in the evaluation.
#[inline(never)]
pub fn report_denied(attempt: &Attempt, evaluation: &Evaluation) {
    count_shared(counter::SOCKETS_DENIED);
    events::deny(|event| {
        event.kind = kind::SOCKET_DENIED;
        events::of_tuple(event, &attempt.tuple);
        events::of_evaluation(event, evaluation);
        if attempt.service != 0 {
            event.frontend = attempt.asked;
            event.frontend_port = attempt.asked_port;
        }
    });
}
