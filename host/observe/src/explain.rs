//! Why a flow is, or would be, allowed or dropped: answered from the tables the
//! kernel reads, told in names.

use std::{fmt, net::IpAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_contract::FailureKind;
use tidegate_policy::{
    compiled::{EndpointId, FqdnSelector, Generation, L7Protocol, L7RuleSet},
    tls::{TlsContext, TlsContexts},
};
pub use tidegate_wire::dns::type_number as qtype;
use tidegate_wire::grpc;

use super::record::{FlowDirection, FlowVerdict, Party};

/// A question about one flow, addresses already known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainQuery {
    /// Initiator.
    pub source: IpAddr,
    /// Endpoint id of the initiator if it is a host service, which its address does
    /// not tell; 0 if it is none, or not known to be one.
    pub host_service: EndpointId,
    /// Where it connects to; may be a service address.
    pub destination: IpAddr,
    /// Destination port; for ICMP the type.
    pub port: u16,
    /// IANA protocol.
    pub protocol: u8,
    /// What would be asked on the connection, if that is the question.
    pub message: Option<L7Question>,
    /// How the names of the question were understood, where that is not plain.
    pub notes: Vec<String>,
}

/// A request or query that might come on a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum L7Question {
    /// An HTTP/1.1 request.
    Http {
        /// Method, case-sensitive.
        method: String,
        /// Path and query, or another form of target (RFC 9112 §3.2).
        target: String,
        /// `Host`; address and port of the destination if absent.
        #[serde(default)]
        host: Option<String>,
        /// Further fields, `name: value`.
        #[serde(default)]
        headers: Vec<String>,
    },
    /// A client's first word in TLS.
    Tls {
        /// Server it asks for; empty for none.
        #[serde(default)]
        server_name: String,
    },
    /// A DNS query.
    Dns {
        /// Name asked for.
        name: String,
        /// Type, e.g. `AAAA`; `A` if absent.
        #[serde(default = "address")]
        qtype: String,
    },
}

/// What [`L7Answer::asked`] begins with if a call of gRPC was asked about.
pub const CALL: &str = "gRPC ";

/// What [`L7Answer::asked`] begins with if a hello of TLS was asked about.
pub const HELLO: &str = "TLS ";

impl L7Question {
    /// Is it a call of gRPC, as the proxy will see it?
    fn is_call(&self) -> bool {
        let Self::Http {
            method, headers, ..
        } = self
        else {
            return false;
        };
        let mut fields = headers.iter().filter_map(|field| field.split_once(':'));
        let written = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        method == "POST"
            && written.is_some_and(|(_, value)| grpc::Kind::of(value.as_bytes()).is_some())
    }
}

fn address() -> String {
    "A".to_owned()
}

impl fmt::Display for L7Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { target, .. } if self.is_call() => write!(f, "{CALL}{target}"),
            Self::Http { method, target, .. } => write!(f, "{method} {target}"),
            Self::Dns { name, qtype } => write!(f, "DNS {name} {qtype}"),
            Self::Tls { server_name } => match server_name.is_empty() {
                true => write!(f, "{HELLO}for no name"),
                false => write!(f, "{HELLO}for {server_name}"),
            },
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The initiator as the kernel knows it.
    pub source: Party,
    /// The destination after service translation.
    pub destination: Party,
    /// IANA protocol name.
    pub protocol: String,
    /// Service translation, if the destination is a frontend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceStep>,
    /// Policies consulted, in the order the kernel does it.
    pub steps: Vec<PolicyStep>,
    /// Selectors of names that the destination's address has been resolved to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learned: Vec<LearnedSelector>,
    /// The flow as it stands in the flow table, if there is one now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveFlow>,
    /// What the kernel does with a new flow like this.
    pub verdict: FlowVerdict,
    /// The phrase for a drop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the kernel would do if what is in shadow were enforced, where that is something
    /// else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<InShadow>,
    /// What the proxy would do with the message, if one was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l7: Option<L7Answer>,
    /// Address as which the proxy speaks to a server outside: the initiator's own, or the
    /// node's where the node masquerades what it sends there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_source: Option<IpAddr>,
    /// How the names of the question were understood, where that is not plain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What on this node may stand in the way, whatever policy says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub obstacles: Vec<String>,
    /// Generation the kernel decides with.
    pub generation: Generation,
}

