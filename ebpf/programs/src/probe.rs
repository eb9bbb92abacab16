//! Questions of the proxy: with which source address would this packet leave the node?
//! Asked here, behind the node's NAT and firewall, the answer is the node's own.

use aya_ebpf::{helpers::bpf_get_socket_cookie, programs::TcContext};
use tidegate_ebpf_shared::{
    event::counter,
    steer::{PeerKey, SteerOrigin},
};

use crate::{
    counters::count, maps::STEER_BY_TUPLE, packet::Kind, parse_apart::parse_apart,
    scratch::scratch, verdict::Outcome,
};

/// Answers a probe, which ends here. A packet that only has its mark is somebody else's.
#[inline(always)]
pub fn answer<const LINK: usize>(ctx: &TcContext) -> Outcome {
    // SAFETY: the kernel hands the program a valid context; 0 if the packet has no socket.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    let key = PeerKey::probe(cookie);
    // SAFETY: only whether there is one is asked.
    if cookie == 0 || unsafe { STEER_BY_TUPLE.get(&key) }.is_none() {
        return Outcome::Pass;
    }
    count(counter::PROBES, 0);
    let Some(work) = scratch() else {
        return Outcome::Drop;
    };
    if parse_apart::<LINK>(ctx) == Kind::Ip {
        let seen = SteerOrigin {
            dst: work.packet.tuple.src,
            dst_port: work.packet.tuple.src_port,
            protocol: work.packet.tuple.protocol,
            ..SteerOrigin::default()
        };
        // Refused, the proxy learns nothing, and asks again.
        let _ = STEER_BY_TUPLE.insert(&key, &seen, 0);
    }
    Outcome::Drop
}
