//! The rules of one binding: those of `CiliumNetworkPolicy`'s `rules.kafka`.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::ApiKey;
use serde::Deserialize;

use crate::{kinds::Body, refusal::Topics};

/// Rules, any of which allows; those about topics allow together.
#[derive(Debug)]
pub(crate) struct Rules(Vec<Rule>);

/// The configuration as the policy compiler writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    rules: Vec<Rule>,
}

/// One rule; absent parts match anything, the others must all match.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Rule {
    role: Option<Role>,
    /// Number of the one API it is about.
    api_key: Option<i16>,
    api_version: Option<i16>,
    #[serde(rename = "clientID")]
    client_id: Option<String>,
    topic: Option<String>,
}

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    Produce,
    Consume,
}

/// What every client needs before it can do anything.
const CONNECTING: [ApiKey; 4] = [
    ApiKey::Metadata,
    ApiKey::SaslHandshake,
    ApiKey::ApiVersions,
    ApiKey::SaslAuthenticate,
];
/// What producing takes. An id for the producer, but not for a transaction, is what
/// clients ask for that send no message twice, which is most of them.
const PRODUCING: [ApiKey; 2] = [ApiKey::Produce, ApiKey::InitProducerId];
const CONSUMING: [ApiKey; 9] = [
    ApiKey::Fetch,
    ApiKey::ListOffsets,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
    ApiKey::FindCoordinator,
    ApiKey::JoinGroup,
    ApiKey::Heartbeat,
    ApiKey::LeaveGroup,
    ApiKey::SyncGroup,
];

/// The front of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) key: i16,
    pub(crate) version: i16,
    pub(crate) correlation: i32,
    pub(crate) client_id: Option<String>,
}

/// What the rules say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// By the rule of this index.
    Allowed(u32),
    Refused,
    /// It depends on what the body says.
    Depends,
}

impl Rules {
    /// Reads `{"rules": [{"role", "apiKey", "apiVersion", "clientID", "topic"}]}`.
    ///
    /// # Errors
    ///
    /// A sentence that names the rule and what is wrong with it.
    pub(crate) fn parse(config: &str) -> Result<Self, String> {
        let config: Config = serde_json::from_str(config)
            .map_err(|error| format!("the configuration is not a list of Kafka rules: {error}"))?;
        for (index, rule) in config.rules.iter().enumerate() {
            if rule.role.is_some() && rule.api_key.is_some() {
                return Err(format!(
                    "rules[{index}]: `role` and `apiKey` exclude each other"
                ));
            }
        }
        Ok(Self(config.rules))
    }

    /// Is there a rule about a topic, so that names have to be read?
    pub(crate) fn ask_for_topics(&self) -> bool {
        self.0.iter().any(|rule| rule.topic.is_some())
    }

    /// The topics that requests with this head may name, each with the first rule that says
    /// so; where no rule allows them whatever they name.
    pub(crate) fn topics(&self, head: &Head) -> BTreeMap<&str, u32> {
        let mut topics = BTreeMap::new();
        for (rule, index) in self.0.iter().zip(0..) {
            if let Some(topic) = rule.topic.as_deref().filter(|_| rule.matches(head)) {
                topics.entry(topic).or_insert(index);
            }
        }
        topics
    }

    /// Decides by the head and, once it is known, the body.
    pub(crate) fn decide(&self, head: &Head, body: Option<&Body>) -> Verdict {
        let mut open: Option<BTreeSet<&str>> = None;
        let mut first = None;
        let mut depends = false;
        for (index, rule) in self.0.iter().enumerate() {
            if !rule.matches(head) {
                continue;
            }
            let allowed = Verdict::Allowed(u32::try_from(index).unwrap_or(u32::MAX));
            if rule.role.is_some() && head.key == ApiKey::InitProducerId as i16 {
                match body {
                    None => depends = true,
                    Some(body) if body.transactional => {}
                    Some(_) => return allowed,
                }
                continue;
            }
            let Some(topic) = &rule.topic else {
                return allowed;
            };
            match body.map(|body| &body.topics) {
                None => depends = true,
                Some(Topics::Unread) => {}
                Some(Topics::Without) => return allowed,
                Some(Topics::Named(names)) => {
                    let open =
                        open.get_or_insert_with(|| names.iter().map(String::as_str).collect());
                    // Nothing named is nothing that could not be covered.
                    if open.is_empty() {
                        return allowed;
                    }
                    if open.remove(topic.as_str()) {
                        let by = *first.get_or_insert(allowed);
                        if open.is_empty() {
                            return by;
                        }
                    }
                }
            }
        }
        if depends {
            Verdict::Depends
        } else {
            Verdict::Refused
        }
    }
}

impl Rule {
    fn matches(&self, head: &Head) -> bool {
        // A request of version 0 counts as one that does not say who asks.
        let client_id = head.client_id.as_deref().filter(|_| head.version != 0);
        self.role.is_none_or(|role| role.covers(head.key))
            && self.api_key.is_none_or(|key| key == head.key)
            && self
                .api_version
                .is_none_or(|version| version == head.version)
            && self
                .client_id
                .as_deref()
                .is_none_or(|wanted| client_id == Some(wanted))
    }
}

impl Role {
    fn covers(self, key: i16) -> bool {
        let own: &[ApiKey] = match self {
            Self::Produce => &PRODUCING,
            Self::Consume => &CONSUMING,
        };
        CONNECTING.iter().chain(own).any(|of| *of as i16 == key)
    }
}
