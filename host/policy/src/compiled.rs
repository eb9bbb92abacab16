//! What the compiler produces: one generation of everything, ready to publish.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    http_options::HttpOptions,
    origin::{At, Origin},
    shared::Map,
    tls::TlsContexts,
};

pub use crate::{
    l7::{
        DnsRules, FailMode, FqdnSelector, HeaderAction, HttpRule, HttpRules, KafkaRole, KafkaRule,
        KafkaRules, L7Protocol, Mismatch,
    },
    terms::{
        Algorithm, BackendState, Direction, EndpointId, Generation, IdentityId, L7Id, Location,
        RuleId, ServiceId,
    },
};

/// One generation: everything that kernel, proxy and `explain` need. What is the same in
/// successive generations is shared by them: a copy costs nothing, and what is different
/// between two is found at the price of the difference ([`crate::shared`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// Label sets by identity, reserved ones included. Labels as `source:key=value`, sorted.
    pub identities: Map<IdentityId, Arc<[String]>>,
    /// Longest-prefix-match table from address to identity.
    pub ipcache: Map<IpNet, AddrIdentity>,
    /// Endpoints with the policy that applies to them.
    pub endpoints: Map<EndpointId, Arc<CompiledEndpoint>>,
    /// Rule texts for every id that appears in a table.
    pub rules: Map<RuleId, Arc<RuleInfo>>,
    /// L7 rule sets for every id that appears in a table.
    pub l7: Map<L7Id, Arc<L7RuleSet>>,
    /// FQDN selectors, which the proxy matches against every answer it relays.
    pub fqdn: Map<IdentityId, FqdnSelector>,
    /// Those of them that only documents in shadow ask for.
    pub fqdn_in_shadow: BTreeSet<IdentityId>,
    /// Egress rows about the world outside, of every endpoint for which an address that
    /// a name resolved to may have several rule sets: what the proxy unites them by.
    pub outward: Map<EndpointId, Arc<[PolicyRow]>>,
    /// Prefixes refused on outside devices, with the rule that says so.
    pub deny_list: Map<IpNet, RuleId>,
    /// Service frontends with their usable backends.
    pub services: Map<Frontend, Arc<CompiledService>>,
}

/// Tells one frontend from another, and in which order they are listed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// `namespace/name` of the service.
    pub service: Arc<str>,
    /// Which of its frontends it is, as the service lists ports and addresses.
    pub nth: u32,
}

/// Identity of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddrIdentity {
    /// Security identity.
    pub identity: IdentityId,
    /// Local endpoint that owns the address, if one does.
    pub endpoint: Option<EndpointId>,
}

/// An endpoint and its policy table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledEndpoint {
    /// `namespace/name`.
    pub name: String,
    /// Security identity of its labels.
    pub identity: IdentityId,
    /// Where it lives.
    pub location: Location,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// First-byte hints and fast lane.
    pub fast_lane: bool,
    /// Is ingress / egress in default deny (for `endpoint list`).
    pub default_deny: DefaultDeny,
    /// Complete rows, see `tidegate-ebpf-shared::policy`.
    pub table: Arc<[PolicyRow]>,
}

/// Which directions a policy has switched to default deny.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DefaultDeny {
    /// Towards the endpoint.
    pub ingress: bool,
    /// From the endpoint.
    pub egress: bool,
}

/// One entry of a policy table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyRow {
    /// Peer identity; 0 is the wildcard row.
    pub identity: IdentityId,
    /// Direction seen from the endpoint.
    pub direction: Direction,
    /// What of protocol and port the entry covers.
    pub ports: PortMatch,
    /// What is decided.
    pub decision: Decision,
}

/// Protocols and ports covered by an entry; the most specific one decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PortMatch {
    /// The catch-all entry every row has.
    Any,
    /// All ports (or ICMP types) of one IANA protocol.
    Protocol(u8),
    /// Ports whose leading `bits` (1–16) equal those of `port`. For ICMP the port
    /// is `type << 8` and `bits` is 8.
    Ports {
        /// IANA protocol.
        protocol: u8,
        /// First port of the block.
        port: u16,
        /// Significant leading bits, 1–16.
        bits: u8,
    },
}

