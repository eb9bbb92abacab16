//! Packets that leave the node. Policy was decided where they entered it; here it only
//! matters that nothing leaves which still has to meet the proxy.

use aya_ebpf::programs::TcContext;
use tidegate_ebpf_shared::mark;

use crate::{
    admit::refuse_unsteered,
    packet::{Kind, parse},
    probe,
    scratch::scratch,
    verdict::{Outcome, mark_of},
};

/// Refuses a steered packet on any device but a workload's: our `ip rule` or its route is gone,
/// or the packet never met routing (a bridge).
#[inline(always)]
pub fn run(ctx: &TcContext) -> Outcome {
    if mark_of(ctx) == mark::PROBE {
        return probe::answer(ctx);
    }
    if mark_of(ctx) != mark::TO_PROXY {
        return Outcome::Pass;
    }
    let Some(work) = scratch() else {
        return Outcome::Drop;
    };
    match parse(ctx, &mut work.packet) {
        // Between neighbours, and never steered: the mark is somebody else's.
        Kind::Arp | Kind::NeighbourDiscovery => Outcome::Pass,
        Kind::Other | Kind::Broken | Kind::Ip => refuse_unsteered(work),
    }
}
