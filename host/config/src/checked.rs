//! What the file means. Values of these types cannot hold nonsense; serialised they
//! are a complete configuration file again (`tidegate config effective`).

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use serde_saphyr::Location;
use tidegate_ebpf_shared::limits;

use super::{
    Complaint, ConfigError, defaults,
    raw::{Located, RawAddresses, RawConfig, RawFolders, RawLimits, RawNode, RawProxy},
};

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

/// Gives a raw configuration its meaning. `file` names it in errors; relative paths
/// start at `folder`.
///
/// # Errors
///
/// All that is wrong with it.
pub(super) fn check(file: &str, raw: RawConfig, folder: &Path) -> Result<Config, ConfigError> {
    let checker = Checker {
        file,
        folder,
        complaints: RefCell::default(),
    };
    let config = checker.config(raw);
    match checker.complaints.into_inner() {
        none if none.is_empty() => Ok(config),
        complaints => Err(ConfigError::Invalid(complaints)),
    }
}

/// Reads on after a refusal, with the default in its place: one look finds everything.
struct Checker<'a> {
    file: &'a str,
    folder: &'a Path,
    complaints: RefCell<Vec<Complaint>>,
}

impl Checker<'_> {
    fn config(&self, raw: RawConfig) -> Config {
        Config {
            node: self.node(raw.node),
            folders: self.folders(raw.folders),
            policy: Policy {
                mode: raw.policy.mode.unwrap_or_default(),
                allow_localhost: raw.policy.allow_localhost.unwrap_or(false),
            },
            fqdn: Fqdn {
                min_ttl: self.number(raw.fqdn.min_ttl, "fqdn.minTTL", 0, 0..=604_800),
                reject_response_code: raw.fqdn.reject_response_code.unwrap_or_default(),
            },
            limits: self.limits(raw.limits),
            metrics: Metrics {
                listen: self.listen(raw.metrics.listen),
            },
            log: Log {
                format: raw.log.format.unwrap_or_default(),
                level: self.log_level(raw.log.level),
            },
            proxy: self.proxy(raw.proxy),
        }
    }

    fn node(&self, raw: RawNode) -> Node {
        Node {
            name: match raw.name {
                None => host_name(),
                Some(name) => self.word(name, "node.name"),
            },
            cgroup: self.cgroup(raw.cgroup),
            bpffs: self.path(raw.bpffs, defaults::BPFFS),
            state_dir: self.path(raw.state_dir, defaults::STATE_DIR),
            run_dir: self.path(raw.run_dir, defaults::RUN_DIR),
            outside_devices: raw
                .outside_devices
                .unwrap_or_default()
                .into_iter()
                .enumerate()
                .map(|(i, device)| self.device(device, &format!("node.outsideDevices[{i}]")))
                .collect(),
            addresses: self.addresses(raw.addresses),
        }
    }

    fn folders(&self, raw: RawFolders) -> Folders {
        let folder = |written: Option<PathBuf>, default: &str| {
            self.folder.join(written.unwrap_or_else(|| default.into()))
        };
        Folders {
            policies: folder(raw.policies, defaults::folder::POLICIES),
            services: folder(raw.services, defaults::folder::SERVICES),
            endpoints: folder(raw.endpoints, defaults::folder::ENDPOINTS),
            plugins: folder(raw.plugins, defaults::folder::PLUGINS),
        }
    }

    fn limits(&self, raw: RawLimits) -> Limits {
        let table = |written, field: &str, default| {
            self.number(written, &format!("limits.{field}"), default, 1..=1 << 24)
        };
        Limits {
            flows: table(raw.flows, "flows", limits::FLOWS),
            fragments: table(raw.fragments, "fragments", limits::FRAGMENTS),
            policy_entries: table(raw.policy_entries, "policyEntries", limits::POLICY_ENTRIES),
            ipcache_entries: table(
                raw.ipcache_entries,
                "ipcacheEntries",
                limits::IPCACHE_ENTRIES,
            ),
            endpoints: table(raw.endpoints, "endpoints", limits::ENDPOINTS),
            services: table(raw.services, "services", limits::SERVICES),
            backends: table(raw.backends, "backends", limits::BACKENDS),
            service_slots: table(raw.service_slots, "serviceSlots", limits::SERVICE_SLOTS),
            fqdn_addresses: table(raw.fqdn_addresses, "fqdnAddresses", limits::FQDN_ADDRESSES),
            deny_prefixes: table(raw.deny_prefixes, "denyPrefixes", limits::DENY_PREFIXES),
            deny_events_per_second: table(
                raw.deny_events_per_second,
                "denyEventsPerSecond",
                limits::DENY_EVENTS_PER_SECOND as u32,
            ),
            flow_records: table(raw.flow_records, "flowRecords", defaults::FLOW_RECORDS),
        }
    }

    fn number(
        &self,
        written: Option<Located<u32>>,
        field: &str,
        default: u32,
        range: std::ops::RangeInclusive<u32>,
    ) -> u32 {
        match written {
            None => default,
            Some(Located(number)) if range.contains(&number.value) => number.value,
            Some(Located(number)) => {
                self.refuse(
                    number.referenced,
                    field,
                    number.value,
                    "out of range:",
                    format!("expected {} to {}", range.start(), range.end()),
                );
                default
            }
        }
    }

    fn listen(&self, written: Option<Located<String>>) -> Option<SocketAddr> {
        let (text, at) = match written {
            None => (defaults::METRICS_LISTEN.to_owned(), Location::UNKNOWN),
            Some(Located(text)) => (text.value, text.referenced),
        };
        if text == "off" {
            return None;
        }
        let parsed = text.parse().ok();
        if parsed.is_none() {
            let hint = "expected address:port such as 127.0.0.1:9965 or [::1]:9965, or `off`";
            self.refuse(
                at,
                "metrics.listen",
                &text,
                "not an address and port:",
                hint,
            );
        }
        parsed
    }

    fn log_level(&self, written: Option<Located<String>>) -> String {
        let Some(Located(level)) = written else {
            return defaults::LOG_LEVEL.to_owned();
        };
        match tracing_subscriber::EnvFilter::try_new(&level.value) {
            // A bare word that is no level is read as a module's name: surely a slip.
            Ok(_) if level.value.contains(['=', ':']) || is_level(&level.value) => {}
            _ => self.refuse(
                level.referenced,
                "log.level",
                &level.value,
                "not a log level:",
                "expected error, warn, info, debug or trace, or a list such as `info,tidegate_control=debug`",
            ),
        }
        level.value
    }

    fn proxy(&self, raw: RawProxy) -> Proxy {
        let (name, at) = match raw.user {
            None => (defaults::PROXY_USER.to_owned(), Location::UNKNOWN),
            Some(Located(user)) => (user.value, user.referenced),
        };
        let connections_per_cpu = self.number(
            raw.connections_per_cpu,
            "proxy.connectionsPerCpu",
            defaults::CONNECTIONS_PER_CPU,
            16..=65_536,
        );
        let memory_per_cpu_mib = self.number(
            raw.memory_per_cpu_mib,
            "proxy.memoryPerCpuMiB",
            defaults::MEMORY_PER_CPU_MIB,
            4..=65_536,
        );
        let hung_after_seconds = self.number(
            raw.hung_after_seconds,
            "proxy.hungAfterSeconds",
            defaults::HUNG_AFTER_SECONDS,
            2..=600,
        );
        let plugin_memory_bytes = self.number(
            raw.plugin_memory_bytes,
            "proxy.pluginMemoryBytes",
            defaults::PLUGIN_MEMORY_BYTES,
            1 << 20..=u32::MAX,
        );
        let refuse = |message, hint: &str| self.refuse(at, "proxy.user", &name, message, hint);
        let user = match name.parse::<u32>() {
            Ok(id) => Some((id, id)),
            Err(_) => nix::unistd::User::from_name(&name)
                .ok()
                .flatten()
                .map(|user| (user.uid.as_raw(), user.gid.as_raw())),
        };
        let (uid, gid) = match user {
            Some((0, _)) => {
                refuse(
                    "the proxy must not run as",
                    "it needs none of root's powers; leave the key out for `nobody`",
                );
                (0, 0)
            }
            Some(ids) => ids,
            None => {
                refuse(
                    "no such user:",
                    "expected a user name of this machine or a number",
                );
                (0, 0)
            }
        };
        Proxy {
            user: ProxyUser {
                name: name.clone(),
                uid,
                gid,
            },
            connections_per_cpu,
            memory_per_cpu_mib,
            hung_after_seconds,
            plugin_memory_bytes,
        }
    }

    fn addresses(&self, written: Option<Located<RawAddresses>>) -> Addresses {
        match written {
            None => Addresses::Auto,
            Some(Located(written)) => match written.value {
                RawAddresses::List(list) => Addresses::List(list),
                RawAddresses::Keyword(word) => {
                    if word != "auto" {
                        self.refuse(
                            written.referenced,
                            "node.addresses",
                            word,
                            "unknown value",
                            "expected `auto` or a list of IP addresses",
                        );
                    }
                    Addresses::Auto
                }
            },
        }
    }

    fn cgroup(&self, written: Option<Located<String>>) -> Option<PathBuf> {
        let Some(Located(written)) = written else {
            return defaults::cgroup_mount().map(PathBuf::from);
        };
        if written.value == "none" {
            return None;
        }
        let path = self.folder.join(&written.value);
        if path.join("cgroup.procs").exists() {
            return Some(path);
        }
        self.refuse(
            written.referenced,
            "node.cgroup",
            &written.value,
            "not a cgroup v2 directory:",
            match defaults::cgroup_mount() {
                Some(mount) => format!("expected one below {mount}, or `none`"),
                None => "no cgroup v2 is mounted here; expected `none`".into(),
            },
        );
        None
    }

    /// An interface name the kernel would accept (at most 15 bytes, no slash or space).
    fn device(&self, written: Located<String>, field: &str) -> String {
        let name = &written.0.value;
        let fits = (1..=15).contains(&name.len())
            && !name.contains(|c: char| c == '/' || c.is_whitespace());
        if fits {
            return self.word(written, field);
        }
        self.refuse(
            written.0.referenced,
            field,
            name,
            "not a device name:",
            "expected 1 to 15 characters such as `eth0`",
        );
        name.clone()
    }

    fn word(&self, written: Located<String>, field: &str) -> String {
        let Located(word) = written;
        if word.value.trim().is_empty() {
            self.refuse(
                word.referenced,
                field,
                &word.value,
                "empty value",
                "expected a name",
            );
        }
        word.value
    }

    fn path(&self, written: Option<Located<PathBuf>>, default: &str) -> PathBuf {
        self.folder
            .join(written.map_or_else(|| default.into(), |path| path.0.value))
    }

    /// Notes what is wrong with a value.
    fn refuse(
        &self,
        at: Location,
        field: &str,
        value: impl std::fmt::Display,
        message: &str,
        hint: impl Into<String>,
    ) {
        let complaint = Complaint::value(self.file, at, field, value, message, hint);
        self.complaints.borrow_mut().push(complaint);
    }
}

fn is_level(text: &str) -> bool {
    text.split(',').all(|part| {
        part.trim()
            .parse::<tracing::level_filters::LevelFilter>()
            .is_ok()
    })
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "node".to_owned())
}

fn or_none<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => path.serialize(serializer),
        None => serializer.serialize_str("none"),
    }
}

fn or_off<S: Serializer>(listen: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
    match listen {
        Some(listen) => listen.serialize(serializer),
        None => serializer.serialize_str("off"),
    }
}
