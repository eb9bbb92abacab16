//! TCP state changes: hands the origin of a steered connection from the client's
//! socket to the proxy's, and enrols sockets of workloads that opted in.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_TCP_CONNECT_CB,
    },
    helpers::{bpf_get_socket_cookie, bpf_sk_storage_get},
    programs::SockOpsContext,
};
use tidegate_decide::{Tables as _, Tuple};
use tidegate_ebpf_shared::{
    addr::{Addr, proto},
    endpoint::flags::FAST_LANE,
    flow::FlowKey,
    steer::{PeerKey, SteerOrigin, class},
};

use crate::{
    maps::{FAST_SOCKETS, STEER_BY_COOKIE, STEER_BY_TUPLE, STEERED},
    stream::stream_tuple,
    tables::{Maps, config},
};

/// Handles one state change.
#[inline(always)]
pub fn run(ctx: &SockOpsContext) {
    let op = ctx.op();
    if op == BPF_SOCK_OPS_TCP_CONNECT_CB {
        publish(ctx);
    } else if op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        let tuple = tuple(ctx);
        if is_host_listener(tuple.src_port) {
            adopt(ctx, &tuple);
        } else {
            enrol(ctx, &tuple);
        }
    } else if op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB {
        enrol(ctx, &tuple(ctx));
    }
}

/// The port is known and the SYN has not left: no race with [`adopt`].
#[inline(always)]
fn publish(ctx: &SockOpsContext) {
    // SAFETY: the kernel hands the program a valid context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: read only; entries are replaced as a whole.
    let Some(origin) = (unsafe { STEER_BY_COOKIE.get(&cookie) }) else {
        return;
    };
    let tuple = tuple(ctx);
    let key = peer(&tuple.src, tuple.src_port);
    let _ = STEER_BY_TUPLE.insert(&key, origin, 0);
    let _ = STEER_BY_COOKIE.remove(&cookie);
}

/// Moves the origin into the socket the proxy accepts, which frees it with the socket.
#[inline(always)]
fn adopt(ctx: &SockOpsContext, tuple: &Tuple) {
    let key = peer(&tuple.dst, tuple.dst_port);
    // SAFETY: read only; entries are replaced as a whole.
    let Some(origin) = (unsafe { STEER_BY_TUPLE.get(&key) }) else {
        return;
    };
    let mut origin: SteerOrigin = *origin;
    // SAFETY: the kernel hands the program a valid context; the helper copies `origin`.
    unsafe {
        let socket = (*ctx.ops).__bindgen_anon_2.sk;
        if socket.is_null() {
            return;
        }
        bpf_sk_storage_get(
            (&raw const STEERED).cast_mut().cast(),
            socket.cast(),
            (&raw mut origin).cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        );
    }
    let _ = STEER_BY_TUPLE.remove(&key);
}

/// Puts the socket in `FAST_SOCKETS` if either end is a workload that opted in. Now
/// or never: a socket that has sent or received must not enter.
#[inline(always)]
fn enrol(ctx: &SockOpsContext, tuple: &Tuple) {
    if !has_opted_in(&tuple.src) && !has_opted_in(&tuple.dst) {
        return;
    }
    let key = socket_key(tuple);
    // SAFETY: the kernel hands the program a valid context.
    let _ = FAST_SOCKETS.update(key, unsafe { &mut *ctx.ops }, 0);
}

/// Key of a socket in `FAST_SOCKETS`: the low end is its own, so that both sockets of
/// a connection inside the node have a place.
#[inline(always)]
pub fn socket_key(tuple: &Tuple) -> FlowKey {
    FlowKey {
        low_addr: tuple.src,
        high_addr: tuple.dst,
        low_port: tuple.src_port,
        high_port: tuple.dst_port,
        protocol: proto::TCP,
        pad: [0; 3],
    }
}

#[inline(always)]
fn has_opted_in(addr: &Addr) -> bool {
    Maps.address(addr)
        .filter(|info| info.endpoint != 0)
        .and_then(|info| Maps.endpoint(info.endpoint))
        .is_some_and(|endpoint| endpoint.flags & FAST_LANE != 0)
}

#[inline(always)]
fn is_host_listener(port: [u8; 2]) -> bool {
    config().is_some_and(|config| {
        port == config.host_listener[class::TCP4 as usize]
            || port == config.host_listener[class::TCP6 as usize]
    })
}

#[inline(always)]
fn peer(addr: &Addr, port: [u8; 2]) -> PeerKey {
    PeerKey {
        addr: *addr,
        port,
        protocol: proto::TCP,
        pad: 0,
    }
}

#[inline(always)]
fn tuple(ctx: &SockOpsContext) -> Tuple {
    stream_tuple!(ctx.ops)
}
