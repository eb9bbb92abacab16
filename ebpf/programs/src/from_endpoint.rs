//! Packets from a workload: policy of both ends is decided here.

use aya_ebpf::programs::TcContext;
use tidegate_ebpf_shared::reason;

use crate::{
    admit::{Origin, admit, refuse},
    fragment, interface,
    link::{self, Word},
    packet::{ETHERNET, Kind, parse},
    scratch::scratch,
    verdict::Outcome,
};

/// Decides a packet that a workload sent.
#[inline(always)]
pub fn run(ctx: &TcContext) -> Outcome {
    let Some(work) = scratch() else {
        return Outcome::Drop;
    };
    let kind = parse::<ETHERNET>(ctx, &mut work.packet);
    if matches!(kind, Kind::Other | Kind::Broken) {
        return refuse(work, reason::INVALID_PACKET);
    }
    fragment::resolve(work, fragment::Seen::FromEndpoint);
    let Some(endpoint) = interface::endpoint(work.packet.ifindex) else {
        return refuse(work, reason::ENDPOINT_NOT_READY);
    };
    if link::is_of_link_protocols(kind, &work.packet) {
        match link::said(ctx, kind, endpoint) {
            Word::Pass => return Outcome::Pass,
            Word::Needless => return Outcome::Drop,
            Word::Refused(reason) => return refuse(work, reason),
            Word::Data => {}
        }
    }
    admit(ctx, work, Origin::Endpoint(endpoint))
}
