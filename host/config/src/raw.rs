//! The file as serde sees it: every key optional, every value with its place.

use std::{borrow::Cow, net::IpAddr, path::PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;

use super::{ConfigError, LogFormat, PolicyMode, RejectResponseCode, error, unknown};

/// The configuration file of a node.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(title = "tidegate.yaml")]
pub(super) struct RawConfig {
    /// This node: its name, and where the agent keeps things.
    pub(super) node: RawNode,
    /// Watched folders. Relative paths are taken from this file's folder.
    pub(super) folders: RawFolders,
    /// How policies are enforced.
    pub(super) policy: RawPolicy,
    /// Names learned from DNS answers.
    pub(super) fqdn: RawFqdn,
    /// Sizes of the kernel tables. Changing one takes `tidegate cleanup` first.
    pub(super) limits: RawLimits,
    /// Prometheus endpoint.
    pub(super) metrics: RawMetrics,
    /// The agent's own log.
    pub(super) log: RawLog,
    /// The proxy process.
    pub(super) proxy: RawProxy,
    /// Which plugin files are taken.
    pub(super) plugins: RawPlugins,
}

/// This node.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RawNode {
    /// Name of the node; default: the host name.
    pub(super) name: Option<Located<String>>,
    /// cgroup v2 directory below which host services live; their sockets get load
    /// balancing and policy at `connect`. Default: the cgroup v2 mount. `none`
    /// leaves sockets alone.
    pub(super) cgroup: Option<Located<String>>,
    /// Directory for pinned kernel objects; a bpffs is mounted there if none is.
    pub(super) bpffs: Option<Located<PathBuf>>,
    /// What must survive a restart: numbering of identities and rules, last good files.
    pub(super) state_dir: Option<Located<PathBuf>>,
    /// Sockets of the running agent and proxy.
    pub(super) run_dir: Option<Located<PathBuf>>,
    /// Devices that lead outside: deny list and policy for what enters there.
    pub(super) outside_devices: Option<Vec<Located<String>>>,
    /// Addresses of the node itself (identity `host`): `auto` reads the interfaces.
    pub(super) addresses: Option<Located<RawAddresses>>,
}

/// `auto`, or a list of addresses.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected `auto` or a list of IP addresses")]
pub(super) enum RawAddresses {
    /// Exactly these.
    List(Vec<IpAddr>),
    /// A keyword; only `auto` is one.
    Keyword(String),
}

/// Watched folders.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RawFolders {
    /// Policies, plugin bindings, deny lists. Default: `policies`.
    pub(super) policies: Option<Located<PathBuf>>,
    /// Services. Default: `services`.
    pub(super) services: Option<Located<PathBuf>>,
    /// Endpoints. Default: `endpoints`.
    pub(super) endpoints: Option<Located<PathBuf>>,
    /// WASM plugins. Default: `plugins`.
    pub(super) plugins: Option<Located<PathBuf>>,
    /// Certificates and keys that policies name: `NAMESPACE/NAME/` with `tls.crt`,
    /// `tls.key` and `ca.crt` in it, as far as they are needed. Default: `secrets`.
    pub(super) secrets: Option<Located<PathBuf>>,
    /// A folder of whoever made this node's image, with `policies`, `services` and
    /// `endpoints` in it, each if there is any; read, never written. `none` removes what
    /// it said. Default: there is none, and what one said before stays.
    pub(super) vendor: Option<Located<PathBuf>>,
}

/// How policies are enforced.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RawPolicy {
    /// `default`: an endpoint is restricted once a policy selects it. `always`: from
    /// the start. `never`: policies are ignored. `audit`: as `default`, but denied
    /// packets pass and are reported.
    pub(super) mode: Option<PolicyMode>,
    /// The node itself may always reach its endpoints, whatever their policy says.
    pub(super) allow_localhost: Option<bool>,
}

/// Names learned from DNS answers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RawFqdn {
    /// Lower bound of a learned address's life, seconds.
    #[serde(rename = "minTTL")]
    pub(super) min_ttl: Option<Located<u32>>,
    /// How a query for a name that no rule allows is answered.
    pub(super) reject_response_code: Option<RejectResponseCode>,
}

