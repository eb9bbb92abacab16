//! Listening sockets: made by the agent, which keeps them so that connections wait in
//! the backlog while no proxy runs; used by one worker each.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    self, Backlog, SockType, SockaddrStorage, setsockopt,
    sockopt::{Ipv4OrigDstAddr, Ipv6OrigDstAddr, RcvBuf},
};
use tidegate_contract::ListenerInfo;
use tidegate_ebpf_shared::steer::class;

use crate::socket::{become_transparent, mark_inspected, new_socket};

/// Connections that may wait to be accepted, per listener.
const BACKLOG: i32 = 4_096;
/// Receive buffer of a UDP listener, bytes: queries that arrive while the worker is busy.
const DATAGRAM_BUFFER: usize = 1 << 20;

/// Makes the listener of a class. It is bound to a free port of the loopback address:
/// steered packets are handed to it whatever their destination, and nobody reaches it
/// from outside by its own address.
///
/// # Errors
///
/// The kernel's; transparent sockets need `CAP_NET_RAW` or `CAP_NET_ADMIN`.
pub fn create(info: ListenerInfo) -> io::Result<OwnedFd> {
    let v4 = matches!(info.class, class::TCP4 | class::UDP4);
    let address: SocketAddr = if v4 {
        (Ipv4Addr::LOCALHOST, 0).into()
    } else {
        (Ipv6Addr::LOCALHOST, 0).into()
    };
    let stream = is_stream(info.class);
    let kind = if stream {
        SockType::Stream
    } else {
        SockType::Datagram
    };
    let socket = new_socket(address, kind)?;
    // Accepted sockets inherit both.
    mark_inspected(&socket)?;
    become_transparent(&socket, address)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    if stream {
        socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    } else {
        setsockopt(&socket, RcvBuf, &DATAGRAM_BUFFER)?;
        if v4 {
            setsockopt(&socket, Ipv4OrigDstAddr, &true)?;
        } else {
            setsockopt(&socket, Ipv6OrigDstAddr, &true)?;
        }
    }
    Ok(socket)
}

/// Is a class TCP (else it is UDP)?
pub fn is_stream(of: u32) -> bool {
    matches!(of, class::TCP4 | class::TCP6)
}
