//! What L7 rules say, as documents have it and as the plugins that apply it are configured.

use serde::{Deserialize, Serialize};

/// How the proxy reads a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum L7Protocol {
    /// HTTP/1.x or HTTP/2 with prior knowledge, recognised by the first bytes.
    Http,
    /// DNS over UDP or TCP.
    Dns,
    /// Bytes of TCP that plugins read: the first that knows the rules, and each that is
    /// bound behind it.
    Stream,
}

impl L7Protocol {
    /// As documents name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Dns => "dns",
            Self::Stream => "stream",
        }
    }
}

/// What happens when something that should decide cannot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailMode {
    /// Refuse.
    #[default]
    Closed,
    /// Let pass, and count it.
    Open,
}

/// Configuration of the built-in HTTP matcher. A request is allowed if any rule matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRules {
    /// The rules, ORed.
    pub rules: Vec<HttpRule>,
}

/// One HTTP rule; absent fields match anything, present ones must all match.
/// Semantics: RE2 full match, path includes the query string.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRule {
    /// Regex over the method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Regex over path and query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Regex over `:authority` / `Host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Headers: lower-case name, and the exact value or `None` for presence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, Option<String>)>,
    /// Headers that are made as they should be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<HeaderAction>,
}

impl HttpRule {
    /// Is it plainly about CONNECT?
    pub fn allows_connect(&self) -> bool {
        self.method.as_deref() == Some("CONNECT") && self.host.is_some()
    }
}

/// A header that should have exactly this value, and what is done if it has not: the rule
/// matches all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderAction {
    /// Name, lower case.
    pub name: String,
    /// Value; empty: any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// What is done.
    pub mismatch: Mismatch,
}

/// What is done with a header that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mismatch {
    /// It is told.
    Log,
    /// The value is added to what is there.
    Add,
    /// What is there is removed.
    Delete,
    /// The value replaces what is there.
    Replace,
}

/// Configuration of the built-in DNS matcher. A query is allowed if any pattern matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRules {
    /// The patterns, ORed.
    pub patterns: Vec<FqdnSelector>,
}

/// Configuration of the built-in Kafka matcher. A request is allowed if any rule matches;
/// rules about topics allow together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KafkaRules {
    /// The rules, ORed.
    pub rules: Vec<KafkaRule>,
}

/// One Kafka rule; absent fields match anything, present ones must all match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KafkaRule {
    /// What the client is for; excludes `api_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<KafkaRole>,
    /// Number of the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<i16>,
    /// Exactly this version of the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<i16>,
    /// Exactly this client id.
    #[serde(default, rename = "clientID", skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Exactly this topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

/// What a Kafka client is for: the requests that takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KafkaRole {
    /// Sends messages.
    Produce,
    /// Reads messages, alone or in a group.
    Consume,
}

/// A name or a pattern, as in `toFQDNs` and `rules.dns` (lower case, with final dot).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FqdnSelector {
    /// Exactly this name.
    MatchName(String),
    /// Names of this pattern; see `fqdn::pattern_to_regex`.
    MatchPattern(String),
}
