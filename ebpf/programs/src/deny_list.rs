//! The deny list of outside devices, before the stack spends anything on a packet.

use aya_ebpf::programs::XdpContext;
use tidegate_decide::Tuple;
use tidegate_ebpf_shared::{
    addr::Addr,
    event::{Counter, kind},
    policy::verdict,
    reason,
};

use crate::{
    counters::count,
    events,
    maps::{DENY_COUNTS, DENY_LIST},
    packet::{beyond_source, source},
    tables::{full_prefix, generation, lookup},
    verdict::Early,
};

/// Refuses a frame whose source address is on the list.
#[inline(always)]
pub fn run<const LINK: usize>(ctx: &XdpContext) -> Early {
    let mut src = Addr::default();
    if !source::<LINK>(ctx.data(), ctx.data_end(), &mut src) {
        return Early::Pass;
    }
    let key = full_prefix(&src);
    // SAFETY: key and value are those of `DENY_LIST`.
    let Some(slot) = (unsafe { lookup::<_, _, u32>(&raw const DENY_LIST, &key) }) else {
        return Early::Pass;
    };
    let len = (ctx.data_end() - ctx.data()) as u32;
    if let Some(cell) = DENY_COUNTS.get_ptr_mut(slot) {
        // SAFETY: a per-CPU value of this CPU; XDP programs do not nest.
        let cell: &mut Counter = unsafe { &mut *cell };
        cell.packets += 1;
        cell.bytes += u64::from(len);
    }
    count(u32::from(reason::DENY_LIST), len);
    events::deny(|event| {
        let mut tuple = Tuple {
            src,
            ..Tuple::default()
        };
        beyond_source::<LINK>(ctx.data(), ctx.data_end(), &mut tuple);
        event.kind = kind::DENY_LIST;
        events::of_tuple(event, &tuple);
        event.generation = generation();
        event.verdict = verdict::DENY;
        event.shadow_verdict = verdict::DENY;
        event.reason = reason::DENY_LIST;
        // SAFETY: the kernel hands the program a valid context.
        event.ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    });
    Early::Drop
}
