//! What agent and proxy tell each other. One `SOCK_SEQPACKET` Unix socket
//! (`<run>/proxy.sock`, listened on by the proxy, inherited as a descriptor), JSON
//! messages, descriptors attached where stated. One of more than 64 KiB travels in a
//! sealed memfd, as snapshots and compiled code always do.

use std::{collections::BTreeMap, net::SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_policy::compiled::{EndpointId, FqdnSelector, IdentityId, L7Id, L7RuleSet, PolicyRow};

use tidegate_wire::dns::rcode;

use crate::observe::{histogram::Durations, record::L7Summary, units};

/// Agent to proxy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ToProxy {
    /// First message of an agent. Descriptors attached: the maps `FLOWS`, `FQDN`,
    /// `STEERED`, `STEER_BY_TUPLE`, in this order, then the listeners in the order
    /// of `listeners` (only if the proxy has none yet; a proxy that has some
    /// answers with its own in [`ToAgent::Hello`]).
    Hello {
        /// Version of this protocol; [`PROTOCOL_VERSION`].
        protocol: u32,
        /// Listeners attached.
        listeners: Vec<ListenerInfo>,
    },
    /// A new generation. Descriptors attached: a sealed memfd with a [`Snapshot`]
    /// as JSON, then one sealed memfd with compiled code per entry of
    /// `Snapshot::plugins` whose `artifact` is not known to this proxy yet, in order.
    Publish {
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
        generation: u32,
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
        generation: u32,
        /// Plugins whose code cannot be used, or some binding of which refused, so far:
        /// name and reason.
        refused: Vec<(String, String)>,
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
pub const PROTOCOL_VERSION: u32 = 2;

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
    pub egress: (L7Id, u32),
    /// The destination's ingress policy, likewise.
    pub ingress: (L7Id, u32),
    /// The message.
    pub message: Message,
}

/// What would be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Message {
    /// A request head as HTTP/1.1 writes it, with the empty line.
    Http(String),
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
    /// HTTP status or DNS RCODE of the refusal; 0 if it would pass.
    pub code: u16,
    /// Rules that decided, as in [`L7Record::rules`].
    pub rules: Vec<u32>,
    /// Plugin that refused or the last that allowed, as `name@version`.
    pub plugin: Option<String>,
    /// Why it was refused, or passed, if that was no policy decision.
    pub error: Option<String>,
    /// Direction of the rule set that refused (false: egress, true: ingress).
    pub ingress: bool,
    /// It would pass in audit mode only; enforced it would be refused.
    pub audited: bool,
    /// Generation that decided.
    pub generation: u32,
}

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerInfo {
    /// `tidegate_ebpf_shared::steer::class`.
    pub class: u32,
    /// CPU whose flows it takes.
    pub cpu: u32,
}

/// Everything the proxy decides with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Generation.
    pub generation: u32,
    /// L7 rule sets.
    pub l7: BTreeMap<L7Id, L7RuleSet>,
    /// Labels by identity.
    pub identities: BTreeMap<IdentityId, Vec<String>>,
    /// FQDN selectors to match answers against, and the identity each one grants.
    pub fqdn: BTreeMap<IdentityId, FqdnSelector>,
    /// Plugins by name.
    pub plugins: BTreeMap<String, PluginInfo>,
    /// Lower bound of a learned address's life, seconds.
    pub fqdn_min_ttl: u32,
    /// How a query for a name that no rule allows is answered.
    #[serde(default)]
    pub reject: Reject,
    /// Denials are only reported.
    #[serde(default)]
    pub audit: bool,
    /// What bindings accepted last, where that is not what `l7` and `plugins` say: a
    /// proxy that has not seen it at work serves them with it until it knows better.
    #[serde(default)]
    pub remembered: Vec<Remembered>,
    /// Egress rows about the world outside, see [`Compiled::outward`].
    ///
    /// [`Compiled::outward`]: tidegate_policy::compiled::Compiled::outward
    #[serde(default)]
    pub outward: BTreeMap<EndpointId, Vec<PolicyRow>>,
}

