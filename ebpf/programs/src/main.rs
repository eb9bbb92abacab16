//! Tidegate's kernel programs: entry points only. Each hook's work is in the file
//! of its name; decisions shared with the agent are in `tidegate-decide`.
#![no_std]
#![no_main]
// Atomic addition to map values; `core::sync::atomic` has none for this target.
#![feature(core_intrinsics)]
#![allow(internal_features)]

mod addr;
mod admit;
mod attempt;
mod bridge;
mod clock;
mod connect;
mod counters;
mod deny_list;
mod events;
mod first_bytes;
mod fragment;
mod from_endpoint;
mod from_outside;
mod groups;
mod host_packet;
mod host_service;
mod interface;
mod lease;
mod link;
mod maker;
mod maps;
mod open_socket;
mod packet;
mod parse_apart;
mod pick_listener;
mod probe;
mod restore;
mod scratch;
mod socket_addr;
mod socket_ops;
mod steer;
mod stream;
mod tables;
mod to_endpoint;
mod to_outside;
mod to_socket;
mod translate;
mod verdict;

use attempt::Call;
use aya_ebpf::{
    bindings::sk_action::SK_PASS,
    macros::{
        cgroup_skb, cgroup_sock, cgroup_sock_addr, classifier, sk_lookup, sk_msg, sock_ops, xdp,
    },
    programs::{
        SkBuffContext, SkLookupContext, SkMsgContext, SockAddrContext, SockContext, SockOpsContext,
        TcContext, XdpContext,
    },
};
use packet::{ETHERNET, HEADERLESS};
use socket_addr::{V4, V6};

/// tcx ingress on what stands above workloads' devices.
#[classifier]
pub fn handed_up(ctx: TcContext) -> i32 {
    verdict::handed_up(&ctx)
}

/// tcx ingress on the host side of a workload's veth.
#[classifier]
pub fn from_endpoint(ctx: TcContext) -> i32 {
    verdict::entry(&ctx, from_endpoint::run(&ctx))
}

/// tcx egress on the host side of a workload's veth.
#[classifier]
pub fn to_endpoint(ctx: TcContext) -> i32 {
    verdict::exit(&ctx, to_endpoint::run(&ctx))
}

/// tcx ingress on an outside device.
#[classifier]
pub fn from_outside(ctx: TcContext) -> i32 {
    verdict::entry(&ctx, from_outside::run::<ETHERNET>(&ctx))
}

/// tcx ingress on an outside device without an Ethernet header.
#[classifier]
pub fn from_outside_ip(ctx: TcContext) -> i32 {
    verdict::entry(&ctx, from_outside::run::<HEADERLESS>(&ctx))
}

/// tcx egress on every device but those of workloads.
#[classifier]
pub fn to_outside(ctx: TcContext) -> i32 {
    verdict::exit(&ctx, to_outside::run::<ETHERNET>(&ctx))
}

/// tcx egress on every device without an Ethernet header.
#[classifier]
pub fn to_outside_ip(ctx: TcContext) -> i32 {
    verdict::exit(&ctx, to_outside::run::<HEADERLESS>(&ctx))
}

/// sk_lookup in the node's network namespace.
#[sk_lookup]
pub fn pick_listener(ctx: SkLookupContext) -> u32 {
    verdict::sk_lookup(pick_listener::run(&ctx))
}

/// XDP on an outside device: the deny list.
#[xdp]
pub fn deny_list(ctx: XdpContext) -> u32 {
    verdict::xdp(deny_list::run::<ETHERNET>(&ctx))
}

/// XDP on an outside device without an Ethernet header: the deny list.
#[xdp]
pub fn deny_list_ip(ctx: XdpContext) -> u32 {
    verdict::xdp(deny_list::run::<HEADERLESS>(&ctx))
}

/// `connect`, IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    verdict::socket(connect::run::<V4>(&ctx, Call::Connect))
}

/// `connect`, IPv6 socket.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    verdict::socket(connect::run::<V6>(&ctx, Call::Connect))
}

/// `sendto` and `sendmsg` of a datagram socket, IPv4 socket.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    verdict::socket(connect::run::<V4>(&ctx, Call::Datagram))
}

/// `sendto` and `sendmsg` of a datagram socket, IPv6 socket.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    verdict::socket(connect::run::<V6>(&ctx, Call::Datagram))
}

/// `recvfrom` and `recvmsg` of a datagram socket, IPv4 socket.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    restore::run::<V4>(&ctx);
    1
}

/// `recvfrom` and `recvmsg` of a datagram socket, IPv6 socket.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    restore::run::<V6>(&ctx);
    1
}

/// `getpeername`, IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    restore::run::<V4>(&ctx);
    1
}

/// `getpeername`, IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    restore::run::<V6>(&ctx);
    1
}

/// `socket`, IPv4 and IPv6.
#[cgroup_sock(sock_create)]
pub fn open_socket(ctx: SockContext) -> i32 {
    verdict::socket(open_socket::run(&ctx))
}

/// Packets of sockets in the node's cgroup.
#[cgroup_skb(egress)]
pub fn host_packet(ctx: SkBuffContext) -> i32 {
    verdict::cgroup_packet(host_packet::run(&ctx))
}

/// Packets for sockets in the node's cgroup.
#[cgroup_skb(ingress)]
pub fn to_socket(ctx: SkBuffContext) -> i32 {
    verdict::cgroup_packet(to_socket::run(&ctx))
}

/// TCP state changes of sockets in the node's cgroup.
#[sock_ops]
pub fn socket_ops(ctx: SockOpsContext) -> u32 {
    socket_ops::run(&ctx);
    0
}

/// Messages of the sockets in `FAST_SOCKETS`.
#[sk_msg]
pub fn first_bytes(ctx: SkMsgContext) -> u32 {
    first_bytes::run(&ctx);
    SK_PASS
}

/// The verifier refuses a program that could get here; the linker wants it all the same.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// GPL-2.0 is one of the two licences; several helpers are reserved for it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
