//! What the proxy counts.

use std::collections::BTreeMap;
use tidegate_policy::compiled::{Generation, RuleId};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{durations::Durations, units};

/// Counters and gauges of the proxy, cumulative since its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyStats {
    /// Process id.
    pub pid: u32,
    /// Generation in use.
    pub generation: Generation,
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
    /// From request to answer, as filters of byte streams tell of them.
    #[serde(default)]
    pub stream: Durations,
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
    pub rules: Vec<RuleId>,
    /// Id of the configuration wanted.
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