/// What would become of a flow, at one of its policies, or of a message, if what is in
/// shadow were enforced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InShadow {
    /// `FORWARDED`, `DROPPED`, `REDIRECTED`, or `ERROR` where a plugin could not decide.
    pub verdict: FlowVerdict,
    /// Why, where a rule alone does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The rule that would decide; none where it is one that decides already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RulePlace>,
    /// What the proxy would then ask, one line per plugin and rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub l7: Vec<String>,
}

/// What becomes of a message, answered by the proxy with the plugins that would decide
/// about a real one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct L7Answer {
    /// The message: `GET /api/x`, `gRPC /shop.Orders/Get`, `DNS name.example A`.
    pub asked: String,
    /// `FORWARDED`, `DROPPED`, or `ERROR` if policy could not decide.
    pub verdict: FlowVerdict,
    /// HTTP status, gRPC's of a call, or DNS RCODE of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Why, where no rule is the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What kind of failure that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_kind: Option<FailureKind>,
    /// Rules that decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RulePlace>,
    /// It is refused because none of these rules matches.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub none_matched: bool,
    /// Plugin that decided, as `name@version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// What would become of it if what is in shadow were enforced, where that is something
    /// else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<InShadow>,
}

/// A rule and where it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RulePlace {
    /// Short form.
    pub rule: String,
    /// `file:line`, if the rule is of the generation in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// Why an address has the rules of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LearnedSelector {
    /// The `toFQDNs` selector.
    pub selector: String,
    /// Seconds for which it counts for new flows; 0 if it has expired.
    #[serde(rename = "leftSeconds")]
    pub left_s: u32,
    /// Names it selects that resolved to the address, as far as they are remembered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

/// What socket load balancing does first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStep {
    /// Frontend, name and address.
    pub frontend: String,
    /// `random` or `maglev`.
    pub algorithm: String,
    /// Backends a connection may get; the explanation follows the first.
    pub backends: Vec<String>,
}

/// One policy table consulted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStep {
    /// Endpoint whose policy it is.
    pub endpoint: String,
    /// Direction, seen from that endpoint.
    pub direction: FlowDirection,
    /// The table entry that decided, e.g. `identity 256, tcp port 8080`.
    pub entry: String,
    /// `allow`, `needs L7`, `denied by rule`, `no rule allows it`, `not enforced`, or `not
    /// asked`: the other end's policy refuses it, and this one is about what is in shadow.
    pub outcome: String,
    /// The rule, short form; for a default deny the policy that switched it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Where the rule is written, `file:line`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// What the proxy then asks, one line per plugin and rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub l7: Vec<String>,
    /// What this policy would say if what is in shadow were enforced, where that is
    /// something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<InShadow>,
}

/// The live flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LiveFlow {
    /// Flows of this kind in the table now.
    pub flows: usize,
    /// Generation of the latest one's verdict.
    pub generation: Generation,
    /// Is it steered to the proxy.
    pub redirected: bool,
    /// Packets of all of them, both directions.
    pub packets: u64,
    /// Bytes of all of them, both directions.
    pub bytes: u64,
}

