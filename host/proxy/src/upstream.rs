//! Sockets that speak with somebody else's address: the upstream leg of a connection
//! comes from the client's own address and port, an answer from the server's.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrStorage, setsockopt,
    sockopt::{KeepAlive, Mark, ReuseAddr, TcpKeepCount, TcpKeepIdle, TcpKeepInterval},
};
use tidegate_channel::socket::{become_transparent, mark_inspected, new_socket};
use tidegate_ebpf_shared::mark;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// How long an upstream server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the leg of a client's earlier connection may take to go away: it fails or ends
/// with that connection, which has gone already where the client uses its port again.
const EARLIER: Duration = Duration::from_secs(5);
/// Longest pause before it is looked for again; the first is a turn of the other tasks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Seconds of silence after which a peer is asked whether it is still there.
const KEEPALIVE_IDLE: u32 = 30;
/// Seconds between such questions.
const KEEPALIVE_INTERVAL: u32 = 10;
/// Questions without an answer after which the peer is gone: a minute in all.
const KEEPALIVE_PROBES: u32 = 3;

/// The address a socket speaks from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    /// One of the node's own, chosen by routing.
    Node,
    /// This one of the node's own: what the node's NAT would put in the client's place.
    NodeAs(IpAddr),
    /// Any address, ours or not.
    As(SocketAddr),
}

/// Connects the upstream leg of a TCP connection.
///
/// # Errors
///
/// `TimedOut` after [`CONNECT_TIMEOUT`], `AddrInUse` if an earlier connection between
/// the same ends is not over after [`EARLIER`], else the network's.
pub(super) async fn connect_tcp(speaker: Speaker, server: SocketAddr) -> io::Result<TcpStream> {
    let began = Instant::now();
    let mut pause = Duration::ZERO;
    loop {
        match attempt(speaker, server).await {
            Err(error)
                if matches!(speaker, Speaker::As(_))
                    && error.kind() == io::ErrorKind::AddrInUse
                    && began.elapsed() < EARLIER => {}
            ended => return ended,
        }
        // Who holds it may be a task of this thread or of another one.
        if pause.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(pause).await;
        }
        pause = (pause * 2).clamp(Duration::from_millis(1), LOOK_AGAIN);
    }
}

