//! What TLS is spoken with. It travels in memory alone: in a sealed file that has no name,
//! from the agent to the proxy. No log, record or answer shows it.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tidegate_policy::{
    compiled::{L7Id, L7RuleSet},
    shared::Map,
    tls::TlsContext,
};
use zeroize::Zeroizing;

/// Bytes that are not shown, and overwritten when they are let go.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// These bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// To be read, and not kept.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> de::Visitor<'de> for Bytes {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Secret, E> {
                Ok(Secret::new(bytes.to_vec()))
            }

            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Secret, E> {
                Ok(Secret::new(bytes))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Secret, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = list.next_element()? {
                    bytes.push(byte);
                }
                Ok(Secret::new(bytes))
            }
        }
        from.deserialize_byte_buf(Bytes)
    }
}

/// What is in a secret, of that which a context uses: PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Authorities that are believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorities: Option<Secret>,
    /// A chain of certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<Secret>,
    /// The key of its first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
}

/// What a context is, as far as its files say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Context {
    /// TLS can be spoken with these.
    Usable(Credentials),
    /// Its files cannot be used, for this reason: what they said before counts, to whoever
    /// knows it.
    Broken(String),
    /// It is not there, for this reason: what needs it is refused.
    Missing(String),
}

/// At which end of the proxy a context is used: with the same files it is another thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsEnd {
    /// Towards clients.
    Terminating,
    /// Towards servers.
    Originating,
}

impl TlsEnd {
    /// The key of documents that names it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Terminating => "terminatingTLS",
            Self::Originating => "originatingTLS",
        }
    }
}

/// What a context at an end is found by.
pub fn context_key(end: TlsEnd, context: &TlsContext) -> String {
    let items = context.items().map(|(item, asked)| match asked {
        true => format!("{item}!"),
        false => item.to_owned(),
    });
    format!("{} {} {}", end.word(), context.secret(), items.join(" "))
}

/// The contexts that rule sets use, each as often as it is used.
pub fn contexts(sets: &Map<L7Id, Arc<L7RuleSet>>) -> impl Iterator<Item = (TlsEnd, &TlsContext)> {
    sets.values().flat_map(|set| {
        let terminating = set.contexts.terminating.iter();
        let originating = set.contexts.originating.iter();
        let terminating = terminating.map(|context| (TlsEnd::Terminating, context));
        terminating.chain(originating.map(|context| (TlsEnd::Originating, context)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_travels_and_is_not_shown() {
        let context = Context::Usable(Credentials {
            key: Some(Secret::new(b"do not tell".to_vec())),
            ..Credentials::default()
        });
        let shown = format!("{context:?}");
        assert!(
            shown.contains("[11 bytes]") && !shown.contains("tell"),
            "{shown}"
        );
        let json = serde_json::to_vec(&context).expect("written");
        assert_eq!(
            serde_json::from_slice::<Context>(&json).expect("read"),
            context
        );
    }
}
