//! DNS over UDP. A query comes to the listener with its original destination; it goes
//! on from a socket with the client's address, one per client and server; the answer
//! goes back from a socket with the server's address, one per server.

use std::{
    cell::RefCell,
    collections::HashMap,
    io::{self, IoSliceMut},
    net::SocketAddr,
    os::fd::AsRawFd,
    rc::{Rc, Weak},
    time::Duration,
};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use tidegate_policy::compiled::L7Protocol;
use tokio::{
    io::Interest,
    net::UdpSocket,
    sync::{mpsc, watch},
    time::timeout,
};

use super::{
    exchange::{ANSWER_TIMEOUT, Decided, Exchange},
    voice::Voice,
};
use crate::{
    flow::{FlowContext, Reading},
    records::Counters,
    state::View,
    upstream::connect_udp,
};

/// Clients (address, port, server) one worker serves at once; queries of more are
/// dropped, and their resolvers ask again.
const MAX_LEGS: usize = 4_096;
/// Queries that may wait for a leg's task.
const LEG_QUEUE: usize = 64;
/// A leg that waits for answers is closed after this long without a datagram. A little
/// longer than an answer may take, so that every answer finds its leg.
const LEG_WAITS: Duration = Duration::from_secs(ANSWER_TIMEOUT.as_secs() + 1);
/// A leg with all its answers is closed after this long. Short, because resolvers take
/// a new port, and so a new leg, for each query: this and [`MAX_LEGS`] bound the rate.
const LEG_IDLE: Duration = Duration::from_millis(250);
/// Largest datagram.
const MAX_DATAGRAM: usize = 65_535;

type Legs = RefCell<HashMap<(SocketAddr, SocketAddr), mpsc::Sender<Vec<u8>>>>;
type Voices = RefCell<HashMap<SocketAddr, Weak<Voice>>>;

/// A UDP listener of one worker.
struct Listener {
    socket: Rc<UdpSocket>,
    address: SocketAddr,
    view: Rc<View>,
    legs: Legs,
    /// Voices of servers, as long as a leg uses them.
    voices: Voices,
    /// Where answers are read to; thousands of legs share it.
    answers: RefCell<Vec<u8>>,
}

/// Serves a listener until it is told to stop.
pub(crate) async fn listen(
    socket: UdpSocket,
    address: SocketAddr,
    view: Rc<View>,
    mut stop: watch::Receiver<bool>,
) {
    let listener = Rc::new(Listener {
        socket: Rc::new(socket),
        address,
        view,
        legs: RefCell::default(),
        voices: RefCell::default(),
        answers: RefCell::new(vec![0; MAX_DATAGRAM]),
    });
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let received = tokio::select! {
            received = listener.receive(&mut buffer) => received,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match received {
            Ok((length, client, destination)) => {
                listener
                    .clone()
                    .take(&buffer[..length], client, destination);
            }
            Err(error) => tracing::debug!(%error, "a datagram could not be received"),
        }
    }
}

