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
    addr::is_link_local,
    admit::{
        Origin, Relation, Seen, deliver, first, live, refuse, refuse_unsteered, relation, relayed,
        see,
    },
    bridge, fragment,
    host_packet::note_sender,
    interface,
    link::{self, Word, is_own},
    maker::{self, Maker},
    maps::FLOWS,
    packet::{ETHERNET, Kind, is_for_group, parse},
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
    let kind = parse::<ETHERNET>(ctx, &mut work.packet);
    match kind {
        Kind::Arp | Kind::NeighbourDiscovery => {
            return match interface::endpoint(work.packet.ifindex) {
                Some(endpoint) => told(work, link::heard(ctx, kind, endpoint)),
                None => Outcome::Pass,
            };
        }
        Kind::Other | Kind::Broken => return refuse(work, reason::INVALID_PACKET),
        Kind::Ip => fragment::resolve(work, fragment::Seen::ToEndpoint),
    }
    let tag = tag_of(ctx);
    if tag & tag::KIND == tag::TO_PROXY || mark_of(ctx) == mark::TO_PROXY {
        note_sender(ctx, &mut work.packet);
        return refuse_unsteered(work, reason::NOT_STEERED);
    }
    let Some(endpoint) = interface::endpoint(work.packet.ifindex) else {
        return refuse(work, reason::ENDPOINT_NOT_READY);
    };
    if link::is_of_link_protocols(kind, &work.packet) {
        let word = link::heard(ctx, kind, endpoint);
        if !matches!(word, Word::Data) {
            return told(work, word);
        }
    }
    let checked = tag & tag::KIND == tag::CHECKED;
    let seen = see(work);
    let known = known(ctx, work, checked.then_some(tag), seen, endpoint);
    if known == Known::Decided {
        return Outcome::Pass;
    }
    let elsewhere = known == Known::SteeredElsewhere;
    if known == Known::Steered || elsewhere {
        let outcome = steered_leg(ctx, work);
        if known == Known::Steered || matches!(outcome, Outcome::Drop) {
            return outcome;
        }
    }
    let whose = whose(ctx, work, endpoint);
    if whose == Whose::Others {
        return refuse(work, reason::INVALID_DESTINATION_MAC);
    }
    // Egress policy has been applied: where the packet entered, or by the proxy.
    let origin = if elsewhere || (checked && is_believed(ctx)) {
        Origin::Nat(endpoint)
    } else {
        match maker::of(ctx, &work.packet) {
            Maker::Other | Maker::Stack => Origin::Host(endpoint),
            maker => match relation(work, maker == Maker::Proxy) {
                Relation::Forgotten if whose == Whose::Own => return Outcome::Pass,
                Relation::Forgotten | Relation::Translated => Origin::Nat(endpoint),
                Relation::Node => Origin::Host(endpoint),
            },
        }
    };
    if elsewhere || (known == Known::Elsewhere && whose != Whose::Own) {
        return deliver(work, origin);
    }
    // The address may have become this endpoint's since: then the flow begins anew.
    if known == Known::No
        && let Some(outcome) = live(work, origin, seen)
    {
        return outcome;
    }
    first(ctx, work, origin, seen)
}

#[inline(always)]
fn told(work: &mut Scratch, word: Word) -> Outcome {
    match word {
        Word::Data | Word::Pass => Outcome::Pass,
        Word::Needless => Outcome::Drop,
        Word::Refused(reason) => refuse(work, reason),
    }
}

/// What the flow table says of the ends a packet is delivered to.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Known {
    /// A live flow that was looked up under these ends where the packet entered.
    Decided,
    /// A steered flow: only the proxy speaks to its ends.
    Steered,
    /// A flow that was decided for another endpoint than the one behind this device, or for
    /// none: a frame goes where its hardware address leads it, whatever its IP address is.
    Elsewhere,
    /// The same, steered.
    SteeredElsewhere,
    /// Nothing yet.
    No,
}

#[inline(always)]
fn known(
    ctx: &TcContext,
    work: &mut Scratch,
    checked: Option<u16>,
    seen: Seen,
    endpoint: u32,
) -> Known {
    if work.packet.problem != 0 || !work.packet.tuple.is_tracked() {
        note_sender(ctx, &mut work.packet);
        // Decided by itself where it entered, and nothing is remembered of it. Its
        // ends may be others by now: decide it again.
        return Known::No;
    }
    // The fingerprint says that it was counted there. Were it another flow's by
    // accident, what follows would still be true of these ends.
    let same_ends = checked.is_some_and(|tag| tag & !tag::KIND == flow::fingerprint(&work.key));
    let Some(entry) = FLOWS.get_ptr(&work.key) else {
        note_sender(ctx, &mut work.packet);
        // What audit mode let in is not reported twice.
        let audit = Maps.config_flags() & config::flags::AUDIT != 0;
        return if same_ends && audit && is_own(&work.packet.tuple.dst, endpoint) {
            Known::Decided
        } else {
            Known::No
        };
    };
    // SAFETY: a value of the map, read only.
    let entry = unsafe { &*entry };
    let from_source = seen.from_source(entry);
    let here = flow::sender_endpoint(entry, !from_source) == endpoint;
    if entry.flags & flags::REDIRECT != 0 {
        return if here {
            Known::Steered
        } else {
            Known::SteeredElsewhere
        };
    }
    if !here {
        return Known::Elsewhere;
    }
    let is_new = entry.generation == generation();
    if !is_new {
        note_sender(ctx, &mut work.packet);
    }
    let decided = same_ends
        && is_new
        && seen.is_of(entry, &work.packet)
        && !(entry.flags & flags::NATED != 0 && from_source);
    if decided { Known::Decided } else { Known::No }
}

/// Whose address a packet has as its destination.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Whose {
    /// That of the endpoint behind the device.
    Own,
    /// Nobody's we know: of more than one, or one that the endpoint has not declared.
    Unknown,
    /// Another's: it is not for this endpoint.
    Others,
}

/// On a bridge, frames for one neighbour alone come by his hardware address, or whoever says
/// that it is his: what has an address of nobody's is meant for somebody else, as the way
/// outside. In a stack frame of its own: few packets come here.
#[inline(never)]
fn whose(ctx: &TcContext, work: &Scratch, endpoint: u32) -> Whose {
    let dst = &work.packet.tuple.dst;
    let info = Maps.address(dst).unwrap_or_default();
    if info.endpoint == endpoint {
        Whose::Own
    } else if info.endpoint != 0
        || (bridge::is_port(work.packet.ifindex) && !is_for_group(ctx) && !is_link_local(dst))
    {
        Whose::Others
    } else {
        Whose::Unknown
    }
}

/// Did a program of ours write the packet's tag? A workload may have, if its device has none.
#[inline(always)]
fn is_believed(ctx: &TcContext) -> bool {
    // SAFETY: the kernel hands the program a valid context.
    let ingress = unsafe { (&raw const (*ctx.skb.skb).ingress_ifindex).read_volatile() };
    interface::tagging(ingress) != interface::Tagging::Nobodys
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
            note_sender(ctx, &mut work.packet);
            refuse_unsteered(work, reason)
        }
    }
}