/// What an entry decides, and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// Rule that decided; for a default deny the rule that switched the endpoint to it.
    pub rule: RuleId,
    /// L7 rule set if the verdict is redirect, else 0.
    pub l7: L7Id,
    /// What would be decided if the documents in shadow were enforced, where that is
    /// something else.
    #[serde(default)]
    pub shadow: Option<Rehearsed>,
}

impl Decision {
    /// What would be decided if everything were enforced.
    pub fn rehearsed(&self) -> Rehearsed {
        self.shadow.unwrap_or(Rehearsed {
            verdict: self.verdict,
            rule: self.rule,
            l7: self.l7,
        })
    }
}

/// What would be decided if the documents in shadow were enforced, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rehearsed {
    /// The verdict.
    pub verdict: Verdict,
    /// Rule that would decide.
    pub rule: RuleId,
    /// L7 rule set if the verdict is redirect, else 0.
    pub l7: L7Id,
}

/// A policy verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// No rule allows it.
    DefaultDeny,
    /// Allowed, stays in the kernel.
    Allow,
    /// Allowed if the L7 rules agree.
    Redirect,
    /// A deny rule matched.
    Deny,
}

/// Where a rule was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleInfo {
    /// `CiliumNetworkPolicy`, `PluginBinding`, …
    pub kind: String,
    /// Namespace of the policy, if it has one.
    pub namespace: Option<String>,
    /// Name of the policy.
    pub policy: String,
    /// Path of the rule inside the document, e.g. `ingress[0].toPorts[1]`; empty for
    /// "the policy as a whole" (default deny).
    pub path: String,
    /// What it came from.
    #[serde(rename = "file")]
    pub origin: Origin,
    /// Line of the rule, from 1.
    pub line: u32,
    /// Column of the rule, from 1.
    pub column: u32,
}

impl RuleInfo {
    /// The document it stands in, `namespace/name`.
    pub fn document(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.policy),
            None => self.policy.clone(),
        }
    }

    /// Where it stands, with its path from the document's root.
    pub fn at(&self) -> At {
        let path = match self.path.as_str() {
            whole if whole.is_empty() || whole.starts_with("specs[") => whole.to_owned(),
            below => format!("spec.{below}"),
        };
        At {
            path,
            line: self.line,
            column: self.column,
        }
    }

    /// Short form for tables: `namespace/policy ingress[0].toPorts[1]`.
    pub fn short(&self) -> String {
        let name = self.document();
        if self.path.is_empty() {
            name
        } else {
            format!("{name} {}", self.path)
        }
    }
}

/// What the proxy does with a flow: the plugins its requests pass, in order. All
/// of them must agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct L7RuleSet {
    /// How the proxy reads the stream.
    pub protocol: L7Protocol,
    /// Plugins, in order; empty means "read and record, allow everything", and of a byte
    /// stream "pass unread".
    pub chain: Vec<PluginUse>,
    /// How HTTP is carried, as far as documents say.
    #[serde(default, skip_serializing_if = "HttpOptions::is_nothing")]
    pub http: HttpOptions,
    /// What a client's hello must ask for before anything passes. Without it nothing is
    /// said of TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsNames>,
    /// TLS that ends and begins at the proxy: what is read is inside of it.
    #[serde(default, skip_serializing_if = "TlsContexts::is_nothing")]
    pub contexts: TlsContexts,
    /// What would become of the same traffic if the documents in shadow were enforced,
    /// where that is something else. Part of the content: the kernel names one rule set
    /// per direction, and that leads to both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Rehearsed>,
}

/// What rule sets use of plugins, set by set in the order of their ids.
pub fn plugin_uses(sets: &Map<L7Id, Arc<L7RuleSet>>) -> impl Iterator<Item = &PluginUse> {
    sets.values().flat_map(|set| &set.chain)
}

