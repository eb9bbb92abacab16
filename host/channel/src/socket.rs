//! Sockets that speak for others.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, setsockopt,
    sockopt::{IpTransparent, Ipv6V6Only, Mark},
};
use tidegate_ebpf_shared::mark;

/// A socket of the family of an address, non-blocking.
pub fn new_socket(family_of: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if family_of.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, kind, flags, None)?;
    if !family_of.is_ipv4() {
        setsockopt(&socket, Ipv6V6Only, &true)?;
    }
    Ok(socket)
}

/// Everything the socket sends is known to be inspected.
pub fn mark_inspected(socket: &impl AsFd) -> io::Result<()> {
    setsockopt(socket, Mark, &mark::FROM_PROXY).map_err(|errno| denied(errno, "SO_MARK"))
}

/// Lets the socket use addresses that are not the node's.
pub fn become_transparent(socket: &impl AsFd, family_of: SocketAddr) -> io::Result<()> {
    if family_of.is_ipv4() {
        setsockopt(socket, IpTransparent, &true)
    } else {
        become_transparent_v6(socket)
    }
    .map_err(|errno| denied(errno, "IP_TRANSPARENT"))
}

/// `IPV6_TRANSPARENT` of `linux/in6.h`, which nix does not know.
fn become_transparent_v6(socket: &impl AsFd) -> nix::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option reads one `c_int`, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_IPV6,
            libc::IPV6_TRANSPARENT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(result).map(drop)
}

fn denied(errno: nix::Error, option: &str) -> io::Error {
    let error = io::Error::from(errno);
    io::Error::new(
        error.kind(),
        format!("cannot set {option} (CAP_NET_RAW?): {error}"),
    )
}