/// Sizes of the kernel tables, in entries.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RawLimits {
    /// Tracked flows.
    pub(super) flows: Option<Located<u32>>,
    /// Datagrams whose later fragments are awaited.
    pub(super) fragments: Option<Located<u32>>,
    /// Policy entries of all endpoints together.
    pub(super) policy_entries: Option<Located<u32>>,
    /// Prefixes with an identity.
    pub(super) ipcache_entries: Option<Located<u32>>,
    /// Endpoints.
    pub(super) endpoints: Option<Located<u32>>,
    /// Service frontends.
    pub(super) services: Option<Located<u32>>,
    /// Backends.
    pub(super) backends: Option<Located<u32>>,
    /// Backend slots of all services together.
    pub(super) service_slots: Option<Located<u32>>,
    /// Addresses learned for FQDN rules.
    pub(super) fqdn_addresses: Option<Located<u32>>,
    /// Prefixes on the deny list.
    pub(super) deny_prefixes: Option<Located<u32>>,
    /// Deny events per second and CPU before the rest is only counted.
    pub(super) deny_events_per_second: Option<Located<u32>>,
    /// Flow records kept in memory for `tidegate observe`.
    pub(super) flow_records: Option<Located<u32>>,
}

/// Prometheus endpoint.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RawMetrics {
    /// Address and port of `/metrics`, or `off`.
    pub(super) listen: Option<Located<String>>,
}

/// The agent's own log.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RawLog {
    /// `text` for people, `json` for programs.
    pub(super) format: Option<LogFormat>,
    /// `error`, `warn`, `info`, `debug` or `trace`; per module as `info,tidegate_proxy=debug`.
    pub(super) level: Option<Located<String>>,
}

/// The proxy process.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RawProxy {
    /// User it runs as: a name or a number, never root.
    pub(super) user: Option<Located<String>>,
    /// Connections served at once by each CPU, if there are descriptors for so many
    /// (`LimitNOFILE`). One client gets three quarters of them at most.
    pub(super) connections_per_cpu: Option<Located<u32>>,
    /// Memory of each CPU for bytes that were read and not passed on yet, MiB. One client
    /// gets three quarters at most of what the others leave.
    #[serde(rename = "memoryPerCpuMiB")]
    pub(super) memory_per_cpu_mib: Option<Located<u32>>,
    /// Longest header list of HTTP/2 either way, bytes as RFC 9113 §6.5.2 counts: announced
    /// to both peers.
    pub(super) http2_header_list_bytes: Option<Located<u32>>,
    /// The proxy is replaced when it, or one of its threads that serve, has shown no sign
    /// of life for so many seconds; six times as many if the thread is not asleep.
    pub(super) hung_after_seconds: Option<Located<u32>>,
    /// Memory of all instances of all dropped-in plugins together, bytes.
    pub(super) plugin_memory_bytes: Option<Located<u32>>,
}

/// Which plugin files are taken.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RawPlugins {
    /// Public keys of minisign, a file each: whose signatures are believed. Its name without
    /// `.pub` is what its owner is called. Relative paths are taken from this file's folder.
    pub(super) trusted_keys: Option<Vec<Located<PathBuf>>>,
    /// Plugins that none of them signed are refused. Default: false.
    pub(super) require_signature: Option<Located<bool>>,
}

/// A value and where it was written.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Located<T>(pub(super) serde_saphyr::Spanned<T>);

impl<T: JsonSchema> JsonSchema for Located<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Parses the text; nothing is checked beyond shape and types.
pub(super) fn parse(file: &str, text: &str) -> Result<RawConfig, ConfigError> {
    // A file of comments (or nothing at all) asks for the defaults.
    if text
        .lines()
        .all(|line| matches!(line.trim().as_bytes(), [] | [b'#', ..]))
    {
        return Ok(RawConfig::default());
    }
    let mut path = None;
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            path = Some(error::field_path(error.path()));
            error.into_inner()
        })
    })
    .map_err(|error| {
        let first = ConfigError::from_yaml(file, text, path.as_deref(), &error);
        if !matches!(
            error.without_snippet(),
            serde_saphyr::Error::SerdeUnknownField { .. }
        ) {
            return first;
        }
        // The reader stops at the first of them.
        match unknown::keys(file, text) {
            all if all.len() > 1 => ConfigError::Invalid(all),
            _ => first,
        }
    })
}
