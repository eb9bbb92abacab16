//! Packets from a workload: policy of both ends is decided here.

use aya_ebpf::programs::TcContext;
use tidegate_decide::Tables as _;
use tidegate_ebpf_shared::{addr::Addr, identity::reserved, reason};

use crate::{
    admit::{Origin, admit, refuse},
    bridge, fragment, interface,
    packet::{Kind, parse},
    scratch::scratch,
    tables::Maps,
    verdict::Outcome,
};

/// Decides a packet that a workload sent.
#[inline(always)]
pub fn run(ctx: &TcContext) -> Outcome {
    let Some(work) = scratch() else {
        return Outcome::Drop;
    };
    let problem = match parse(ctx, &mut work.packet) {
        Kind::Arp => return Outcome::Pass,
        Kind::NeighbourDiscovery
            if is_of_neighbour(&work.packet.tuple.dst, work.packet.ifindex) =>
        {
            return Outcome::Pass;
        }
        Kind::Other | Kind::Broken => reason::INVALID_PACKET,
        Kind::NeighbourDiscovery | Kind::Ip => {
            fragment::resolve(work, fragment::Seen::FromEndpoint);
            match interface::endpoint(work.packet.ifindex) {
                Some(endpoint) => return admit(ctx, work, Origin::Endpoint(endpoint)),
                None => reason::ENDPOINT_NOT_READY,
            }
        }
    };
    refuse(work, problem)
}

/// May neighbour discovery for this address be for a neighbour? The node forwards what is
/// not, as any packet: it is judged as one, or a workload could send what it likes in the
/// options of a solicitation.
#[inline(always)]
fn is_of_neighbour(dst: &Addr, ifindex: u32) -> bool {
    let [high, ..] = dst.words();
    let high = u32::from_be(*high);
    // ff02::/16, of the link (RFC 4291 §2.7), and fe80::/10 (§2.5.6).
    if high >> 16 == 0xff02 || high >> 22 == 0xfe80 >> 6 {
        return true;
    }
    let Some(info) = Maps.address(dst) else {
        return false;
    };
    info.identity == reserved::HOST || (info.endpoint != 0 && bridge::is_port(ifindex))
}
