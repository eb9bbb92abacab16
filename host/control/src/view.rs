//! What readers (API, CLI, metrics) see of the agent: an immutable snapshot,
//! replaced as a whole whenever something changes.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use tidegate_contract::Note;
use tidegate_contract::{
    ProxyStats,
    units::{self, Volume},
};
use tidegate_observe::directory::Directory;
use tidegate_policy::{
    Enforcement,
    compiled::{
        Algorithm, BackendState, Compiled, DefaultDeny, EndpointId, Generation, IdentityId,
        Location, ServiceId,
    },
    shared::Map,
};

use super::standing::{
    AttachmentState, BindingState, EndpointState, PluginState, PolicyState, ProxyState,
};

/// The agent at one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct View {
    /// Version of this build.
    pub version: String,
    /// Node name.
    pub node: String,
    /// Wall clock when this agent started; seconds since 1970 inside, RFC 3339 outside.
    #[serde(rename = "started", with = "units::rfc3339::seconds")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started_s: u64,
    /// Generation the kernel decides with.
    pub generation: Generation,
    /// Generation the proxy decides with.
    pub proxy_generation: Generation,
    /// How policies are enforced: `default`, `always`, `never` or `audit`.
    #[serde(default)]
    pub policy_mode: String,
    /// Endpoints of this node.
    #[serde(with = "shared")]
    #[schemars(with = "Vec<EndpointView>")]
    pub endpoints: Arc<Vec<EndpointView>>,
    /// Identities with their labels.
    #[schemars(with = "BTreeMap<IdentityId, Vec<String>>")]
    pub identities: Map<IdentityId, Arc<[String]>>,
    /// Services, a row for each frontend.
    #[serde(with = "shared")]
    #[schemars(with = "Vec<ServiceView>")]
    pub services: Arc<Vec<Arc<ServiceView>>>,
    /// Policies in use.
    #[serde(with = "shared")]
    #[schemars(with = "Vec<PolicyView>")]
    pub policies: Arc<Vec<PolicyView>>,
    /// Plugins, built-in and dropped in.
    pub plugins: Vec<PluginView>,
    /// Where plugins are used, and how that goes.
    pub bindings: Vec<BindingView>,
    /// Everything wrong with what was written, newest state.
    pub problems: Vec<ProblemView>,
    /// Why `/readyz` says 503; empty when the node does what was written.
    pub not_ready: Vec<String>,
    /// The kernel side.
    pub datapath: DatapathView,
    /// The proxy process.
    pub proxy: ProxyView,
    /// Names for numbers; not serialised.
    #[serde(skip)]
    pub directory: Arc<Directory>,
    /// The generation in force, for `explain`; not serialised.
    #[serde(skip)]
    pub compiled: Arc<Compiled>,
}

/// What successive views share, written as if each had its own.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        shared: &Arc<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        T::serialize(shared, to)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(from).map(Arc::new)
    }
}

/// An endpoint of this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    /// Endpoint id.
    pub id: EndpointId,
    /// `namespace/name`.
    pub name: String,
    /// Security identity.
    pub identity: IdentityId,
    /// Labels of the identity.
    pub labels: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Its ports by name.
    pub ports: Vec<PortView>,
    /// Where it lives.
    pub location: Location,
    /// Directions in default deny.
    pub default_deny: DefaultDeny,
    /// `ready`, or why not (e.g. `waiting for interface tg-web`).
    pub state: EndpointState,
    /// Entries of its policy table.
    pub policy_entries: usize,
}

/// A port with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortView {
    /// Name, lower case.
    pub name: String,
    /// Number.
    pub port: u16,
    /// IANA protocol, by its name outside.
    #[serde(with = "tidegate_policy::protocol::by_name")]
    #[schemars(with = "String")]
    pub protocol: u8,
}

/// A frontend of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// `namespace/name`, and the port name if the service has several.
    pub name: String,
    /// Name of the frontend port, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_name: Option<String>,
    /// Stable id.
    pub id: ServiceId,
    /// Frontend address.
    #[serde(rename = "address")]
    pub addr: IpAddr,
    /// Frontend port.
    pub port: u16,
    /// IANA protocol, by its name outside.
    #[serde(with = "tidegate_policy::protocol::by_name")]
    #[schemars(with = "String")]
    pub protocol: u8,
    /// How a backend is chosen.
    pub algorithm: Algorithm,
    /// All backends, usable or not.
    pub backends: Vec<BackendView>,
}

/// A backend of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendView {
    /// Address.
    #[serde(rename = "address")]
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
    /// Relative share of new connections; 0 means none.
    pub weight: u32,
    /// State, as declared.
    pub state: BackendState,
    /// Id of the workload of this node it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<EndpointId>,
    /// Why no new connection is sent there, if none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unusable: Option<String>,
}

/// A policy document in use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyView {
    /// Kind, e.g. `CiliumNetworkPolicy`.
    pub kind: String,
    /// Namespace, if it has one.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// File, relative to the configuration folder.
    pub file: String,
    /// Endpoints it selects, `namespace/name`.
    pub selects: Vec<String>,
    /// Rules it contributes.
    pub rules: usize,
    /// Is it in force, or in shadow: only told of beside what is decided.
    #[serde(default)]
    pub enforcement: Enforcement,
    /// `active`, or `last good` when the file on disk is broken.
    pub state: PolicyState,
}

