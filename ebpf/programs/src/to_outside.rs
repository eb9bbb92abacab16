//! Packets that leave the node. Policy was decided where they entered it; here it only
//! matters that nothing leaves which still has to meet the proxy, or which a workload sent
//! past the program of its device. Both are asked of the tag, which says what was decided of
//! this packet: marks may have been changed since, and addresses translated.

use aya_ebpf::programs::TcContext;
use tidegate_decide::Tables as _;
use tidegate_ebpf_shared::{
    addr::Addr,
    mark::{self, tag},
    reason,
};

use crate::{
    admit::{refuse, refuse_unsteered, relayed},
    host_packet::note_sender,
    interface::{self, Tagging},
    maps::GUARDED,
    packet::Kind,
    parse_apart::parse_apart,
    probe,
    scratch::scratch,
    tables::Maps,
    verdict::{Outcome, mark_of, tag_of},
};

/// Refuses, on any device but a workload's, a steered packet (our `ip rule` or its route is
/// gone, or the packet never met routing: a bridge), and one of a workload that no program
/// has decided: its device was made anew and has none yet.
#[inline(always)]
pub fn run<const LINK: usize>(ctx: &TcContext) -> Outcome {
    let mark = mark_of(ctx);
    let kind = tag_of(ctx) & tag::KIND;
    let must_stay = kind == tag::TO_PROXY || mark == mark::TO_PROXY;
    // SAFETY: the kernel hands the program a valid context.
    let came_in_by = unsafe { (&raw const (*ctx.skb.skb).ingress_ifindex).read_volatile() };
    let unseen = came_in_by != 0
        && match interface::tagging(came_in_by) {
            // Decided, and whoever has written over its tag since, none of it needs the proxy:
            // that keeps its tag.
            Tagging::Workloads => false,
            Tagging::Ours => kind == 0,
            Tagging::Nobodys => true,
        };
    // A forged mark makes no probe of what must stay.
    if mark == mark::PROBE && !must_stay && !unseen {
        return probe::answer::<LINK>(ctx);
    }
    if !must_stay && !unseen && mark != mark::FROM_PROXY {
        return Outcome::Pass;
    }
    let Some(work) = scratch() else {
        return Outcome::Drop;
    };
    match parse_apart::<LINK>(ctx) {
        // Between neighbours, and never steered: the mark is somebody else's.
        Kind::Arp | Kind::NeighbourDiscovery => Outcome::Pass,
        _ if must_stay => {
            note_sender(ctx, &mut work.packet);
            refuse_unsteered(work, reason::NOT_STEERED)
        }
        Kind::Ip if unseen && is_guarded(&work.packet.tuple.src) => {
            refuse(work, reason::ENDPOINT_NOT_READY)
        }
        // What the proxy sends to an end outside keeps the flow alive, or ends it.
        Kind::Ip if mark == mark::FROM_PROXY => {
            relayed(work);
            Outcome::Pass
        }
        Kind::Ip | Kind::Other | Kind::Broken => Outcome::Pass,
    }
}

/// Is it the address of a workload whose device had its programs once?
#[inline(always)]
fn is_guarded(src: &Addr) -> bool {
    // SAFETY: the agent replaces values as a whole.
    Maps.address(src)
        .is_some_and(|info| info.endpoint != 0 && unsafe { GUARDED.get(&info.endpoint) }.is_some())
}