impl Snapshot {
    /// Digests of the compiled plugins it names. Whoever has this snapshot holds the code
    /// of all of them, in use or not, and of no other.
    pub fn artifacts(&self) -> impl Iterator<Item = &String> {
        let remembered = self.remembered.iter().map(|kept| &kept.info);
        let all = self.plugins.values().chain(remembered);
        all.map(|info| &info.artifact)
    }
}

/// How a query for a name that no rule allows is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reject {
    /// REFUSED.
    #[default]
    Refused,
    /// NXDOMAIN.
    NameError,
}

impl Reject {
    /// Its RCODE.
    pub fn rcode(self) -> u8 {
        match self {
            Self::Refused => rcode::REFUSED,
            Self::NameError => rcode::NXDOMAIN,
        }
    }
}

/// A binding's last good version and configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Plugin.
    pub plugin: String,
    /// The binding's rules, as in `PluginUse::rules`; with the plugin they name it.
    pub rules: Vec<u32>,
    /// Version.
    pub info: PluginInfo,
    /// Configuration.
    pub config: String,
}

/// Names of the plugins inside this program. No file may use them.
pub const BUILT_IN: [&str; 2] = ["dns", "http"];

/// A plugin version in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginInfo {
    /// Version from its manifest.
    pub version: String,
    /// Digest of the component, `sha256:…`.
    pub digest: String,
    /// Digest of the compiled artifact; key for [`ToProxy::Publish`].
    pub artifact: String,
    /// World it targets.
    pub world: World,
    /// Host interfaces it may call: `log`, `metrics`, `clock`, `connection`.
    pub capabilities: Vec<String>,
    /// Limits.
    pub limits: Limits,
}

/// Worlds of `wit/filter@0.1.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum World {
    /// `http-filter`.
    HttpFilter,
    /// `dns-filter`.
    DnsFilter,
}

/// Hard limits of one plugin instance. Never infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Linear memory, bytes.
    pub memory_bytes: u64,
    /// Processor time of one call, milliseconds.
    pub call_ms: u64,
    /// Processor time of `configure`, milliseconds.
    pub configure_ms: u64,
    /// Memory of all its instances together, bytes.
    #[serde(default = "usual_total_memory")]
    pub total_memory_bytes: u64,
    /// Part of each serving thread's time that one binding may use, percent.
    #[serde(default = "usual_share")]
    pub share_percent: u8,
    /// Messages an instance decides before another takes its place: 1 has none of them
    /// leave anything in memory that a later one could read.
    #[serde(default = "usual_calls")]
    pub calls_per_instance: u32,
}

/// Of each limit that files of an older version lack.
const fn usual_total_memory() -> u64 {
    256 << 20
}

const fn usual_share() -> u8 {
    50
}

/// So that a slow leak stays harmless.
const fn usual_calls() -> u32 {
    100_000
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 16 << 20,
            call_ms: 10,
            configure_ms: 1_000,
            total_memory_bytes: usual_total_memory(),
            share_percent: usual_share(),
            calls_per_instance: usual_calls(),
        }
    }
}

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
    pub endpoints: (u32, u32),
    /// Was it allowed.
    pub allowed: bool,
    /// It was refused, and passed because denials are only reported.
    #[serde(default)]
    pub audited: bool,
    /// Rules that decided: L7 rules where one matched, else those that asked for L7.
    pub rules: Vec<u32>,
    /// Plugin that refused or the last that allowed, as `name@version`.
    pub plugin: Option<String>,
    /// Why it failed if it was not a policy decision, e.g. `plugin trapped`.
    pub error: Option<String>,
    /// Direction of the rule set that refused (false: egress, true: ingress).
    pub ingress: bool,
    /// Generation that decided.
    pub generation: u32,
    /// What was asked and answered.
    pub l7: L7Summary,
}

