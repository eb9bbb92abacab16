//! Sockets of host services to the proxy: to its loopback listener, with the origin
//! published under something the proxy's side of the connection can look up.

use aya_ebpf::{
    bindings::sockaddr,
    helpers::{bpf_bind, bpf_get_prandom_u32},
    programs::SockAddrContext,
};
use tidegate_decide::Evaluation;
use tidegate_ebpf_shared::{
    addr::{Addr, proto},
    event::counter,
    steer::{PeerKey, SteerOrigin, class},
};

use crate::{
    addr::{is_v4, set_v4, set_v6, word},
    attempt::{Attempt, Call},
    counters::count_shared,
    maps::{STEER_BY_COOKIE, STEER_BY_TUPLE},
    socket_addr::{V4, read_source, write},
    tables::config,
    translate::remember,
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// First of the ports tried for a connected datagram socket, and how many there are
/// (Linux's default ephemeral range).
const FIRST_PORT: u32 = 32_768;
const PORTS: u32 = 28_232;
/// Ports tried before giving up.
const TRIES: u32 = 8;

/// Rewrites the call to the proxy's listener. False if it cannot be steered: there is
/// no listener, or no way to tell the proxy who is calling.
#[inline(always)]
pub fn steer<const FAMILY: bool>(
    ctx: &SockAddrContext,
    attempt: &mut Attempt,
    evaluation: &Evaluation,
    call: Call,
) -> bool {
    let is_v4 = is_v4(&attempt.tuple.dst);
    let port = listener_port(attempt.tuple.protocol, is_v4);
    if port == 0 {
        return false;
    }
    let mut listener = Addr::default();
    loopback(&mut listener, is_v4);
    if attempt.tuple.protocol == proto::UDP {
        read_source::<FAMILY>(ctx, &mut attempt.tuple);
        if attempt.tuple.src_port == [0, 0] {
            // A datagram has a port by now; a connect gets one only afterwards.
            if call == Call::Datagram || !bind::<FAMILY>(ctx, attempt, &listener) {
                return false;
            }
        }
        if is_unspecified(&attempt.tuple.src) {
            attempt.tuple.src = listener;
        }
    }
    if !publish(attempt, evaluation) || !write::<FAMILY>(ctx, &listener, port.to_ne_bytes()) {
        return false;
    }
    // So that the application sees the peer it asked for.
    remember(attempt, &listener, u32::from(port));
    count_shared(counter::SOCKETS_STEERED);
    true
}

/// Port of the proxy's listener for host sockets, as stored (big-endian); 0 if none.
#[inline(always)]
fn listener_port(protocol: u8, is_v4: bool) -> u16 {
    let Some(config) = config() else {
        return 0;
    };
    let port = match (protocol, is_v4) {
        (proto::TCP, true) => config.host_listener[class::TCP4 as usize],
        (proto::TCP, false) => config.host_listener[class::TCP6 as usize],
        (proto::UDP, true) => config.host_listener[class::UDP4 as usize],
        _ => config.host_listener[class::UDP6 as usize],
    };
    u16::from_ne_bytes(port)
}

/// Leaves the origin where the proxy's side finds it: a TCP socket's by its cookie
/// until it has a port (see `socket_ops`), a datagram socket's by its port at once.
#[inline(never)]
fn publish(attempt: &Attempt, evaluation: &Evaluation) -> bool {
    let origin = SteerOrigin {
        dst: attempt.tuple.dst,
        dst_port: attempt.tuple.dst_port,
        protocol: attempt.tuple.protocol,
        pad: 0,
        endpoint: evaluation.src_endpoint,
        src_identity: evaluation.src_identity,
        dst_identity: evaluation.dst_identity,
        rule: evaluation.egress_rule,
        l7: evaluation.egress_l7,
        generation: evaluation.generation,
    };
    if attempt.tuple.protocol == proto::TCP {
        return STEER_BY_COOKIE.insert(&attempt.cookie, &origin, 0).is_ok();
    }
    let key = PeerKey {
        addr: attempt.tuple.src,
        port: attempt.tuple.src_port,
        protocol: attempt.tuple.protocol,
        pad: 0,
    };
    STEER_BY_TUPLE.insert(&key, &origin, 0).is_ok()
}

/// Gives an unbound datagram socket a loopback address and a port, so that both are
/// known before its first datagram.
#[inline(always)]
fn bind<const FAMILY: bool>(ctx: &SockAddrContext, attempt: &mut Attempt, addr: &Addr) -> bool {
    for _ in 0..TRIES {
        // SAFETY: the helper takes nothing and only reads.
        let random = unsafe { bpf_get_prandom_u32() };
        let port = ((FIRST_PORT + random % PORTS) as u16).to_be_bytes();
        if bind_to::<FAMILY>(ctx, addr, port) {
            attempt.tuple.src = *addr;
            attempt.tuple.src_port = port;
            return true;
        }
    }
    false
}

/// `struct sockaddr_in` (linux/in.h).
#[repr(C)]
struct SockaddrIn {
    family: u16,
    port: [u8; 2],
    addr: u32,
    zero: [u32; 2],
}

/// `struct sockaddr_in6` (linux/in6.h).
#[repr(C)]
struct SockaddrIn6 {
    family: u16,
    port: [u8; 2],
    flow: u32,
    addr: [u32; 4],
    scope: u32,
}

#[inline(always)]
fn bind_to<const FAMILY: bool>(ctx: &SockAddrContext, addr: &Addr, port: [u8; 2]) -> bool {
    if FAMILY == V4 {
        let mut name = SockaddrIn {
            family: AF_INET,
            port,
            addr: word(addr, 3),
            zero: [0; 2],
        };
        bind_name(ctx, &mut name)
    } else {
        let mut name = SockaddrIn6 {
            family: AF_INET6,
            port,
            flow: 0,
            addr: [word(addr, 0), word(addr, 1), word(addr, 2), word(addr, 3)],
            scope: 0,
        };
        bind_name(ctx, &mut name)
    }
}

#[inline(always)]
fn bind_name<T>(ctx: &SockAddrContext, name: &mut T) -> bool {
    let len = size_of::<T>() as i32;
    // SAFETY: a valid context, and a name of its family's size, which is only read.
    let result = unsafe { bpf_bind(ctx.sock_addr, (&raw mut *name).cast::<sockaddr>(), len) };
    result == 0
}

#[inline(always)]
fn loopback(addr: &mut Addr, is_v4: bool) {
    if is_v4 {
        set_v4(addr, 0x7f00_0001_u32.to_be());
    } else {
        set_v6(addr, [0, 0, 0, 1_u32.to_be()]);
    }
}

/// `0.0.0.0` or `::`, in any form a socket may carry it.
#[inline(always)]
fn is_unspecified(addr: &Addr) -> bool {
    word(addr, 3) == 0
        && word(addr, 0) == 0
        && word(addr, 1) == 0
        && (word(addr, 2) == 0 || word(addr, 2) == 0xffff_u32.to_be())
}