/// An L7 rule set in words, one line per plugin and rule.
pub fn l7_in_words(set: &L7RuleSet) -> Vec<String> {
    if !set.contexts.is_nothing() {
        let TlsContexts {
            terminating,
            originating,
        } = &set.contexts;
        let ended = terminating.iter().map(TlsContext::secret);
        let ended = ended.map(|secret| format!("tls: ends here, with the secret {secret}"));
        let begun = originating.iter().map(TlsContext::secret);
        let begun = begun.map(|secret| format!("tls: begins here, with the secret {secret}"));
        let inside = L7RuleSet {
            contexts: TlsContexts::default(),
            ..set.clone()
        };
        return ended.chain(begun).chain(l7_in_words(&inside)).collect();
    }
    if let Some(tls) = &set.tls {
        let name = |name: &FqdnSelector| match name {
            FqdnSelector::MatchName(name) | FqdnSelector::MatchPattern(name) => {
                let how = match tls.in_clear {
                    true => "tls or http",
                    false => "tls",
                };
                format!("{how}: asks for {}", name.trim_end_matches('.'))
            }
        };
        let mut words: Vec<String> = tls.names.iter().map(name).collect();
        if !set.chain.is_empty() {
            let behind = L7RuleSet {
                tls: None,
                ..set.clone()
            };
            words.extend(l7_in_words(&behind));
        }
        return words;
    }
    let protocol = match set.protocol {
        L7Protocol::Http => "http",
        L7Protocol::Dns => "dns",
        L7Protocol::Stream => "stream",
    };
    let carried = (!set.http.is_nothing()).then(|| {
        let options = serde_json::to_value(set.http).unwrap_or_default();
        format!("http: carried with {}", compact(&options))
    });
    if set.chain.is_empty() {
        let read = match set.protocol {
            L7Protocol::Stream => {
                "stream: passes unread, as another rule allows it without asking".to_owned()
            }
            _ => format!("{protocol}: read and recorded, everything is allowed"),
        };
        return [read].into_iter().chain(carried).collect();
    }
    set.chain
        .iter()
        .flat_map(|used| {
            let config: serde_json::Value =
                serde_json::from_str(&used.config).unwrap_or(serde_json::Value::Null);
            let rules = ["rules", "patterns"]
                .iter()
                .find_map(|key| config.get(key)?.as_array().cloned());
            match rules {
                Some(rules) => rules
                    .iter()
                    .map(|rule| format!("{}: {}", used.plugin, compact(rule)))
                    .collect::<Vec<_>>(),
                None => vec![format!("{}: {}", used.plugin, compact(&config))],
            }
        })
        .chain(carried)
        .collect()
}

/// `method=GET path=/api` instead of JSON, where the value is a flat object.
fn compact(value: &serde_json::Value) -> String {
    match value.as_object() {
        Some(object) if object.is_empty() => "anything".into(),
        Some(object) => {
            let fields = object.iter().map(|(key, value)| match value.as_str() {
                Some(text) => format!("{key}={text}"),
                None => format!("{key}={value}"),
            });
            fields.collect::<Vec<_>>().join(" ")
        }
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_policy::compiled::RuleId;
    use tidegate_policy::compiled::{FailMode, PluginUse};

    use super::*;

    #[test]
    fn rules_are_told_without_json() {
        let set = L7RuleSet {
            protocol: L7Protocol::Http,
            http: Default::default(),
            chain: vec![PluginUse {
                plugin: "http".into(),
                config: r#"{"rules":[{"method":"GET","path":"/api"},{}]}"#.into(),
                fail_mode: FailMode::Closed,
                rules: vec![RuleId(1), RuleId(2)],
                bound: false,
                in_shadow: false,
            }],
            tls: None,
            contexts: Default::default(),
            shadow: None,
        };
        assert_eq!(
            l7_in_words(&set),
            ["http: method=GET path=/api", "http: anything"]
        );
        let open = L7RuleSet {
            protocol: L7Protocol::Dns,
            http: Default::default(),
            chain: Vec::new(),
            tls: None,
            contexts: Default::default(),
            shadow: None,
        };
        assert_eq!(
            l7_in_words(&open),
            ["dns: read and recorded, everything is allowed"]
        );
    }
}
