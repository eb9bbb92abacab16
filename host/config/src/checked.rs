//! What the file means. Values of these types cannot hold nonsense; serialised they
//! are a complete configuration file again (`tidegate config effective`).

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use tidegate_signatures::Trust;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// This node.
    pub node: Node,
    /// Watched folders, absolute.
    pub folders: Folders,
    /// How policies are enforced.
    pub policy: Policy,
    /// Names learned from DNS answers.
    pub fqdn: Fqdn,
    /// Table sizes.
    pub limits: Limits,
    /// Prometheus endpoint.
    pub metrics: Metrics,
    /// The agent's own log.
    pub log: Log,
    /// The proxy process.
    pub proxy: Proxy,
    /// Which plugin files are taken.
    pub plugins: Plugins,
    /// Where the file says so.
    #[serde(skip)]
    pub written: Written,
}

/// Which plugin files are taken.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plugins {
    /// Files with the public keys of those who are believed, absolute.
    pub trusted_keys: Vec<PathBuf>,
    /// Files that none of them signed are refused.
    pub require_signature: bool,
    /// The same, with the keys read.
    #[serde(skip)]
    pub trust: Trust,
}

/// Where a file has its keys. Two files that say the same are the same, wherever they say it.
#[derive(Clone, Debug, Default)]
pub struct Written {
    pub(super) file: String,
    pub(super) places: BTreeMap<String, Place>,
}

/// A place in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: String,
    /// Line, from 1; 0 where only the file is known.
    pub line: u32,
    /// Column, likewise.
    pub column: u32,
}

impl Written {
    /// Where the value of a key is. Where the default counts the file is all there is to name.
    pub fn place(&self, key: &str) -> Place {
        let place = self.places.get(key).cloned();
        place.unwrap_or_else(|| Place {
            file: self.file.clone(),
            ..Place::default()
        })
    }
}

impl PartialEq for Written {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// `FILE:LINE:COLUMN`, as far as it is known.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}:{}", self.file, self.column),
        }
    }
}

/// This node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its name.
    pub name: String,
    /// cgroup v2 directory whose sockets are ours to translate and restrict; `None`: no sockets are.
    #[serde(serialize_with = "or_none")]
    pub cgroup: Option<PathBuf>,
    /// Directory for pinned kernel objects.
    pub bpffs: PathBuf,
    /// What survives restarts.
    pub state_dir: PathBuf,
    /// Sockets of the running processes.
    pub run_dir: PathBuf,
    /// Devices that lead outside.
    pub outside_devices: Vec<String>,
    /// Addresses with identity `host`.
    pub addresses: Addresses,
}

/// A vendor's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Vendor {
    /// The file says nothing of it: what one said before stays.
    #[default]
    Unsaid,
    /// There is none: what one said is removed.
    None,
    /// It is here, absolute.
    At(PathBuf),
}

impl Vendor {
    fn is_unsaid(&self) -> bool {
        *self == Self::Unsaid
    }
}

/// Addresses of the node.
#[derive(Clone, Debug, PartialEq)]
pub enum Addresses {
    /// Whatever the interfaces have, read again with every rescan.
    Auto,
    /// Exactly these.
    List(Vec<IpAddr>),
}

impl Serialize for Addresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::List(list) => list.serialize(serializer),
        }
    }
}

/// Watched folders, absolute.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Folders {
    /// Policies, plugin bindings, deny lists.
    pub policies: PathBuf,
    /// Services.
    pub services: PathBuf,
    /// Endpoints.
    pub endpoints: PathBuf,
    /// WASM plugins.
    pub plugins: PathBuf,
    /// Certificates and keys.
    pub secrets: PathBuf,
    /// What whoever made the node's image brought along.
    #[serde(skip_serializing_if = "Vendor::is_unsaid", serialize_with = "vendor")]
    pub vendor: Vendor,
}

/// How policies are enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// When an endpoint is restricted.
    pub mode: PolicyMode,
    /// The node itself always reaches its endpoints.
    pub allow_localhost: bool,
}

/// When an endpoint is restricted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicyMode {
    /// Once a policy selects it.
    #[default]
    Default,
    /// From the start.
    Always,
    /// Never: policies are ignored.
    Never,
    /// As `default`, but what is denied passes and is reported.
    Audit,
}

/// Names learned from DNS answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fqdn {
    /// Lower bound of a learned address's life, seconds.
    #[serde(rename = "minTTL")]
    pub min_ttl: u32,
    /// How a query for a name that no rule allows is answered.
    pub reject_response_code: RejectResponseCode,
}

/// How a query for a name that no rule allows is answered (RFC 1035 §4.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RejectResponseCode {
    /// REFUSED: some resolvers give up with it, instead of trying the next name of their
    /// search list.
    #[default]
    Refused,
    /// NXDOMAIN: there is no such name.
    NameError,
}

/// Table sizes in entries; each is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Tracked flows.
    pub flows: u32,
    /// Datagrams whose later fragments are awaited.
    pub fragments: u32,
    /// Policy entries of all endpoints together.
    pub policy_entries: u32,
    /// Prefixes with an identity.
    pub ipcache_entries: u32,
    /// Endpoints.
    pub endpoints: u32,
    /// Service frontends.
    pub services: u32,
    /// Backends.
    pub backends: u32,
    /// Backend slots of all services together.
    pub service_slots: u32,
    /// Addresses learned for FQDN rules.
    pub fqdn_addresses: u32,
    /// Prefixes on the deny list.
    pub deny_prefixes: u32,
    /// Deny events per second and CPU.
    pub deny_events_per_second: u32,
    /// Flow records kept in memory.
    pub flow_records: u32,
}

/// Prometheus endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// Where it listens; `None`: nowhere.
    #[serde(serialize_with = "or_off")]
    pub listen: Option<SocketAddr>,
}

/// The agent's own log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Log {
    /// Form of a line.
    pub format: LogFormat,
    /// Filter directive, known to parse.
    pub level: String,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// The proxy process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proxy {
    /// User it runs as.
    pub user: ProxyUser,
    /// Connections served at once by each CPU.
    pub connections_per_cpu: u32,
    /// Memory of each CPU for bytes on their way, MiB.
    #[serde(rename = "memoryPerCpuMiB")]
    pub memory_per_cpu_mib: u32,
    /// Longest header list of HTTP/2 either way, bytes.
    pub http2_header_list_bytes: u32,
    /// Seconds without a sign of life after which it is replaced.
    pub hung_after_seconds: u32,
    /// Memory of all dropped-in plugins together, bytes.
    pub plugin_memory_bytes: u32,
}

/// A user that exists and is not root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyUser {
    /// As written.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Serialize for ProxyUser {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name)
    }
}

fn or_none<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => path.serialize(serializer),
        None => serializer.serialize_str("none"),
    }
}

fn vendor<S: Serializer>(vendor: &Vendor, serializer: S) -> Result<S::Ok, S::Error> {
    match vendor {
        Vendor::At(path) => path.serialize(serializer),
        Vendor::Unsaid | Vendor::None => serializer.serialize_str("none"),
    }
}

fn or_off<S: Serializer>(listen: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
    match listen {
        Some(listen) => listen.serialize(serializer),
        None => serializer.serialize_str("off"),
    }
}
