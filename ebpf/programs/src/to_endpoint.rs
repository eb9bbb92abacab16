//! Packets to a workload. Nearly all were decided where they entered the node and
//! say so by their mark; what is left comes from the node's own stack.

use aya_ebpf::programs::TcContext;
use tidegate_decide::{flow, tuple::tcp};
use tidegate_ebpf_shared::{addr::proto, flow::flags, mark, reason};

use crate::{
    admit::{Origin, admit, refuse, refuse_unsteered},
    interface,
    maps::FLOWS,
    packet::{Kind, Packet, parse},
    scratch::{Scratch, scratch},
    verdict::{Outcome, mark_of},
};

/// Decides a packet on its way to a workload.
#[inline(always)]
pub fn run(ctx: &TcContext) -> Outcome {
    let mark = mark_of(ctx);
    if mark == mark::CHECKED {
        return Outcome::Pass;
    }
    let Some(work) = scratch() else {
        return Outcome::Drop;
    };
    let problem = match parse(ctx, &mut work.packet) {
        Kind::Arp | Kind::NeighbourDiscovery => return Outcome::Pass,
        Kind::Other | Kind::Broken => reason::INVALID_PACKET,
        Kind::Ip if mark == mark::TO_PROXY => return refuse_unsteered(work),
        Kind::Ip => match steered_leg(work, mark == mark::FROM_PROXY) {
            Leg::Pass => return Outcome::Pass,
            Leg::Refuse => reason::UNSTEERABLE,
            Leg::None => match interface::endpoint(work.packet.ifindex) {
                Some(endpoint) => return admit(ctx, work, Origin::Host(endpoint)),
                None => reason::ENDPOINT_NOT_READY,
            },
        },
    };
    refuse(work, problem)
}

/// What the flow table says of a packet from the node's stack.
enum Leg {
    /// It belongs to a steered flow and may pass.
    Pass,
    /// It belongs to a steered flow, and went around the proxy.
    Refuse,
    /// It is ordinary traffic of the node.
    None,
}

#[inline(always)]
fn steered_leg(work: &mut Scratch, from_proxy: bool) -> Leg {
    let packet = &work.packet;
    if packet.problem != 0 || packet.tuple.is_icmp() {
        return Leg::None;
    }
    let src_is_low = packet.tuple.flow_key(&mut work.key);
    let Some(entry) = FLOWS.get_ptr_mut(&work.key) else {
        return Leg::None;
    };
    // SAFETY: a value of the map; written like every other packet of the flow does.
    let entry = unsafe { &mut *entry };
    if entry.flags & flags::REDIRECT == 0 {
        return Leg::None;
    }
    if from_proxy {
        flow::touch(
            entry,
            flow::from_source(entry, src_is_low),
            work.tick.coarse(),
        );
        return Leg::Pass;
    }
    if is_reset(packet) {
        Leg::Pass
    } else {
        Leg::Refuse
    }
}

/// The stack resets connections whose socket is gone (a proxy that died) without our
/// mark. Nothing but a reset can pass this way.
#[inline(always)]
fn is_reset(packet: &Packet) -> bool {
    packet.tuple.protocol == proto::TCP && packet.tcp_flags & tcp::RST != 0
}
