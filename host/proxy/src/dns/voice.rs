//! Who answers: a socket whose datagrams the client takes for the server's.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    rc::Rc,
};

use nix::sys::socket::{self, MsgFlags, SockaddrStorage};
use tidegate_wire::dns::truncated;
use tokio::net::UdpSocket;

use super::datagram::packet;
use crate::upstream::{answer_udp, packet_socket};

/// The voice of a server.
#[derive(Clone)]
pub(super) enum Voice {
    /// Bound to the server's address and port; or the listener itself, for a host
    /// service, whose socket hooks give the answer its sender back.
    Bound(Rc<UdpSocket>),
    /// A process of the node holds the server's port (a resolver of its own, on every
    /// address): packets with headers of our own.
    Packets(Rc<OwnedFd>, SocketAddr),
}

impl Voice {
    /// The voice of a server that is not of this node.
    pub(super) fn of(server: SocketAddr) -> io::Result<Self> {
        match answer_udp(server) {
            Ok(socket) => Ok(Self::Bound(Rc::new(socket))),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tracing::debug!(%server, "a process of the node holds the server's port");
                Ok(Self::Packets(Rc::new(packet_socket(server)?), server))
            }
            Err(error) => Err(error),
        }
    }

    /// Sends what fails to be sent with a log line: the client asks again.
    pub(super) async fn send_all(&self, client: SocketAddr, answers: Vec<Vec<u8>>) {
        for answer in answers {
            if let Err(error) = self.send(client, &answer).await {
                tracing::debug!(%client, %error, "an answer could not be sent");
            }
        }
    }

    async fn send(&self, client: SocketAddr, answer: &[u8]) -> io::Result<()> {
        let (socket, server) = match self {
            Self::Bound(socket) => return socket.send_to(answer, client).await.map(drop),
            Self::Packets(socket, server) => (socket, *server),
        };
        match send_packet(socket, server, client, answer) {
            // Such packets are not fragmented: the client is to ask by TCP.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                let short = truncated(answer)
                    .ok_or_else(|| io::Error::other("an answer without a question"))?;
                send_packet(socket, server, client, &short)
            }
            sent => sent,
        }
    }
}

fn send_packet(
    socket: &OwnedFd,
    server: SocketAddr,
    client: SocketAddr,
    answer: &[u8],
) -> io::Result<()> {
    let packet = packet(server, client, answer).ok_or(io::ErrorKind::InvalidInput)?;
    // The port is in the packet; a raw socket of IPv6 takes none here.
    let to = SockaddrStorage::from(SocketAddr::new(client.ip(), 0));
    socket::sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::MSG_DONTWAIT)?;
    Ok(())
}
