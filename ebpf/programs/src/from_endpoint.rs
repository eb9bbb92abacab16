//! Packets from a workload: policy of both ends is decided here.

use aya_ebpf::programs::TcContext;
use tidegate_ebpf_shared::reason;

use crate::{
    admit::{Origin, admit, refuse},
    fragment, interface,
    packet::{Kind, parse},
    scratch::scratch,
    verdict::Outcome,
};

/// Decides a packet that a workload sent.
#[inline(always)]
pub fn run(ctx: &TcContext) -> Outcome {
    let Some(work) = scratch() else {
        return Outcome::Drop;
    };
    let problem = match parse(ctx, &mut work.packet) {
        Kind::Arp | Kind::NeighbourDiscovery => return Outcome::Pass,
        Kind::Other | Kind::Broken => reason::INVALID_PACKET,
        Kind::Ip => {
            fragment::resolve(work, fragment::Seen::FromEndpoint);
            match interface::endpoint(work.packet.ifindex) {
                Some(endpoint) => return admit(ctx, work, Origin::Endpoint(endpoint)),
                None => reason::ENDPOINT_NOT_READY,
            }
        }
    };
    refuse(work, problem)
}
