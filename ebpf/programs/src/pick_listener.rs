//! Which listener a steered flow meets: one of its class, chosen by `listener_slot`.

use aya_ebpf::programs::SkLookupContext;
use tidegate_decide::{Tables as _, Tuple};
use tidegate_ebpf_shared::{addr::Addr, endpoint, event::counter, flow::flags, reason};

use crate::{
    addr::{AF_INET, context_words, set_v4, set_v6},
    admit::listener_slot,
    counters::count,
    maps::{FLOWS, LISTENERS},
    scratch::scratch,
    tables::Maps,
    verdict::Lookup,
};

/// Answers a socket lookup: no connected socket matched the packet.
#[inline(always)]
pub fn run(ctx: &SkLookupContext) -> Lookup {
    let Some(work) = scratch() else {
        return Lookup::Drop;
    };
    read(ctx, &mut work.packet.tuple);
    work.packet.tuple.flow_key(&mut work.key);
    let steered = FLOWS
        .get_ptr(&work.key)
        // SAFETY: a value of the map, read only.
        .is_some_and(|entry| unsafe { (*entry).flags } & flags::REDIRECT != 0);
    if !steered {
        return if belongs_to_workload(&work.packet.tuple.dst) {
            // Marked for us and led to another address by the node's NAT: no process of
            // the node may have it, whatever it listens on.
            count(u32::from(reason::NOT_STEERED), 0);
            Lookup::Drop
        } else {
            Lookup::Go
        };
    }
    let picked = listener_slot(&work.packet.tuple, &work.key)
        .is_some_and(|slot| LISTENERS.redirect_sk_lookup(ctx, slot, 0).is_ok());
    if picked {
        count(counter::LISTENER_PICKED, 0);
        Lookup::Go
    } else {
        count(u32::from(reason::PROXY_UNAVAILABLE), 0);
        Lookup::Drop
    }
}

/// Nothing for a workload's address is for the node, but the flows the proxy reads.
#[inline(always)]
fn belongs_to_workload(addr: &Addr) -> bool {
    Maps.address(addr)
        .and_then(|info| Maps.endpoint(info.endpoint))
        .is_some_and(|endpoint| endpoint.flags & endpoint::flags::HOST_SERVICE == 0)
}

/// The packet's tuple from the context. Both families' fields are read, always: read
/// under a condition, the compiler would compute the field's address instead, which
/// the verifier refuses.
#[inline(always)]
fn read(ctx: &SkLookupContext, tuple: &mut Tuple) {
    let lookup = ctx.lookup;
    // SAFETY: the kernel hands the program a valid context; the fields of the other
    // family read as 0.
    unsafe {
        let is_v4 = (&raw const (*lookup).family).read_volatile() == AF_INET;
        let remote_v4 = (&raw const (*lookup).remote_ip4).read_volatile();
        let local_v4 = (&raw const (*lookup).local_ip4).read_volatile();
        let remote_v6 = context_words(&raw const (*lookup).remote_ip6);
        let local_v6 = context_words(&raw const (*lookup).local_ip6);
        if is_v4 {
            set_v4(&mut tuple.src, remote_v4);
            set_v4(&mut tuple.dst, local_v4);
        } else {
            set_v6(&mut tuple.src, remote_v6);
            set_v6(&mut tuple.dst, local_v6);
        }
        tuple.src_port = (&raw const (*lookup).remote_port)
            .read_volatile()
            .to_ne_bytes();
        let local_port = (&raw const (*lookup).local_port).read_volatile();
        tuple.dst_port = (local_port as u16).to_be_bytes();
        tuple.protocol = (&raw const (*lookup).protocol).read_volatile() as u8;
    }
}
