//! What the proxy decided about requests and queries.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_policy::compiled::{EndpointId, Generation, IdentityId, RuleId};
use tidegate_wire::{dns::rcode, grpc};

use crate::{Failure, units};

/// One decided request or query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct L7Record {
    /// Wall-clock time, nanoseconds since 1970-01-01T00:00:00Z.
    pub time_ns: u64,
    /// IANA protocol of the transport.
    pub transport: u8,
    /// Client.
    pub source: SocketAddr,
    /// Original destination.
    pub destination: SocketAddr,
    /// Identities and endpoints, source then destination.
    pub identities: (IdentityId, IdentityId),
    /// Endpoint ids, source then destination; 0 if not local.
    pub endpoints: (EndpointId, EndpointId),
    /// Was it allowed.
    pub allowed: bool,
    /// It was refused, and passed because denials are only reported.
    #[serde(default)]
    pub audited: bool,
    /// Rules that decided: L7 rules where one matched, else those that asked for L7.
    pub rules: Vec<RuleId>,
    /// It was refused because none of them matched.
    #[serde(default)]
    pub unmatched: bool,
    /// Plugin that refused or the last that allowed, as `name@version`.
    pub plugin: Option<String>,
    /// Why it failed if it was not a policy decision, e.g. `plugin trapped`.
    pub error: Option<Failure>,
    /// Direction of the rule set that refused (false: egress, true: ingress).
    pub ingress: bool,
    /// What would have become of it if what is in shadow were enforced, where that is
    /// something else.
    #[serde(default)]
    pub rehearsed: Option<Rehearsed>,
    /// Generation that decided.
    pub generation: Generation,
    /// What was asked and answered.
    pub l7: L7Summary,
}

/// What would become of a message if what is in shadow were enforced, where that is
/// something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rehearsed {
    /// Would it pass.
    pub allowed: bool,
    /// Rules that would decide, or be asked and not match: see `unmatched`.
    pub rules: Vec<RuleId>,
    /// As [`L7Record::unmatched`].
    #[serde(default)]
    pub unmatched: bool,
    /// Why a plugin could not decide, if that is why it would not pass.
    pub error: Option<Failure>,
}

/// What was asked and answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", tag = "protocol")]
pub enum L7Summary {
    /// An HTTP request.
    #[serde(rename = "http", rename_all = "camelCase")]
    Http {
        /// `HTTP/1.1`, `HTTP/2`, …
        version: Cow<'static, str>,
        /// Method.
        method: String,
        /// Authority and path: `http://host/path`.
        url: String,
        /// Status sent to the client; 0 if none was.
        status: u16,
        /// What of it is gRPC, if it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grpc: Option<GrpcCall>,
        /// From request head to response head; microseconds inside, seconds outside.
        #[serde(rename = "latencySeconds", with = "units::of_microseconds")]
        #[schemars(with = "f64")]
        latency_us: u64,
    },
    /// A DNS query.
    #[serde(rename = "dns", rename_all = "camelCase")]
    Dns {
        /// Name asked for.
        query: String,
        /// Type asked for, e.g. `A`.
        qtype: String,
        /// RCODE of the answer sent, as IANA numbers it; absent if none was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rcode: Option<u8>,
        /// Addresses in the answer.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ips: Vec<IpAddr>,
        /// Smallest TTL of the answer, seconds.
        #[serde(default, rename = "ttlSeconds")]
        ttl: u32,
        /// From query to answer, likewise.
        #[serde(rename = "latencySeconds", with = "units::of_microseconds")]
        #[schemars(with = "f64")]
        latency_us: u64,
    },
    /// What a client asked for before it encrypted.
    #[serde(rename = "tls", rename_all = "camelCase")]
    Tls {
        /// Server it asked for, lower case, without a final dot; empty if none. With an
        /// encrypted hello the name outside of it.
        server_name: String,
        /// Highest version it offers, e.g. `TLS 1.3`; empty if it does not speak TLS.
        #[serde(default)]
        version: Cow<'static, str>,
        /// Protocols it would speak inside, in its order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        alpn: Vec<String>,
        /// It hides another hello in this one (or looks as if it did).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        ech: bool,
        /// Why there is nothing that could have been allowed; empty if there was a name.
        #[serde(default)]
        status: Cow<'static, str>,
        /// Number of the alert it was refused with; absent if none was sent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        alert: Option<u8>,
    },
    /// A request that a filter of byte streams told of.
    #[serde(rename = "stream", rename_all = "camelCase")]
    Stream {
        /// Plugin that read it, e.g. `kafka`.
        reader: String,
        /// What was asked for, in the plugin's words, e.g. `Produce v9`.
        command: String,
        /// What it was asked of, e.g. topics.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        targets: Vec<String>,
        /// The protocol's own number for what was answered; absent if nothing was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<i32>,
        /// What was answered, in words; empty if all went well.
        #[serde(default)]
        status: String,
        /// From request to answer, likewise.
        #[serde(rename = "latencySeconds", with = "units::of_microseconds")]
        #[schemars(with = "f64")]
        latency_us: u64,
    },
}

/// What of an HTTP request is a call of gRPC, or gRPC-Web.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcCall {
    /// Service, with its package.
    pub service: String,
    /// Method.
    pub method: String,
    /// Status sent to the client, gRPC's number; absent if none was, or where nobody looks
    /// for it: in the bodies of gRPC-Web.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u32>,
}

impl GrpcCall {
    /// The status by its name; `no status` without one.
    pub fn status_name(&self) -> Cow<'static, str> {
        self.status.map_or("no status".into(), grpc::name)
    }
}

/// The name IANA registers an RCODE under, in capitals; `RCODE n` if there is none.
pub fn rcode_name(code: u8) -> Cow<'static, str> {
    rcode::name(code)
}

/// What it means, in the registry's words, which are Hubble's too.
pub fn rcode_description(code: u8) -> Cow<'static, str> {
    rcode::description(code)
}