/// A plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginView {
    /// Name.
    pub name: String,
    /// Version in use, empty if none is.
    pub version: String,
    /// World, e.g. `http-filter`.
    pub world: String,
    /// Digest in use, `sha256:…`.
    pub digest: String,
    /// `built-in` or the file.
    pub source: String,
    /// Who signed it, if somebody did whom the node believes: name of a key of
    /// `plugins.trustedKeys`.
    pub signed_by: Option<String>,
    /// `active`, `idle` (no rule uses it), `compiling`, `refused`, `removed`.
    pub state: PluginState,
    /// Why the newest version is not in use, if it is not.
    pub reason: Option<String>,
    /// Capabilities granted.
    pub capabilities: Vec<String>,
}

/// A plugin as some rules use it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BindingView {
    /// Kind and name of what binds it, e.g. `PluginBinding shop/bots`.
    pub binding: String,
    /// File, relative to the configuration folder.
    pub file: String,
    /// Plugin.
    pub plugin: String,
    /// Version that answers; empty if none does.
    pub version: String,
    /// `active`, `preparing` (what was in use before goes on), `last good` (what is
    /// wanted was refused; what was accepted last goes on), `refused` (fail mode).
    pub state: BindingState,
    /// Why what is wanted is not in use.
    pub reason: Option<String>,
    /// Messages put to the plugin.
    pub calls: u64,
    /// Those it had no answer to.
    pub failures: u64,
    /// Messages refused because a peer's budget or the binding's share was used up.
    pub held_back: u64,
    /// Peers whose messages are refused for that now.
    pub peers_held_back: u64,
}

/// Something wrong with what was written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProblemView {
    /// File, relative to the configuration folder.
    pub file: String,
    /// `error` or `warning`.
    pub severity: String,
    /// Line and column, 0 if unknown.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// One readable line: field, value, what would be right.
    pub message: String,
    /// Is the last good version of the file in use meanwhile.
    pub last_good: bool,
    /// Does it keep `/readyz` at 503: what should be in force cannot be told.
    pub unready: bool,
    /// Wall clock when it was first seen; seconds since 1970 inside, RFC 3339 outside. Absent
    /// where nobody has watched.
    #[serde(
        rename = "since",
        with = "units::rfc3339::seconds",
        skip_serializing_if = "is_never"
    )]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub since_s: u64,
}

fn is_never(seconds: &u64) -> bool {
    *seconds == 0
}

/// The kernel side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DatapathView {
    /// Programs and where they are attached.
    pub attachments: Vec<AttachmentView>,
    /// Tables with fill level and limit.
    pub tables: Vec<TableView>,
    /// Counters by name (`forwarded`, `redirected`, …): packets and bytes.
    pub counters: BTreeMap<String, Volume>,
    /// Drops by reason phrase: packets and bytes.
    pub drops: BTreeMap<String, Volume>,
    /// Hits per deny-list prefix: packets and bytes.
    pub deny_list: BTreeMap<String, Volume>,
    /// What needs the operator's eye (sysctls, XDP fallback, foreign rules), and whom it
    /// concerns.
    pub notes: Vec<Note>,
    /// Programs that should run somewhere and do not, and why.
    pub missing: Vec<String>,
    /// Programs that somebody else had detached and that were attached again.
    pub reattached: u64,
}

/// A program on a hook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentView {
    /// Program.
    pub program: String,
    /// Device, cgroup or namespace.
    pub target: String,
    /// e.g. `tcx ingress`, `xdp native`, `xdp generic`.
    pub mode: String,
    /// `attached`, with why it is not native where it is not.
    pub state: AttachmentState,
}

/// A kernel table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TableView {
    /// Map name.
    pub name: String,
    /// Entries in use.
    pub entries: u64,
    /// Most it holds.
    pub limit: u64,
}

/// The proxy process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyView {
    /// Process id, 0 if it is not running.
    pub pid: u32,
    /// `serving`, `starting`, `hanging` with what is silent, `gone` with the reason.
    pub state: ProxyState,
    /// Starts since this agent began, the first included.
    pub starts: u64,
    /// Times it was ended and replaced because it hung, since this agent began.
    pub hung: u64,
    /// It runs another binary than the agent: it was started before an upgrade.
    pub other_binary: bool,
    /// Its own counters.
    pub stats: ProxyStats,
}

impl View {
    /// Services, a row for each frontend.
    pub fn services(&self) -> impl Iterator<Item = &ServiceView> + Clone {
        self.services.iter().map(|row| &**row)
    }

    /// Why this node is not ready: what is in force is not what was written, or cannot be
    /// told. Empty if it is ready. A file that others can do without is no reason.
    pub fn obstacles(&self) -> Vec<String> {
        let problems = self.problems.iter().filter(|problem| problem.unready);
        let problems = problems.map(|problem| match problem.file.as_str() {
            "" => problem.message.clone(),
            file => format!("{file}: {}", problem.message),
        });
        let mut obstacles = self.other_obstacles();
        obstacles.extend(problems);
        obstacles
    }

    /// Those that are not among [`View::problems`].
    pub fn other_obstacles(&self) -> Vec<String> {
        let mut obstacles = Vec::new();
        if self.generation.is_none() {
            obstacles.push("no generation is in force yet".to_owned());
        }
        if self.proxy.state != ProxyState::Serving {
            obstacles.push(format!("the proxy is not serving: {}", self.proxy.state));
        }
        obstacles.extend(self.datapath.missing.iter().cloned());
        // Files of others may be tried for long, and are nobody's condition.
        let awaited = |plugin: &&PluginView| {
            plugin.source == "built-in" && plugin.state == PluginState::Compiling
        };
        obstacles.extend(self.plugins.iter().filter(awaited).map(|plugin| {
            let reason = plugin.reason.as_deref().unwrap_or_default();
            format!("the plugin {} is being {reason}", plugin.name)
        }));
        obstacles
    }
}
