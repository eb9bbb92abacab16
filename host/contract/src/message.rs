//! The messages. One `SOCK_SEQPACKET` Unix socket (`<run>/proxy.sock`, listened on by the
//! proxy, inherited as a descriptor), MessagePack with named fields, descriptors attached where
//! stated. One of more than 64 KiB travels in a sealed memfd, as snapshots and compiled code
//! always do. Greetings and [`ToProxy::Drain`] are JSON in every version: whoever speaks another
//! one understands that much.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tidegate_ebpf_shared::maps::map;
use tidegate_policy::compiled::{EndpointId, Generation, IdentityId, L7Id, RuleId};

use crate::{Failure, L7Record, ProxyStats, Rehearsed};

/// Agent to proxy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ToProxy {
    /// First message of an agent. Descriptors attached: the maps in the order of
    /// `tables`, then the listeners in the order of `listeners` (only if the proxy has
    /// none yet; a proxy that has some answers with its own in [`ToAgent::Hello`]).
    Hello {
        /// Version of this protocol; [`PROTOCOL_VERSION`].
        protocol: u32,
        /// Names of the maps attached: all of [`TABLES`].
        #[serde(default)]
        tables: Vec<String>,
        /// Listeners attached.
        listeners: Vec<ListenerInfo>,
    },
    /// A new generation. Descriptors attached: a sealed memfd with a [`Snapshot`](crate::Snapshot),
    /// or with the [`Delta`](crate::Delta) that makes it of an earlier one, then one sealed
    /// memfd with compiled code per entry of `Snapshot::plugins` whose `artifact` is not known
    /// to this proxy yet, in order.
    Publish {
        /// Numbers what is published in one session, from 1.
        sequence: u64,
        /// Sequence number of what the delta is for; `None`: it is a whole snapshot.
        base: Option<u64>,
        /// Digests of the attached artifacts, in order.
        artifacts: Vec<String>,
    },
    /// What would be decided about this message? Answered with [`ToAgent::Judged`].
    Judge {
        /// Given back with the answer.
        id: u64,
        /// The message and the flow it would come on.
        question: Box<Question>,
    },
    /// Compiled plugins that the next [`ToProxy::Publish`] needs, when there are more
    /// than its packet has room for. Descriptors attached: as there, without a snapshot.
    Artifacts {
        /// Digests of the attached artifacts, in order.
        artifacts: Vec<String>,
    },
    /// End when idle: stop accepting, let streams finish until the deadline.
    Drain {
        /// Milliseconds.
        deadline_ms: u64,
    },
}

/// Proxy to agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ToAgent {
    /// Answer to [`ToProxy::Hello`]. Descriptors attached: the listeners, if this
    /// proxy already had them.
    Hello {
        /// Version of this protocol.
        protocol: u32,
        /// Generation in use, 0 if none.
        generation: Generation,
        /// Process id.
        pid: u32,
        /// Listeners attached.
        listeners: Vec<ListenerInfo>,
        /// Digests of the artifacts it holds.
        artifacts: Vec<String>,
    },
    /// Answer to [`ToProxy::Publish`]: the rule sets are in use on every worker. What
    /// had to be tried first may still be under way; see [`ProxyStats::bindings`].
    Published {
        /// The generation.
        generation: Generation,
        /// Plugins whose code cannot be used, or some binding of which refused, so far:
        /// name and reason.
        refused: Vec<(String, String)>,
    },
    /// Answer to [`ToProxy::Publish`]: this proxy has not what the delta is for. What is in
    /// use stays in use; the whole snapshot is wanted.
    Whole {
        /// Of the publication.
        sequence: u64,
    },
    /// Answer to [`ToProxy::Judge`].
    Judged {
        /// Of the question.
        id: u64,
        /// What would be decided.
        judgement: Judgement,
    },
    /// L7 records, in batches. Dropped and counted when the socket is full.
    Records {
        /// The records.
        records: Vec<L7Record>,
        /// Records lost since the last message.
        lost: u64,
    },
    /// A name resolved and the `FQDN` table was written.
    Learned {
        /// Name, lower case with final dot.
        name: String,
        /// Addresses and their time to live in seconds.
        addresses: Vec<(std::net::IpAddr, u32)>,
    },
    /// Counters and gauges, about once a second and on request.
    Stats(ProxyStats),
}

/// Version of the messages in this file.
pub const PROTOCOL_VERSION: u32 = 7;

/// The maps the proxy works with: who a steered flow is, addresses learned from DNS
/// answers, and where a host service's connection or datagram wanted to go; and what the
/// kernel decides by, as nobody else judges an open socket of a host service again.
pub const TABLES: [&str; 9] = [
    map::FLOWS,
    map::FQDN,
    map::STEERED,
    map::STEER_BY_TUPLE,
    map::CONFIG,
    map::GENERATION,
    map::ENDPOINTS,
    map::IPCACHE,
    map::POLICY,
];

/// Those of [`TABLES`] that it writes; it cannot write the others.
pub const WRITTEN: [&str; 2] = [map::FQDN, map::STEER_BY_TUPLE];

/// A message nobody sent, and the flow it would come on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// Client; its port does not matter.
    pub source: SocketAddr,
    /// Where it would go.
    pub destination: SocketAddr,
    /// Identity of the client.
    pub source_identity: IdentityId,
    /// Endpoint of the client on this node, or 0.
    pub source_endpoint: EndpointId,
    /// Identity of the destination's address.
    pub destination_identity: IdentityId,
    /// IANA protocol.
    pub transport: u8,
    /// The source's egress policy: rule set and the rule that asks for it, 0 if none.
    pub egress: (L7Id, RuleId),
    /// The destination's ingress policy, likewise.
    pub ingress: (L7Id, RuleId),
    /// The message.
    pub message: Message,
}

/// What would be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Message {
    /// A request head as HTTP/1.1 writes it, with the empty line.
    Http(String),
    /// A client asks for a server.
    Tls {
        /// Its name; empty for none.
        server_name: String,
        /// It is the host of a request in the clear.
        in_clear: bool,
    },
    /// A DNS query.
    Dns {
        /// Name, lower case with final dot.
        name: String,
        /// Type.
        qtype: u16,
    },
}

/// What would be decided about a [`Question`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    /// Would it pass.
    pub allowed: bool,
    /// HTTP status, gRPC's of a call, or DNS RCODE of the refusal; 0 if it would pass.
    pub code: u16,
    /// Rules that decided, as in [`L7Record::rules`].
    pub rules: Vec<RuleId>,
    /// As in [`L7Record::unmatched`].
    #[serde(default)]
    pub unmatched: bool,
    /// Plugin that refused or the last that allowed, as `name@version`.
    pub plugin: Option<String>,
    /// Why it was refused, or passed, if that was no policy decision.
    pub error: Option<Failure>,
    /// Direction of the rule set that refused (false: egress, true: ingress).
    pub ingress: bool,
    /// It would pass in audit mode only; enforced it would be refused.
    pub audited: bool,
    /// What would become of it if what is in shadow were enforced, where that is something
    /// else.
    #[serde(default)]
    pub rehearsed: Option<Rehearsed>,
    /// Generation that decided.
    pub generation: Generation,
}

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerInfo {
    /// `tidegate_ebpf_shared::steer::class`.
    pub class: u32,
    /// CPU whose flows it takes.
    pub cpu: u32,
}
