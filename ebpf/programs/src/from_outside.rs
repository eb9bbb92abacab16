//! Packets from outside: ingress policy of a local workload. What is not for a
//! workload of this node (the node itself, transit) is not ours to decide.

use aya_ebpf::programs::TcContext;
use tidegate_decide::Tables as _;

use crate::{
    admit::{Origin, first, live, see},
    fragment,
    packet::{Kind, parse},
    scratch::scratch,
    tables::Maps,
    verdict::Outcome,
};

/// Decides a packet that came in on an outside device.
#[inline(always)]
pub fn run<const LINK: usize>(ctx: &TcContext) -> Outcome {
    let Some(work) = scratch() else {
        return Outcome::Drop;
    };
    if parse::<LINK>(ctx, &mut work.packet) != Kind::Ip {
        // Broken headers are for the stack to refuse: without a destination there is
        // no endpoint to protect.
        return Outcome::Pass;
    }
    fragment::resolve(work, fragment::Seen::FromOutside);
    // The flow table first: it costs half of what the address table does, and knows
    // flows of workloads only.
    let seen = see(work);
    if let Some(outcome) = live(work, Origin::Outside, seen) {
        return outcome;
    }
    match Maps.address(&work.packet.tuple.dst) {
        Some(info) if info.endpoint != 0 => first(ctx, work, Origin::Outside, seen),
        _ => Outcome::Pass,
    }
}