async fn attempt(speaker: Speaker, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = if server.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    mark_inspected(&socket)?;
    match speaker {
        Speaker::As(client) => {
            become_transparent(&socket, client)?;
            socket.set_reuseaddr(true)?;
            socket.bind(client).map_err(|error| busy(error, client))?;
        }
        Speaker::NodeAs(address) => {
            // The port is chosen at `connect`, so that it only has to be free towards
            // this server.
            bind_address_no_port(&socket)?;
            let name = SocketAddr::new(address, 0);
            socket
                .bind(name)
                .map_err(|error| not_ours(error, address))?;
        }
        Speaker::Node => {}
    }
    socket.set_nodelay(true)?;
    keep_alive(&socket);
    match tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(server)).await {
        Ok(Err(error)) => Err(match speaker {
            Speaker::As(client) => busy(error, client),
            Speaker::Node | Speaker::NodeAs(_) => error,
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
    match speaker {
        Speaker::As(client) => {
            become_transparent(&socket, client)?;
            socket::bind(fd(&socket), &SockaddrStorage::from(client))
                .map_err(|errno| taken(errno.into(), client))?;
        }
        Speaker::NodeAs(address) => {
            socket::bind(
                fd(&socket),
                &SockaddrStorage::from(SocketAddr::new(address, 0)),
            )
            .map_err(|errno| not_ours(errno.into(), address))?;
        }
        Speaker::Node => {}
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

/// A socket for whole IP packets of this family, which sends what is known to be
/// inspected and receives nothing.
pub(super) fn packet_socket(family_of: SocketAddr) -> io::Result<OwnedFd> {
    let family = if family_of.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    // `IPPROTO_RAW`: the caller gives the IP header, in either family (raw(7), ipv6(7)).
    let socket = socket::socket(family, SockType::Raw, flags, socket::SockProtocol::Raw)?;
    mark_inspected(&socket)?;
    Ok(socket)
}

fn udp_socket(family_of: SocketAddr) -> io::Result<OwnedFd> {
    let socket = new_socket(family_of, SockType::Datagram)?;
    mark_inspected(&socket)?;
    // Several clients' sockets may share an address and port with those of others
    // towards another server; only the connected pair is unique.
    setsockopt(&socket, ReuseAddr, &true)?;
    Ok(socket)
}

/// Sends a packet that finds out how the node would send what the client sends to the
/// server: marked so that it is answered and dropped where it would leave. `ask` is
/// told the socket's cookie before it is sent. The question lives as long as the socket.
///
/// # Errors
///
/// `PermissionDenied` if the node's firewall drops it, else the network's.
pub(super) fn send_probe(
    transport: SockType,
    client: IpAddr,
    server: SocketAddr,
    ask: impl FnOnce(u64) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let socket = new_socket(server, transport)?;
    setsockopt(&socket, Mark, &mark::PROBE).map_err(|errno| denied(errno, "SO_MARK"))?;
    become_transparent(&socket, server)?;
    bind_address_no_port(&socket)?;
    socket::bind(
        fd(&socket),
        &SockaddrStorage::from(SocketAddr::new(client, 0)),
    )?;
    ask(cookie(&socket)?)?;
    match socket::connect(fd(&socket), &SockaddrStorage::from(server)) {
        Ok(()) | Err(nix::Error::EINPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    // A connect sends a segment; a datagram has to be sent, and may be empty.
    if transport == SockType::Datagram {
        socket::send(fd(&socket), &[], socket::MsgFlags::empty())?;
    }
    Ok(socket)
}

/// A number no other socket of this boot has.
pub(super) fn cookie(socket: &OwnedFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option writes one `u64`, which lives until the call returns.
    let result = unsafe {
        libc::getsockopt(
            fd(socket),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(cookie)
}

/// Leaves the choice of the port to `connect`.
fn bind_address_no_port(socket: &impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option reads one `c_int`, which lives until the call returns. It is
    // an option of the IPv4 level for sockets of both families.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Lets the kernel find out within a minute that a peer is gone without a word, also
/// if nobody has anything to say (RFC 9293 §3.8.4).
pub(super) fn keep_alive(socket: &impl AsFd) {
    let set = || -> nix::Result<()> {
        setsockopt(socket, TcpKeepIdle, &KEEPALIVE_IDLE)?;
        setsockopt(socket, TcpKeepInterval, &KEEPALIVE_INTERVAL)?;
        setsockopt(socket, TcpKeepCount, &KEEPALIVE_PROBES)?;
        setsockopt(socket, KeepAlive, &true)
    };
    if let Err(error) = set() {
        // The connection works without; its end may go unnoticed.
        tracing::debug!(%error, "no keepalive on a connection");
    }
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

/// Says who the node's NAT makes the proxy speak as, if it cannot.
fn not_ours(error: io::Error, address: IpAddr) -> io::Error {
    io::Error::new(
        error.kind(),
        format!(
            "the node's NAT sends it as {address}, which the proxy cannot (is it an address \
             of the node?): {error}"
        ),
    )
}

/// Says whose port it is if a datagram socket cannot have its client's.
fn taken(error: io::Error, client: SocketAddr) -> io::Error {
    match error.kind() {
        io::ErrorKind::AddrInUse => io::Error::new(
            io::ErrorKind::AddrInUse,
            format!(
                "a process of the node holds UDP port {}, the client's own",
                client.port()
            ),
        ),
        _ => error,
    }
}

/// Says what "address in use" means on a leg whose address is the client's.
fn busy(error: io::Error, client: SocketAddr) -> io::Error {
    match error.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable => io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("an earlier connection of {client} is not over"),
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
        assert_eq!(socket::getsockopt(&leg, KeepAlive), Ok(true));
        assert_eq!(socket::getsockopt(&leg, TcpKeepIdle), Ok(KEEPALIVE_IDLE));

        let again = || connect_tcp(Speaker::As(client), server.local_addr().unwrap());
        let error = attempt(Speaker::As(client), server.local_addr().unwrap())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("not over"), "{error}");
        // It is waited for, whoever holds it.
        leg.set_zero_linger().unwrap();
        let later = std::thread::spawn(move || {
            std::thread::sleep(LOOK_AGAIN);
            drop(leg);
        });
        let (next, accepted) = tokio::join!(again(), server.accept());
        assert_eq!(accepted.unwrap().1, client);
        assert_eq!(next.unwrap().local_addr().unwrap(), client);
        later.join().unwrap();
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
