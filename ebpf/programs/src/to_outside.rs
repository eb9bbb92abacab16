//! Packets that leave the node. Policy was decided where they entered it; here it only
//! matters that nothing leaves which still has to meet the proxy. That is asked of the
//! tag, which says what was decided of this packet: marks may have been changed since,
//! and addresses translated.

use aya_ebpf::programs::TcContext;
use tidegate_ebpf_shared::{
    mark::{self, tag},
    reason,
};

use crate::{
    admit::{refuse_unsteered, relayed},
    packet::{Kind, parse},
    probe,
    scratch::scratch,
    verdict::{Outcome, mark_of, tag_of},
};

/// Refuses a steered packet on any device but a workload's: our `ip rule` or its route is gone,
/// or the packet never met routing (a bridge).
#[inline(always)]
pub fn run(ctx: &TcContext) -> Outcome {
    let mark = mark_of(ctx);
    let must_stay = tag_of(ctx) & tag::KIND == tag::TO_PROXY || mark == mark::TO_PROXY;
    // A forged mark makes no probe of what must stay.
    if mark == mark::PROBE && !must_stay {
        return probe::answer(ctx);
    }
    if !must_stay && mark != mark::FROM_PROXY {
        return Outcome::Pass;
    }
    let Some(work) = scratch() else {
        return Outcome::Drop;
    };
    match parse(ctx, &mut work.packet) {
        // Between neighbours, and never steered: the mark is somebody else's.
        Kind::Arp | Kind::NeighbourDiscovery => Outcome::Pass,
        _ if must_stay => refuse_unsteered(work, reason::NOT_STEERED),
        // What the proxy sends to an end outside keeps the flow alive, or ends it.
        Kind::Ip => {
            relayed(work);
            Outcome::Pass
        }
        Kind::Other | Kind::Broken => Outcome::Pass,
    }
}
