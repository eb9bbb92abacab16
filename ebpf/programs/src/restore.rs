//! `recvmsg` and `getpeername`: the application sees the peer it asked for, not the
//! backend or the proxy that answered.

use aya_ebpf::programs::SockAddrContext;
use tidegate_decide::Tuple;
use tidegate_ebpf_shared::service::ReverseKey;

use crate::{
    maps::REVERSE_NAT,
    socket_addr::{cookie, read, write},
};

/// Replaces the peer's address if this socket's way to it was translated.
#[inline(always)]
pub fn run<const FAMILY: bool>(ctx: &SockAddrContext) {
    let mut peer = Tuple::default();
    read::<FAMILY>(ctx, &mut peer);
    let key = ReverseKey {
        cookie: cookie(ctx),
        addr: peer.dst,
        port: peer.dst_port,
        kind: ReverseKey::REPLY,
        pad: [0; 5],
    };
    // SAFETY: read only; entries are replaced as a whole.
    if let Some(asked) = unsafe { REVERSE_NAT.get(&key) } {
        write::<FAMILY>(ctx, &asked.addr, asked.port);
    }
}
