//! From what was written to what it means, or to all that is wrong with it.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_saphyr::Location;
use tidegate_ebpf_shared::limits;
use tidegate_signatures::{Trust, TrustedKey};

use super::{
    Complaint, ConfigError, Looked,
    checked::{
        Addresses, Config, Folders, Fqdn, Limits, Log, Metrics, Node, Place, Plugins, Policy,
        Proxy, ProxyUser, Vendor, Written,
    },
    defaults,
    raw::{Located, RawAddresses, RawConfig, RawFolders, RawLimits, RawNode, RawPlugins, RawProxy},
};

/// Gives a raw configuration its meaning. `file` names it in errors; relative paths
/// start at `folder`.
///
/// All that is wrong with it is told together.
pub(super) fn check(file: &str, raw: RawConfig, folder: &Path) -> Looked {
    let checker = Checker {
        file,
        folder,
        complaints: RefCell::default(),
        places: RefCell::default(),
    };
    let mut config = checker.config(raw);
    config.written.places = checker.places.take();
    let error = match checker.complaints.into_inner() {
        none if none.is_empty() => None,
        complaints => Some(ConfigError::Invalid(complaints)),
    };
    Looked {
        config: Some(config),
        error,
    }
}

/// Reads on after a refusal, with the default in its place: one look finds everything.
struct Checker<'a> {
    file: &'a str,
    folder: &'a Path,
    complaints: RefCell<Vec<Complaint>>,
    /// Where what was written stands, of keys that somebody may still have to find wrong.
    places: RefCell<BTreeMap<String, Place>>,
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
            plugins: self.plugins(raw.plugins),
            written: Written {
                file: self.file.to_owned(),
                places: BTreeMap::new(),
            },
        }
    }

    fn plugins(&self, raw: RawPlugins) -> Plugins {
        let written = raw.trusted_keys.unwrap_or_default().into_iter();
        let files: Vec<(Location, PathBuf)> = written
            .map(|Located(path)| (path.referenced, self.folder.join(path.value)))
            .collect();
        let keys = files.iter().enumerate();
        let keys: Vec<TrustedKey> = keys
            .filter_map(|(i, (at, path))| self.key(*at, path, &format!("plugins.trustedKeys[{i}]")))
            .collect();
        let required = raw.require_signature.is_some_and(|Located(required)| {
            if required.value && files.is_empty() {
                self.refuse(
                    required.referenced,
                    "plugins.requireSignature",
                    true,
                    "nobody is believed, so no plugin could be used:",
                    "name a public key: `plugins.trustedKeys: [keys/acme.pub]`",
                );
            }
            required.value
        });
        Plugins {
            trusted_keys: files.into_iter().map(|(_, path)| path).collect(),
            require_signature: required,
            trust: Trust { keys, required },
        }
    }

    fn key(&self, at: Location, path: &Path, field: &str) -> Option<TrustedKey> {
        let refuse = |message: &str, hint: &str| {
            self.refuse(at, field, path.display(), message, hint);
            None
        };
        // A pipe would be waited for.
        if path.metadata().is_ok_and(|meta| !meta.is_file()) {
            return refuse("not a regular file:", "expected a file with a public key");
        }
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return refuse(&format!("cannot be read ({error}):"), "put it there"),
        };
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        match TrustedKey::read(&name, &text) {
            Ok(key) => Some(key),
            Err(why) => refuse(
                &format!("{why}:"),
                "expected the NAME.pub that `tidegate plugin keygen NAME` or `minisign -G` made",
            ),
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
        let folder = |written: Option<Located<PathBuf>>, key: &str, default: &str| {
            let written = written.map(|Located(path)| {
                self.note(&format!("folders.{key}"), path.referenced);
                path.value
            });
            self.folder.join(written.unwrap_or_else(|| default.into()))
        };
        let vendor = raw.vendor.map(|Located(path)| {
            self.note("folders.vendor", path.referenced);
            path.value
        });
        let folders = Folders {
            policies: folder(raw.policies, "policies", defaults::folder::POLICIES),
            services: folder(raw.services, "services", defaults::folder::SERVICES),
            endpoints: folder(raw.endpoints, "endpoints", defaults::folder::ENDPOINTS),
            plugins: folder(raw.plugins, "plugins", defaults::folder::PLUGINS),
            secrets: folder(raw.secrets, "secrets", defaults::folder::SECRETS),
            vendor: match vendor {
                None => Vendor::Unsaid,
                Some(path) if path == Path::new("none") => Vendor::None,
                Some(path) => Vendor::At(self.folder.join(path)),
            },
        };
        self.each_its_own(&folders);
        folders
    }

    /// A document that is read by two names exists twice, and neither could be told from the
    /// other.
    fn each_its_own(&self, folders: &Folders) {
        let own = [
            ("policies", &folders.policies),
            ("services", &folders.services),
            ("endpoints", &folders.endpoints),
        ];
        let mut all: Vec<(String, PathBuf)> = own
            .iter()
            .map(|(key, path)| (format!("folders.{key}"), path.to_path_buf()))
            .collect();
        if let Vendor::At(root) = &folders.vendor {
            let of_vendor = own.iter().map(|(key, _)| root.join(key));
            all.extend(of_vendor.map(|path| ("folders.vendor".to_owned(), path)));
        }
        // Under whatever name, and through whatever links.
        let real = |path: &PathBuf| std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        let mut seen: BTreeMap<PathBuf, String> = BTreeMap::new();
        for (key, path) in all {
            if let Some(first) = seen.insert(real(&path), key.clone()) {
                let at = self.places.borrow().get(&key).cloned().unwrap_or_default();
                let message = format!("the same folder as that of `{first}`:");
                let hint = "give each a folder of its own";
                let complaint = Complaint::at(at, self.file, &key, path.display(), &message, hint);
                self.complaints.borrow_mut().push(complaint);
            }
        }
    }

    fn note(&self, key: &str, at: Location) {
        // No file has so many lines.
        let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let place = Place {
            file: self.file.to_owned(),
            line: number(at.line()),
            column: number(at.column()),
        };
        self.places.borrow_mut().insert(key.to_owned(), place);
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
            Some(Located(number)) if range.contains(&number.value) => {
                self.note(field, number.referenced);
                number.value
            }
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
        let http2_header_list_bytes = self.number(
            raw.http2_header_list_bytes,
            "proxy.http2HeaderListBytes",
            defaults::HTTP2_HEADER_LIST_BYTES,
            4_096..=262_144,
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
            http2_header_list_bytes,
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
