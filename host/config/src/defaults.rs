//! What holds when nothing is written. Each value works as it is on an ordinary node.

/// Where kernel objects are pinned.
pub(super) const BPFFS: &str = "/sys/fs/bpf/tidegate";
/// What survives a restart of the machine.
pub(super) const STATE_DIR: &str = "/var/lib/tidegate";
/// Sockets.
pub(super) const RUN_DIR: &str = "/run/tidegate";
/// `/metrics`, the port Cilium's operator dashboards already scrape beside 9962.
pub(super) const METRICS_LISTEN: &str = "127.0.0.1:9965";
/// Log level.
pub(super) const LOG_LEVEL: &str = "info";
/// The user of the proxy: owns nothing on an ordinary system.
pub(super) const PROXY_USER: &str = "nobody";
/// Connections of the proxy, per CPU.
pub(super) const CONNECTIONS_PER_CPU: u32 = 8_192;
pub(super) const MEMORY_PER_CPU_MIB: u32 = 64;
pub(super) const HTTP2_HEADER_LIST_BYTES: u32 = 65_536;
pub(super) const HUNG_AFTER_SECONDS: u32 = 10;
/// Flow records kept in memory, about 0.5 KiB each.
pub(super) const FLOW_RECORDS: u32 = 16_384;

/// Folders beside the configuration file.
pub(super) mod folder {
    /// Policies, plugin bindings, deny lists.
    pub(crate) const POLICIES: &str = "policies";
    /// Services.
    pub(crate) const SERVICES: &str = "services";
    /// Endpoints.
    pub(crate) const ENDPOINTS: &str = "endpoints";
    /// WASM plugins.
    pub(crate) const PLUGINS: &str = "plugins";
    /// Certificates and keys.
    pub(crate) const SECRETS: &str = "secrets";
}

/// The cgroup v2 mount of this machine: unified first, then the hybrid layout.
pub(super) fn cgroup_mount() -> Option<&'static str> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .find(|path| {
            std::path::Path::new(path)
                .join("cgroup.controllers")
                .exists()
        })
}

/// Memory of all dropped-in plugins together, bytes.
pub(super) const PLUGIN_MEMORY_BYTES: u32 = 512 << 20;
