//! Sockets that speak with somebody else's address: the upstream leg of a connection
//! comes from the client's own address and port, an answer from the server's.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Duration,
};

use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrStorage, setsockopt,
    sockopt::{IpTransparent, Ipv6V6Only, Mark, ReuseAddr},
};
use tidegate_ebpf_shared::mark;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// How long an upstream server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The address a socket speaks from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    /// One of the node's own, chosen by routing.
    Node,
    /// Any address, ours or not.
    As(SocketAddr),
}

/// Connects the upstream leg of a TCP connection.
///
/// # Errors
///
/// `TimedOut` after [`CONNECT_TIMEOUT`], `AddrInUse` if an earlier connection between
/// the same ends is not over yet, else the network's.
pub(super) async fn connect_tcp(speaker: Speaker, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = if server.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    mark_inspected(&socket)?;
    if let Speaker::As(client) = speaker {
        become_transparent(&socket, client)?;
        socket.set_reuseaddr(true)?;
        socket.bind(client).map_err(|error| busy(error, client))?;
    }
    socket.set_nodelay(true)?;
    match tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(server)).await {
        Ok(Err(error)) => Err(match speaker {
            Speaker::As(client) => busy(error, client),
            Speaker::Node => error,
        }),
        Ok(stream) => stream,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "{server} did not accept within {} s",
                CONNECT_TIMEOUT.as_secs()
            ),
        )),
    }
}

/// A UDP socket connected to a server, for one client's datagrams.
pub(super) fn connect_udp(speaker: Speaker, server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = udp_socket(server)?;
    if let Speaker::As(client) = speaker {
        become_transparent(&socket, client)?;
        socket::bind(fd(&socket), &SockaddrStorage::from(client))?;
    }
    socket::connect(fd(&socket), &SockaddrStorage::from(server))?;
    UdpSocket::from_std(socket.into())
}

/// A UDP socket that sends as the server.
pub(super) fn answer_udp(server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = udp_socket(server)?;
    become_transparent(&socket, server)?;
    socket::bind(fd(&socket), &SockaddrStorage::from(server))?;
    UdpSocket::from_std(socket.into())
}

fn udp_socket(family_of: SocketAddr) -> io::Result<OwnedFd> {
    let socket = new_socket(family_of, SockType::Datagram)?;
    mark_inspected(&socket)?;
    // Several clients' sockets may share an address and port with those of others
    // towards another server; only the connected pair is unique.
    setsockopt(&socket, ReuseAddr, &true)?;
    Ok(socket)
}

/// A socket of the family of an address, non-blocking.
pub(super) fn new_socket(family_of: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
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
pub(super) fn mark_inspected(socket: &impl AsFd) -> io::Result<()> {
    setsockopt(socket, Mark, &mark::FROM_PROXY).map_err(|errno| denied(errno, "SO_MARK"))
}

/// Lets the socket use addresses that are not the node's.
pub(super) fn become_transparent(socket: &impl AsFd, family_of: SocketAddr) -> io::Result<()> {
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

fn fd(socket: &OwnedFd) -> i32 {
    socket.as_raw_fd()
}

fn denied(errno: nix::Error, option: &str) -> io::Error {
    let error = io::Error::from(errno);
    io::Error::new(
        error.kind(),
        format!("cannot set {option} (CAP_NET_RAW?): {error}"),
    )
}

/// Says what "address in use" means on a leg whose address is the client's.
fn busy(error: io::Error, client: SocketAddr) -> io::Error {
    match error.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable => io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("an earlier connection of {client} is not over yet"),
        ),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Loopback: every address of 127.0.0.0/8 is local, so this needs no steering,
    /// only the capability.
    #[tokio::test]
    async fn the_server_sees_the_clients_address_and_port() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // A port that is free now, of an address nobody else uses.
        let client: SocketAddr = {
            let free = std::net::TcpListener::bind("127.9.8.7:0").unwrap();
            free.local_addr().unwrap()
        };
        let connect = connect_tcp(Speaker::As(client), server.local_addr().unwrap());
        let (leg, accepted) = tokio::join!(connect, server.accept());
        let leg = leg.unwrap();
        assert_eq!(accepted.unwrap().1, client);
        assert!(leg.nodelay().unwrap());

        let again = connect_tcp(Speaker::As(client), server.local_addr().unwrap()).await;
        let error = again.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("not over yet"), "{error}");
    }

    #[tokio::test]
    async fn datagrams_carry_the_clients_and_the_servers_address() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let client = UdpSocket::bind("127.9.8.6:0").await.unwrap();
        let client_address = client.local_addr().unwrap();
        drop(client);
        let leg = connect_udp(Speaker::As(client_address), address).unwrap();
        leg.send(b"query").await.unwrap();
        let mut buffer = [0; 16];
        let (_, peer) = server.recv_from(&mut buffer).await.unwrap();
        assert_eq!(peer, client_address);

        let answers = answer_udp("127.5.5.5:53".parse().unwrap()).unwrap();
        let client = UdpSocket::bind("127.9.8.5:0").await.unwrap();
        answers
            .send_to(b"answer", client.local_addr().unwrap())
            .await
            .unwrap();
        let (_, peer) = client.recv_from(&mut buffer).await.unwrap();
        assert_eq!(peer, "127.5.5.5:53".parse().unwrap());
    }

    #[tokio::test]
    async fn a_refused_connection_says_so() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let error = connect_tcp(Speaker::Node, address).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
