//! The one flow record, from kernel and proxy alike.

use std::net::IpAddr;
use tidegate_policy::compiled::{Generation, IdentityId};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_contract::{FailureKind, L7Summary, units};

/// A line of `tidegate observe -o json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Line {
    /// What happened.
    Record(Box<FlowRecord>),
    /// Something was not told.
    #[serde(rename_all = "camelCase")]
    Lost {
        /// Records that this reader was too slow for.
        lost_events: u64,
    },
}

/// What happened to a flow, a request or a packet, and which rule decided it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlowRecord {
    /// Wall-clock time; nanoseconds since 1970-01-01T00:00:00Z inside, RFC 3339 outside.
    #[serde(rename = "time", with = "units::rfc3339::nanoseconds")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub time_ns: u64,
    /// What the record is about.
    pub event: FlowEvent,
    /// The final word on it.
    pub verdict: FlowVerdict,
    /// Hubble drop reason number; present for drops only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_reason: Option<u8>,
    /// The phrase for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_reason_text: Option<String>,
    /// What went wrong, if something did; the verdict says what came of it: a failure may
    /// let a message pass, if its binding says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What kind of failure that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<FailureKind>,
    /// Direction of the policy that decided, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<FlowDirection>,
    /// IANA protocol name in lower case: `tcp`, `udp`, `icmp`, `icmpv6`, or the number.
    pub protocol: String,
    /// The initiator, or a dropped packet's sender.
    pub source: Party,
    /// The other end.
    pub destination: Party,
    /// Rules that decided, short form, egress before ingress.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// It was refused because none of these rules matched, and what none allows is denied.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub none_matched: bool,
    /// What would have become of it if what is in shadow were enforced, where that is
    /// something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
    /// TCP flags of the packet, e.g. `SYN, ACK`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<String>,
    /// What the first bytes look like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Bytes and packets (closed flows).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// Frontend the application connected to (translated sockets).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// What was asked and answered (L7 records).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l7: Option<L7Summary>,
    /// Plugin that decided, as `name@version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// Generation that decided.
    pub generation: Generation,
}

impl FlowRecord {
    /// Rules that decided, and those in shadow that would have.
    pub fn all_rules(&self) -> impl Iterator<Item = &String> {
        let in_shadow = self.shadow.iter().flat_map(|shadow| &shadow.rules);
        self.rules.iter().chain(in_shadow)
    }
}

/// What would become of something if what is in shadow were enforced, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Shadow {
    /// `FORWARDED`, `DROPPED`, `ERROR` (a plugin in shadow could not decide and would have
    /// it refused), or `REDIRECTED`: L7 rules would be asked. They are not: nothing that is
    /// enforced has the flow read.
    pub verdict: FlowVerdict,
    /// Rules that would decide, short form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// They would be asked and not match.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub none_matched: bool,
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FlowEvent {
    /// A flow was admitted.
    FlowNew,
    /// A flow ended.
    FlowClosed,
    /// A packet was dropped.
    Drop,
    /// A packet met the deny list.
    DenyList,
    /// A socket was translated to a backend.
    Translated,
    /// A socket operation was refused.
    SocketDenied,
    /// A host service opened a socket.
    SocketOpened,
    /// Something passed that what is in shadow would refuse, and of which nothing else
    /// tells: a live flow, decided anew after a change, or a packet that is of no flow.
    Rehearsed,
    /// An L7 request was decided and, if allowed, answered.
    L7,
}

/// Hubble's verdict names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum FlowVerdict {
    /// Passed.
    Forwarded,
    /// Refused.
    Dropped,
    /// Steered to the proxy.
    Redirected,
    /// Address translated.
    Translated,
    /// Would have been refused (audit mode).
    Audit,
    /// Did not pass, and no rule is the reason: a plugin failed, the server could not be
    /// reached, the message could not be read.
    Error,
}

/// Direction seen from the endpoint whose policy decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum FlowDirection {
    /// Towards the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Party {
    /// Address.
    pub address: IpAddr,
    /// Port; 0 where the protocol has none.
    pub port: u16,
    /// Security identity.
    pub identity: IdentityId,
    /// `namespace/name` if it is an endpoint on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Labels of the identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// DNS names learned for the address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

/// Volume of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// Packets from the source.
    pub tx_packets: u64,
    /// Bytes from the source.
    pub tx_bytes: u64,
    /// Packets to the source.
    pub rx_packets: u64,
    /// Bytes to the source.
    pub rx_bytes: u64,
}
