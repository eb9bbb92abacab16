//! Contexts of the socket address hooks: the only file that touches their fields.
//! A hook of one family may not name the other's fields, hence the const parameter:
//! what it excludes is never compiled. Volatile, because the verifier wants each
//! field read and written singly.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::bpf_get_socket_cookie,
    programs::SockAddrContext,
};
use tidegate_decide::Tuple;
use tidegate_ebpf_shared::addr::{Addr, proto};

use crate::addr::{context_words, is_v4, set_v4, set_v6, word};

/// A family's hook: IPv4 or IPv6 (which also sees IPv4-mapped addresses).
pub const V4: bool = false;
/// See [`V4`].
pub const V6: bool = true;

/// Reads protocol and the address and port in the hook's call into `tuple.dst`.
#[inline(always)]
pub fn read<const FAMILY: bool>(ctx: &SockAddrContext, tuple: &mut Tuple) {
    let raw = ctx.sock_addr;
    // SAFETY: the kernel hands the program a valid context.
    unsafe {
        tuple.protocol = (&raw const (*raw).protocol).read_volatile() as u8;
        tuple.dst_port = port(raw);
        if FAMILY == V4 {
            set_v4(&mut tuple.dst, (&raw const (*raw).user_ip4).read_volatile());
        } else {
            set_v6(&mut tuple.dst, context_words(&raw const (*raw).user_ip6));
        }
    }
}

/// Writes an address and a port into the hook's call. False, and nothing written, if
/// an IPv4 call would get an IPv6 address.
#[inline(always)]
pub fn write<const FAMILY: bool>(ctx: &SockAddrContext, addr: &Addr, port: [u8; 2]) -> bool {
    let raw = ctx.sock_addr;
    // SAFETY: the kernel hands the program a valid context; these fields are writable.
    unsafe {
        if FAMILY == V4 {
            if !is_v4(addr) {
                return false;
            }
            (&raw mut (*raw).user_ip4).write_volatile(word(addr, 3));
        } else {
            let field = (&raw mut (*raw).user_ip6).cast::<u32>();
            field.write_volatile(word(addr, 0));
            field.add(1).write_volatile(word(addr, 1));
            field.add(2).write_volatile(word(addr, 2));
            field.add(3).write_volatile(word(addr, 3));
        }
        (&raw mut (*raw).user_port).write_volatile(u32::from(u16::from_ne_bytes(port)));
    }
    true
}

/// The socket's own address and port, as far as it is bound, into `tuple.src`.
#[inline(always)]
pub fn read_source<const FAMILY: bool>(ctx: &SockAddrContext, tuple: &mut Tuple) {
    // SAFETY: the kernel hands the program a valid context; its socket is never null
    // in these hooks, and the verifier holds us to the check.
    unsafe {
        let socket: *mut bpf_sock = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if socket.is_null() {
            return;
        }
        // Host byte order, unlike every other port of a context.
        let port = (&raw const (*socket).src_port).read_volatile();
        tuple.src_port = (port as u16).to_be_bytes();
        if FAMILY == V4 {
            set_v4(
                &mut tuple.src,
                (&raw const (*socket).src_ip4).read_volatile(),
            );
        } else {
            set_v6(&mut tuple.src, context_words(&raw const (*socket).src_ip6));
        }
    }
}

/// The socket's cookie: a number no other socket of this boot has.
#[inline(always)]
pub fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the kernel hands the program a valid context.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Is the call's protocol one we translate and steer?
#[inline(always)]
pub fn is_ours(tuple: &Tuple) -> bool {
    tuple.protocol == proto::TCP || tuple.protocol == proto::UDP
}

#[inline(always)]
unsafe fn port(raw: *const bpf_sock_addr) -> [u8; 2] {
    // SAFETY: the caller's context is valid.
    let port = unsafe { (&raw const (*raw).user_port).read_volatile() };
    (port as u16).to_ne_bytes()
}
