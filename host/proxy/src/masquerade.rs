//! Does the node masquerade what its workloads send to an address? Usual on container
//! hosts, and invisible to the proxy: to the kernel's connection tracking both legs of a
//! proxied connection are one, whose client leg ends at the node and needs no NAT, and so
//! the upstream leg gets none either. What the node would do is therefore found out with
//! a packet of another port, which the kernel program at the exit answers instead of
//! letting it go.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use nix::sys::socket::SockType;
use tidegate_ebpf_shared::addr::proto;

use super::{
    tables::Tables,
    upstream::{Speaker, cookie, send_probe},
};

/// How long an answer is believed: a change of the node's NAT rules takes effect on new
/// connections after this at the latest.
const LIFE: Duration = Duration::from_secs(5);
/// Answers one worker keeps; when there are more, all are asked for again.
const MAX_KNOWN: usize = 1_024;
/// How long a probe may take to the exit: it may wait for a neighbour's address. Without
/// an answer by then the client's own address is used, as without any NAT.
const PATIENCE: Duration = Duration::from_millis(250);
/// Pause between two looks for an answer that is not there at once.
const PAUSE: Duration = Duration::from_millis(2);

/// Who sends to where. Rules of NAT may ask for the protocol and the port as well.
type Way = (u8, IpAddr, SocketAddr);

/// What one worker has found out.
#[derive(Default)]
pub(super) struct Masquerade {
    known: RefCell<HashMap<Way, (Instant, Option<IpAddr>)>>,
}

impl Masquerade {
    /// Who the upstream leg of a client's flow to an end outside the node speaks as: the
    /// client itself, or the node where the node would put its address there.
    pub(super) async fn speaker(
        &self,
        tables: &Tables,
        transport: u8,
        client: SocketAddr,
        server: SocketAddr,
    ) -> Speaker {
        let way = (transport, client.ip(), server);
        if let Some(node) = self.known(&way) {
            return speaker(client, node);
        }
        let node = match probe(tables, way).await {
            Ok(source) => source.filter(|source| *source != client.ip()),
            // The leg itself will meet what the probe met, and its error is recorded.
            Err(error) => {
                tracing::debug!(%client, %server, %error, "a probe could not be sent");
                return Speaker::As(client);
            }
        };
        let mut known = self.known.borrow_mut();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(way, (Instant::now(), node));
        speaker(client, node)
    }

    fn known(&self, way: &Way) -> Option<Option<IpAddr>> {
        let known = self.known.borrow();
        let (asked, node) = known.get(way)?;
        (asked.elapsed() < LIFE).then_some(*node)
    }
}

/// Answers people who ask, outside the proxy, what it would find out.
pub struct Exits(Tables);

impl Exits {
    /// With the tables a proxy has, by name.
    ///
    /// # Errors
    ///
    /// If one is missing or has another layout.
    pub fn open(tables: BTreeMap<&str, OwnedFd>) -> io::Result<Self> {
        Tables::open(tables).map(Self)
    }

    /// The source address with which a flow of this client to a server outside would leave
    /// the node. `None` if what was tried came to no exit; nothing leaves in any case.
    ///
    /// # Errors
    ///
    /// What a socket that speaks as the client meets: no route, a firewall.
    pub async fn source(
        &self,
        transport: u8,
        client: IpAddr,
        server: SocketAddr,
    ) -> io::Result<Option<IpAddr>> {
        probe(&self.0, (transport, client, server)).await
    }
}

fn speaker(client: SocketAddr, node: Option<IpAddr>) -> Speaker {
    node.map_or(Speaker::As(client), Speaker::NodeAs)
}

/// The source address with which it would leave; `None` if it does not come to an exit.
async fn probe(tables: &Tables, (transport, client, server): Way) -> io::Result<Option<IpAddr>> {
    let kind = if transport == proto::TCP {
        SockType::Stream
    } else {
        SockType::Datagram
    };
    let socket: OwnedFd = send_probe(kind, client, server, |cookie| tables.probe(cookie))?;
    let cookie = cookie(&socket)?;
    let sent = Instant::now();
    loop {
        if let Some(source) = tables.probed(cookie)? {
            return Ok(Some(source));
        }
        if sent.elapsed() > PATIENCE {
            tracing::debug!(%client, %server, "a probe has not come to an exit of the node");
            return Ok(None);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
