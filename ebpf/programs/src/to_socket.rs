//! Packets that a socket is about to get: the way out of the datapath that no device
//! guards. What needs the proxy is for the proxy's sockets, wherever the node's NAT, a
//! transparent proxy of somebody else's or a route has led it.

use aya_ebpf::{helpers::bpf_sk_fullsock, programs::SkBuffContext};
use tidegate_decide::{Evaluation, Tuple};
use tidegate_ebpf_shared::{
    event::kind,
    mark::{self, tag},
    policy::verdict,
    reason,
};

use crate::{
    counters::count_shared,
    events,
    host_packet::{read, receiver},
    tables::generation,
};

/// May its socket have this packet? Its ends are those that NAT has given it.
#[inline(always)]
pub fn run(ctx: &SkBuffContext) -> bool {
    // SAFETY: the kernel hands the program a valid context.
    let tag = unsafe { (&raw const (*ctx.skb.skb).tc_index).read_volatile() } as u16;
    if tag & tag::KIND != tag::TO_PROXY || is_for_proxy(ctx) {
        return true;
    }
    let mut tuple = Tuple::default();
    read(ctx, &mut tuple);
    let evaluation = Evaluation {
        generation: generation(),
        verdict: verdict::REDIRECT,
        shadow_verdict: verdict::REDIRECT,
        reason: reason::NOT_STEERED,
        dst_endpoint: receiver(ctx),
        ..Evaluation::default()
    };
    count_shared(u32::from(reason::NOT_STEERED));
    events::deny(|event| {
        event.kind = kind::DROP;
        events::of_tuple(event, &tuple);
        events::of_evaluation(event, &evaluation);
    });
    false
}

/// Is the receiving socket one of the proxy's?
#[inline(always)]
fn is_for_proxy(ctx: &SkBuffContext) -> bool {
    // SAFETY: a valid context; the helper takes a socket that is not null, and says null
    // of one that is not whole. Fields of a socket are read singly.
    unsafe {
        let some = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if some.is_null() {
            return false;
        }
        let socket = bpf_sk_fullsock(some);
        !socket.is_null()
            && (&raw const (*socket).mark).read_volatile() & mark::MASK == mark::FROM_PROXY
    }
}