/// Counters and gauges of the proxy, cumulative since its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyStats {
    /// Process id.
    pub pid: u32,
    /// Generation in use.
    pub generation: u32,
    /// Open client connections.
    pub connections: u64,
    /// Client connections accepted.
    pub accepted: u64,
    /// Most client connections at once, of all CPUs together.
    pub connection_limit: u64,
    /// Connections ended because somebody else needed their place.
    pub evicted: u64,
    /// Connections reset at once because there was no place for them.
    pub turned_away: u64,
    /// Requests and queries by outcome: allowed, denied, failed.
    pub allowed: u64,
    /// Refused by a rule.
    pub denied: u64,
    /// Failed for another reason (upstream unreachable, malformed, plugin failure).
    pub failed: u64,
    /// L7 records lost because the agent did not read them.
    pub records_lost: u64,
    /// Names refused in the `FQDN` table because it was full.
    pub fqdn_overflow: u64,
    /// Turns of the workers; empty of a proxy that does not count them.
    pub workers: Vec<WorkerTurns>,
    /// From request head to response head.
    pub http: Durations,
    /// From query to answer.
    pub dns: Durations,
    /// Per plugin.
    pub plugins: BTreeMap<String, PluginStats>,
    /// Per binding.
    #[serde(default)]
    pub bindings: Vec<BindingStats>,
}

/// How often a worker has come round to what it does again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerTurns {
    /// Its CPU.
    pub cpu: u32,
    /// Its thread id.
    pub thread: u32,
    /// Turns since it began, about two a second.
    pub turns: u64,
}

/// How one binding is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BindingStats {
    /// Plugin.
    pub plugin: String,
    /// The binding's rules.
    pub rules: Vec<u32>,
    /// [`config_id`] of the configuration wanted.
    pub config: String,
    /// Version that answers; empty if none does.
    pub version: String,
    /// Digest of the version that answers.
    pub digest: String,
    /// How it stands with what is wanted.
    pub state: BindingState,
    /// Why what is wanted is not in use.
    pub reason: Option<String>,
    /// Messages put to the plugin.
    pub calls: u64,
    /// Those it had no answer to.
    pub failures: u64,
    /// Messages refused without asking it: a peer's budget or the share was used up.
    pub held_back: u64,
    /// Peers held back now.
    pub peers_held_back: u64,
}

/// How it stands with what a binding asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BindingState {
    /// In use.
    Active,
    /// Being tried; what was in use before goes on, if anything was.
    #[default]
    Preparing,
    /// Refused; what was accepted last goes on.
    LastGood,
    /// Refused, and nothing was ever accepted: the fail mode decides.
    Refused,
}

/// Tells one configuration from another in statistics.
pub fn config_id(config: &str) -> String {
    use sha2::{Digest as _, Sha256};
    let digest = Sha256::digest(config);
    digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Counters of one plugin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PluginStats {
    /// Version in use.
    pub version: String,
    /// Digest in use.
    pub digest: String,
    /// Calls made.
    pub calls: u64,
    /// Calls that trapped.
    pub traps: u64,
    /// Calls cut off by the deadline.
    pub deadlines: u64,
    /// Calls that ran out of memory.
    pub out_of_memory: u64,
    /// How long its calls took.
    pub durations: Durations,
    /// Live instances.
    pub instances: u64,
    /// Longest time until a suspended peer's messages are tried again; milliseconds inside,
    /// seconds outside.
    #[serde(rename = "suspendedSeconds", with = "units::of_milliseconds")]
    #[schemars(with = "f64")]
    pub suspended_ms: u64,
    /// Memory of all its instances, bytes.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Limit of that.
    #[serde(default)]
    pub memory_limit_bytes: u64,
    /// Times that limit was reached.
    #[serde(default)]
    pub memory_refused: u64,
    /// Counters the plugin keeps through the `metrics` interface.
    pub counters: BTreeMap<String, u64>,
}
