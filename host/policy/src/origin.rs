//! Where documents come from, and what they are called.

use std::{borrow::Cow, fmt, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Who says what is wanted: the folders that `tidegate.yaml` names, or somebody else by
/// name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(Arc<str>);

impl Source {
    /// The folders that `tidegate.yaml` names.
    pub fn folders() -> Self {
        Self("".into())
    }

    /// A source with a name; the empty one names the folders. It has neither `/` nor `:`.
    pub fn named(name: &str) -> Self {
        Self(name.into())
    }

    /// Its name; empty for the folders.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// What documents come from: a file of a folder, an object of an API server, a key of a
/// store. It changes as a whole: one version of it is in use, and where its newest cannot
/// be used, the last good one is.
///
/// Written `policies/web.yaml`, or `SOURCE:name` where that is not of the folders.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    source: Source,
    name: Arc<str>,
}

impl Origin {
    /// `name` is its name in the source: for a file, relative to the configuration.
    pub fn new(source: Source, name: &str) -> Self {
        Self {
            source,
            name: name.into(),
        }
    }

    /// Who says it.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What the source calls it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.source.name(), self.name()) {
            ("", name) => f.write_str(name),
            // The source as a whole.
            (source, "") => f.write_str(source),
            (source, name) => write!(f, "{source}:{name}"),
        }
    }
}

impl From<&str> for Origin {
    /// Reads what [`fmt::Display`] writes.
    fn from(text: &str) -> Self {
        match text.split_once(':') {
            Some((source, name)) if !source.contains('/') => Self::new(Source::named(source), name),
            _ => Self::new(Source::folders(), text),
        }
    }
}

impl From<&Origin> for Origin {
    fn from(origin: &Origin) -> Self {
        origin.clone()
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Ok(Self::from(&*text))
    }
}

impl JsonSchema for Origin {
    fn schema_name() -> Cow<'static, str> {
        String::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }

    fn inline_schema() -> bool {
        true
    }
}

/// Names a document among all documents. Each source has names of its own for policies;
/// of everything else that there is, endpoints and services above all, there is one of a
/// name on a node ([`ObjectKey::claim`]).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// `kind:`.
    pub kind: &'static str,
    /// Namespace; `None` for cluster-wide kinds.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Who says it.
    pub source: Source,
}

impl ObjectKey {
    /// What there may be one of.
    #[must_use]
    pub fn claim(self) -> Self {
        match self.kind {
            "CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy" => self,
            _ => Self {
                source: Source::folders(),
                ..self
            },
        }
    }
}

impl fmt::Display for ObjectKey {
    /// `Kind namespace/name`, followed by who says it unless the folders do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)?;
        match self.source.name() {
            "" => Ok(()),
            source => write!(f, " ({source})"),
        }
    }
}

/// Where a value was written: what is wrong with it is said of this place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct At {
    /// Path from the document's root, e.g. `spec.ingress[0].toPorts[1]`; empty for the
    /// document as a whole.
    pub path: String,
    /// Line the value begins at, from 1.
    pub line: u32,
    /// Column the value begins at, from 1.
    pub column: u32,
}

impl At {
    /// The path as rules are named by it: below `spec`, e.g. `ingress[0].toPorts[1]`. One
    /// below `specs[i]` stays whole, so that the rules of several specs keep apart.
    pub fn rule(&self) -> &str {
        match self.path.strip_prefix("spec") {
            Some("") => "",
            Some(below) => below.strip_prefix('.').unwrap_or(&self.path),
            None => &self.path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_read_as_it_is_written() {
        for (source, name) in [
            ("", "policies/web.yaml"),
            ("", "policies/a:b.yaml"),
            ("vendor", "policies/web.yaml"),
            ("kubernetes", "CiliumNetworkPolicy/shop/web"),
            ("etcd", "tidegate/a:b"),
        ] {
            let origin = Origin::new(Source::named(source), name);
            let text = serde_json::to_string(&origin).expect("text");
            assert_eq!(serde_json::from_str::<Origin>(&text).expect("read"), origin);
        }
    }

    #[test]
    fn only_policies_have_names_of_their_own_in_each_source() {
        let key = |kind, source| ObjectKey {
            kind,
            namespace: Some("shop".into()),
            name: "web".into(),
            source: Source::named(source),
        };
        let policy = |source| key("CiliumNetworkPolicy", source).claim();
        assert_ne!(policy(""), policy("vendor"));
        let endpoint = |source| key("Endpoint", source).claim();
        assert_eq!(endpoint(""), endpoint("vendor"));
        let text = key("CiliumNetworkPolicy", "vendor").to_string();
        assert_eq!(text, "CiliumNetworkPolicy shop/web (vendor)");
    }
}
