//! `rules.kafka`: which requests to Kafka are allowed.

use super::super::reader::{Cursor, optional, or_one_of};
use crate::l7::{KafkaRole, KafkaRule};

/// APIs by name, in the order of their numbers; names and numbers are those of Apache
/// Kafka's protocol.
pub(crate) const APIS: [&str; 34] = [
    "produce",
    "fetch",
    "offsets",
    "metadata",
    "leaderandisr",
    "stopreplica",
    "updatemetadata",
    "controlledshutdown",
    "offsetcommit",
    "offsetfetch",
    "findcoordinator",
    "joingroup",
    "heartbeat",
    "leavegroup",
    "syncgroup",
    "describegroups",
    "listgroups",
    "saslhandshake",
    "apiversions",
    "createtopics",
    "deletetopics",
    "deleterecords",
    "initproducerid",
    "offsetforleaderepoch",
    "addpartitionstotxn",
    "addoffsetstotxn",
    "endtxn",
    "writetxnmarkers",
    "txnoffsetcommit",
    "describeacls",
    "createacls",
    "deleteacls",
    "describeconfigs",
    "alterconfigs",
];
/// Roles by name.
pub(crate) const ROLES: [(&str, KafkaRole); 2] = [
    ("produce", KafkaRole::Produce),
    ("consume", KafkaRole::Consume),
];
/// Longest name of a topic.
const TOPIC: usize = 255;

/// Reads one rule. An empty text is as good as none.
pub(super) fn read(cursor: &Cursor<'_>) -> Option<KafkaRule> {
    let fields = cursor.fields(&["role", "apiKey", "apiVersion", "clientID", "topic"])?;
    let role = optional(fields.get("role"), None, |at| known(at, &ROLES));
    let apis: Vec<(&str, i16)> = APIS.into_iter().zip(0..).collect();
    let api_key = optional(fields.get("apiKey"), None, |at| known(at, &apis));
    let api_version = optional(fields.get("apiVersion"), None, read_version);
    let client_id = optional(fields.get("clientID"), None, |at| {
        at.text()
            .map(|text| (!text.is_empty()).then(|| text.to_owned()))
    });
    let topic = optional(fields.get("topic"), None, read_topic);
    let rule = KafkaRule {
        role: role?,
        api_key: api_key?,
        api_version: api_version?,
        client_id: client_id?,
        topic: topic?,
    };
    if rule.role.is_some() && rule.api_key.is_some() {
        cursor.error("`role` and `apiKey` exclude each other", "write two rules");
        return None;
    }
    warn_of_never(cursor, &rule);
    Some(rule)
}

/// APIs whose topics rules do not look at, as in Cilium (or that no client may ask for): a
/// rule with a topic never covers one. The plugin's tests have the same list.
const TOPICS_UNREAD: [i16; 11] = [4, 5, 6, 7, 19, 20, 21, 23, 24, 27, 28];

/// What no request can fulfil allows nothing, and was meant to.
fn warn_of_never(cursor: &Cursor<'_>, rule: &KafkaRule) {
    let unread = rule.api_key.filter(|key| TOPICS_UNREAD.contains(key));
    let name = unread.and_then(|key| APIS.get(usize::try_from(key).ok()?));
    if let (Some(name), Some(_)) = (name, &rule.topic) {
        cursor.warn(
            format!("never matches: the topics of {name} requests are not looked at"),
            "leave `topic` out, and all of them are allowed",
        );
    }
    if rule.client_id.is_some() && rule.api_version == Some(0) {
        cursor.warn(
            "never matches: a request of version 0 counts as one that does not say who asks",
            "leave `clientID` or `apiVersion` out",
        );
    }
}

/// A word of a list, in any case.
#[expect(clippy::option_option, reason = "absent and unreadable are different")]
fn known<T: Copy>(cursor: &Cursor<'_>, words: &[(&str, T)]) -> Option<Option<T>> {
    let text = cursor.text()?;
    if text.is_empty() {
        return Some(None);
    }
    let lower = text.to_ascii_lowercase();
    let found = words.iter().find(|(word, _)| *word == lower);
    if found.is_none() {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        cursor.error("is none that is known", &or_one_of(&lower, &words));
    }
    found.map(|(_, value)| Some(*value))
}

#[expect(clippy::option_option, reason = "absent and unreadable are different")]
fn read_version(cursor: &Cursor<'_>) -> Option<Option<i16>> {
    let text = cursor.text()?;
    if text.is_empty() {
        return Some(None);
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let version = text.parse().ok().filter(|_| digits);
    if version.is_none() {
        cursor.error(
            "no version of an API",
            "a number from 0 to 32767, in quotes",
        );
    }
    version.map(Some)
}

#[expect(clippy::option_option, reason = "absent and unreadable are different")]
fn read_topic(cursor: &Cursor<'_>) -> Option<Option<String>> {
    let text = cursor.text()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if text.len() > TOPIC || !text.bytes().all(plain) {
        cursor.error(
            "no name of a topic: they are compared as they are, without patterns",
            &format!("at most {TOPIC} letters, digits and `._-`"),
        );
        return None;
    }
    Some((!text.is_empty()).then(|| text.to_owned()))
}