impl L7RuleSet {
    /// Does some rule of the built-in HTTP matcher plainly allow CONNECT: `method` being
    /// that word and nothing else, with a `host`? What then passes through the tunnel is
    /// not looked at, so nothing less is enough, nor is what another plugin lets pass.
    pub fn allows_connect(&self) -> bool {
        let of_policy = self.chain.iter().filter(|used| used.plugin == "http");
        let rules = of_policy.filter_map(|used| serde_json::from_str(&used.config).ok());
        rules
            .flat_map(|HttpRules { rules }| rules)
            .any(|rule| rule.allows_connect())
    }
}

/// Names of servers that a client may ask for in TLS, before it encrypts; asking for none of
/// them, for nothing, or speaking something else is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsNames {
    /// The names, ORed.
    pub names: Vec<FqdnSelector>,
    /// The rule of each.
    pub rules: Vec<RuleId>,
    /// Who speaks HTTP in the clear may ask for them, too: as the host of requests.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_clear: bool,
}

/// One plugin in a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginUse {
    /// Plugin name; `http`, `dns` and `kafka` are built in.
    pub plugin: String,
    /// Configuration handed to the plugin's `configure`, JSON text. For the built-in
    /// matchers: [`HttpRules`] / [`DnsRules`] / [`KafkaRules`].
    pub config: String,
    /// What happens when the plugin is missing, traps or exceeds a limit.
    pub fail_mode: FailMode,
    /// Rule ids the plugin's rule indices refer to: index i of a decision is
    /// `rules[i]`. A denial without an index is attributed to `rules[0]`.
    pub rules: Vec<RuleId>,
    /// Put there by a `PluginBinding`: it looks at whatever is allowed, by whichever
    /// rule, and is asked about it even where another row allows without asking.
    #[serde(default)]
    pub bound: bool,
    /// Asked for by documents in shadow alone: what it is asked is without effect, and what
    /// it takes must be, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_shadow: bool,
}

/// A frontend and its backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompiledService {
    /// Name of the frontend port, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_name: Option<String>,
    /// `namespace/name`, and the port name if the service has several.
    pub name: String,
    /// Stable id.
    pub id: ServiceId,
    /// Frontend address.
    #[serde(rename = "address")]
    pub addr: IpAddr,
    /// Frontend port.
    pub port: u16,
    /// IANA protocol, by its name outside.
    #[serde(with = "crate::protocol::by_name")]
    #[schemars(with = "String")]
    pub protocol: u8,
    /// How a backend is chosen.
    pub algorithm: Algorithm,
    /// All backends, with their state.
    pub backends: Vec<CompiledBackend>,
}

/// A backend of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct CompiledBackend {
    /// Address.
    #[serde(rename = "address")]
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
    /// Relative share of new connections; 0 means none.
    pub weight: u32,
    /// State.
    pub state: BackendState,
    /// The workload of this node it is, which has to be there to be chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<EndpointId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_is_allowed_by_nothing_but_a_rule_about_it() {
        let set = |plugin: &str, method: Option<&str>, host: Option<&str>| {
            let rule = HttpRule {
                method: method.map(str::to_owned),
                host: host.map(str::to_owned),
                ..HttpRule::default()
            };
            let rules = HttpRules {
                rules: vec![HttpRule::default(), rule],
            };
            L7RuleSet {
                protocol: L7Protocol::Http,
                http: Default::default(),
                chain: vec![PluginUse {
                    plugin: plugin.to_owned(),
                    config: serde_json::to_string(&rules).unwrap_or_default(),
                    fail_mode: FailMode::Closed,
                    rules: vec![RuleId(1), RuleId(2)],
                    bound: false,
                    in_shadow: false,
                }],
                tls: None,
                contexts: Default::default(),
                shadow: None,
            }
        };
        let web = Some("web:443");
        assert!(set("http", Some("CONNECT"), web).allows_connect());
        for method in [None, Some(".*"), Some("GET|CONNECT"), Some("connect")] {
            assert!(!set("http", method, web).allows_connect(), "{method:?}");
        }
        assert!(!set("http", Some("CONNECT"), None).allows_connect());
        assert!(!set("stranger", Some("CONNECT"), web).allows_connect());
    }
}
