//! Plugins as both processes speak of them: versions, worlds, limits.

use serde::{Deserialize, Serialize};
use tidegate_policy::compiled::L7Protocol;

/// Names of the plugins inside this program. No file may use them.
pub const BUILT_IN: [&str; 3] = ["dns", "http", "kafka"];

/// A plugin version in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginInfo {
    /// Version from its manifest.
    pub version: String,
    /// Digest of the component, `sha256:…`.
    pub digest: String,
    /// Digest of the compiled artifact; key for [`ToProxy::Publish`](crate::ToProxy::Publish).
    pub artifact: String,
    /// World it targets.
    pub world: World,
    /// Host interfaces it may call: `log`, `metrics`, `clock`, `connection`.
    pub capabilities: Vec<String>,
    /// Limits.
    pub limits: Limits,
}

/// Worlds of `wit/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum World {
    /// `http-filter`.
    HttpFilter,
    /// `dns-filter`.
    DnsFilter,
    /// `stream-filter`.
    StreamFilter,
    /// `http-exchange-filter`.
    #[serde(rename = "http-exchange-filter")]
    ExchangeFilter,
    /// None of ours: a module made for Envoy or Istio.
    ProxyWasm,
}

impl World {
    /// Its name in the contract.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HttpFilter => "http-filter",
            Self::DnsFilter => "dns-filter",
            Self::StreamFilter => "stream-filter",
            Self::ExchangeFilter => "http-exchange-filter",
            Self::ProxyWasm => "proxy-wasm",
        }
    }

    /// What a plugin of it reads.
    pub const fn protocol(self) -> L7Protocol {
        match self {
            Self::HttpFilter | Self::ExchangeFilter | Self::ProxyWasm => L7Protocol::Http,
            Self::DnsFilter => L7Protocol::Dns,
            Self::StreamFilter => L7Protocol::Stream,
        }
    }
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
    /// Bytes that are held of a connection, or of a body, for the plugin to see, each way.
    #[serde(default = "usual_stream_buffer")]
    pub stream_buffer_bytes: u64,
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

const fn usual_stream_buffer() -> u64 {
    1 << 20
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
            stream_buffer_bytes: usual_stream_buffer(),
        }
    }
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