impl Listener {
    /// The next datagram: its length, sender and original destination.
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, SocketAddr)> {
        self.socket
            .async_io(Interest::READABLE, || receive(&self.socket, buffer))
            .await
    }

    /// Hands a datagram to its leg, which is opened if there is none.
    fn take(self: Rc<Self>, message: &[u8], client: SocketAddr, destination: SocketAddr) {
        let key = (client, destination);
        let mut legs = self.legs.borrow_mut();
        if let Some(leg) = legs.get(&key) {
            match leg.try_send(message.to_vec()) {
                // A full queue is a client that asks faster than it can be served.
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => return,
                Err(mpsc::error::TrySendError::Closed(_)) => {}
            }
        }
        if legs.len() >= MAX_LEGS {
            tracing::debug!(%client, "too many DNS clients at once");
            Counters::add(&self.view.shared.records.counters.failed);
            return;
        }
        let (queries, queue) = mpsc::channel(LEG_QUEUE);
        // The queue is new and empty.
        let _ = queries.try_send(message.to_vec());
        legs.insert(key, queries);
        drop(legs);
        tokio::task::spawn_local(async move {
            if let Err(error) = self.serve(client, destination, queue).await {
                tracing::debug!(%client, %destination, %error, "a DNS leg ended");
                Counters::add(&self.view.shared.records.counters.failed);
            }
            // The queue is closed by now; a leg that was opened in its place is not.
            let mut legs = self.legs.borrow_mut();
            if legs.get(&key).is_some_and(mpsc::Sender::is_closed) {
                legs.remove(&key);
            }
        });
    }

    /// Serves one client and server until nothing was asked for a while.
    async fn serve(
        &self,
        client: SocketAddr,
        destination: SocketAddr,
        mut queue: mpsc::Receiver<Vec<u8>>,
    ) -> io::Result<()> {
        let flow =
            FlowContext::of_datagram(self.view.clone(), (client, destination), self.address)?
                .ok_or_else(|| io::Error::other("nobody admitted it"))?;
        if flow.reading() != Reading::As(L7Protocol::Dns) {
            return Err(io::Error::other("its rules are not for DNS"));
        }
        let back = self.voice(&flow)?;
        let mut exchange = Exchange::new(&flow);
        let server = match connect_udp(flow.speaker().await, flow.destination) {
            Ok(server) => server,
            Err(error) => {
                // The queries are recorded with the reason, and their client is told.
                while let Ok(query) = queue.try_recv() {
                    let answers = match exchange.query(&query) {
                        Decided::Forward => exchange.fail(&error),
                        Decided::Reply(answer) => vec![answer],
                        Decided::Drop => vec![],
                    };
                    back.send_all(client, answers).await;
                }
                return Err(error);
            }
        };
        loop {
            let turn = async {
                tokio::select! {
                    query = queue.recv() => query.map(Turn::Query),
                    ready = server.readable() => Some(Turn::Answer(ready)),
                }
            };
            let patience = if exchange.waits() {
                LEG_WAITS
            } else {
                LEG_IDLE
            };
            let Ok(Some(turn)) = timeout(patience, turn).await else {
                return Ok(());
            };
            match turn {
                Turn::Query(query) => match exchange.query(&query) {
                    Decided::Forward => {
                        if let Err(error) = server.send(&query).await {
                            back.send_all(client, exchange.fail(&error)).await;
                        }
                    }
                    Decided::Reply(answer) => back.send_all(client, vec![answer]).await,
                    Decided::Drop => {}
                },
                Turn::Answer(ready) => match ready.and_then(|()| self.read(&server)) {
                    Ok(Some(answer)) if exchange.answer(&answer) => {
                        back.send_all(client, vec![answer]).await;
                    }
                    Ok(_) => {}
                    // E.g. an ICMP error: the server is not there.
                    Err(error) => {
                        back.send_all(client, exchange.fail(&error)).await;
                    }
                },
            }
        }
    }

    /// A datagram of the server, if there is one after all.
    fn read(&self, server: &UdpSocket) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = self.answers.borrow_mut();
        match server.try_recv(&mut buffer) {
            Ok(length) => Ok(Some(buffer[..length].to_vec())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The voice that the client takes for the server's.
    fn voice(&self, flow: &FlowContext) -> io::Result<Rc<Voice>> {
        if flow.is_host_service() {
            return Ok(Rc::new(Voice::Bound(self.socket.clone())));
        }
        let mut voices = self.voices.borrow_mut();
        voices.retain(|_, voice| voice.strong_count() > 0);
        if let Some(voice) = voices.get(&flow.destination).and_then(Weak::upgrade) {
            return Ok(voice);
        }
        let voice = Rc::new(Voice::of(flow.destination)?);
        voices.insert(flow.destination, Rc::downgrade(&voice));
        Ok(voice)
    }
}

enum Turn {
    Query(Vec<u8>),
    Answer(io::Result<()>),
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, SocketAddr)> {
    let mut control = nix::cmsg_space!(libc::sockaddr_in6);
    let mut data = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut data, Some(&mut control), flags)?;
    let client = message.address.as_ref().and_then(socket_addr);
    let destination = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4OrigDstAddr(to) => Some(SocketAddr::new(
            to.sin_addr.s_addr.to_ne_bytes().into(),
            u16::from_be(to.sin_port),
        )),
        ControlMessageOwned::Ipv6OrigDstAddr(to) => Some(SocketAddr::new(
            to.sin6_addr.s6_addr.into(),
            u16::from_be(to.sin6_port),
        )),
        _ => None,
    });
    match (client, destination) {
        (Some(client), Some(destination)) => Ok((message.bytes, client, destination)),
        _ => Err(io::Error::other("a datagram without its addresses")),
    }
}

fn socket_addr(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::new(v4.ip().into(), v4.port()));
    }
    let v6 = storage.as_sockaddr_in6()?;
    Some(SocketAddr::new(v6.ip().into(), v6.port()))
}
