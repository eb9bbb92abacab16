//! Packets to a workload. Nearly all were decided where they entered the node; what is
//! left comes from the node's own stack, or was led here by its NAT after it was decided
//! for other ends. So the ends it is delivered to are looked up once more.

use aya_ebpf::programs::TcContext;
use tidegate_decide::{Tables as _, flow};
use tidegate_ebpf_shared::{
    config,
    flow::flags,
    mark::{self, tag},
    reason,
};

use crate::{
    admit::{Origin, Relation, Seen, admit, refuse, refuse_unsteered, relation, relayed, see},
    fragment, interface,
    maker::{self, Maker},
    maps::FLOWS,
    packet::{Kind, parse},
    scratch::{Scratch, scratch},
    tables::{Maps, generation},
    verdict::{Outcome, mark_of, tag_of},
};

/// Decides a packet on its way to a workload.
#[inline(always)]
pub fn run(ctx: &TcContext) -> Outcome {
    let Some(work) = scratch() else {
        return Outcome::Drop;
    };
    match parse(ctx, &mut work.packet) {
        Kind::Arp | Kind::NeighbourDiscovery => return Outcome::Pass,
        Kind::Other | Kind::Broken => return refuse(work, reason::INVALID_PACKET),
        Kind::Ip => fragment::resolve(work, fragment::Seen::ToEndpoint),
    }
    let tag = tag_of(ctx);
    if tag & tag::KIND == tag::TO_PROXY || mark_of(ctx) == mark::TO_PROXY {
        return refuse_unsteered(work, reason::NOT_STEERED);
    }
    let checked = tag & tag::KIND == tag::CHECKED;
    let seen = see(work);
    match known(work, checked.then_some(tag), seen) {
        Known::Decided => return Outcome::Pass,
        Known::Steered => return steered_leg(ctx, work),
        Known::No => {}
    }
    let Some(endpoint) = interface::endpoint(work.packet.ifindex) else {
        return refuse(work, reason::ENDPOINT_NOT_READY);
    };
    let origin = if checked {
        Origin::Nat(endpoint)
    } else {
        match maker::of(ctx, &work.packet) {
            Maker::Other | Maker::Stack => Origin::Host(endpoint),
            maker => match relation(work, maker == Maker::Proxy) {
                Relation::Forgotten => return Outcome::Pass,
                Relation::Translated => Origin::Nat(endpoint),
                Relation::Node => Origin::Host(endpoint),
            },
        }
    };
    admit(ctx, work, origin)
}

/// What the flow table says of the ends a packet is delivered to.
enum Known {
    /// A live flow that was looked up under these ends where the packet entered.
    Decided,
    /// A steered flow: only the proxy speaks to its ends.
    Steered,
    /// Nothing yet.
    No,
}

#[inline(always)]
fn known(work: &mut Scratch, checked: Option<u16>, seen: Seen) -> Known {
    let packet = &work.packet;
    if packet.problem != 0 || !packet.tuple.is_tracked() {
        // Decided by itself where it entered, and nothing is remembered of it. Its
        // ends may be others by now: decide it again.
        return Known::No;
    }
    // The fingerprint says that it was counted there. Were it another flow's by
    // accident, what follows would still be true of these ends.
    let same_ends = checked.is_some_and(|tag| tag & !tag::KIND == flow::fingerprint(&work.key));
    let Some(entry) = FLOWS.get_ptr(&work.key) else {
        // What audit mode let in is not reported twice.
        let audit = Maps.config_flags() & config::flags::AUDIT != 0;
        return if same_ends && audit {
            Known::Decided
        } else {
            Known::No
        };
    };
    // SAFETY: a value of the map, read only.
    let entry = unsafe { &*entry };
    if entry.flags & flags::REDIRECT != 0 {
        return Known::Steered;
    }
    let decided = same_ends
        && entry.generation == generation()
        && seen.is_of(entry, packet)
        && !(entry.flags & flags::NATED != 0 && seen.from_source(entry));
    if decided { Known::Decided } else { Known::No }
}

/// Something for an end of a steered flow: from the proxy, or past it.
#[inline(always)]
fn steered_leg(ctx: &TcContext, work: &mut Scratch) -> Outcome {
    match maker::of(ctx, &work.packet) {
        Maker::Proxy | Maker::ProxyElsewhere | Maker::Stack => {
            relayed(work);
            Outcome::Pass
        }
        Maker::Other => {
            // SAFETY: the kernel hands the program a valid context.
            let own = unsafe { (*ctx.skb.skb).ingress_ifindex } == 0;
            let reason = if own {
                reason::UNSTEERABLE
            } else {
                reason::NOT_STEERED
            };
            refuse_unsteered(work, reason)
        }
    }
}
