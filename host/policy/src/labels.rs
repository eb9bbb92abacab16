//! Labels of endpoints and selectors over them.

use std::{collections::BTreeSet, fmt};

use crate::label_syntax;

/// Key of the label every endpoint has for its namespace.
pub const NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Prefix of keys that carry labels of the namespace.
pub const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels";
/// Key of the label every endpoint has for its cluster.
pub const CLUSTER: &str = "io.cilium.k8s.policy.cluster";
/// Name of the cluster, as long as there is one node.
pub const LOCAL_CLUSTER: &str = "default";

/// A label: `source:key=value`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// `k8s`, `reserved`, `cidr`, …
    pub source: String,
    /// Key.
    pub key: String,
    /// Value, often empty.
    pub value: String,
}

impl Label {
    /// A label from its three parts.
    pub fn new(source: &str, key: &str, value: &str) -> Self {
        Label {
            source: source.to_owned(),
            key: key.to_owned(),
            value: value.to_owned(),
        }
    }
}

impl fmt::Display for Label {
    /// `source:key=value`, or `source:key` if the value is empty.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.key)?;
        if !self.value.is_empty() {
            write!(f, "={}", self.value)?;
        }
        Ok(())
    }
}

/// The key of a requirement; without a source it means any source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Source the label must have; `None` matches any.
    pub source: Option<String>,
    /// Key.
    pub key: String,
}

impl Key {
    /// Reads `key`, `source:key`, `any:key` or `$reserved`. The error is what is wrong
    /// with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (source, key) = match (text.strip_prefix('$'), text.split_once(':')) {
            (Some(key), _) => (Some("reserved"), key),
            (None, None) => (None, text),
            (None, Some(("any", key))) => (None, key),
            (None, Some((source, key))) => (Some(source), key),
        };
        if let Some(source) = source
            && (source.is_empty()
                || !source
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
        {
            return Err(format!(
                "`{source}` is no source of labels; `k8s`, `reserved` or `any` are"
            ));
        }
        label_syntax::check_key(key)?;
        Ok(Key {
            source: source.map(str::to_owned),
            key: key.to_owned(),
        })
    }

    /// A key with its source.
    pub fn of(source: &str, key: &str) -> Self {
        Key {
            source: Some(source.to_owned()),
            key: key.to_owned(),
        }
    }

    /// Is it a Kubernetes label's key that `is` says yes to, with its source or without?
    fn is_k8s(&self, is: impl Fn(&str) -> bool) -> bool {
        self.source.as_deref().is_none_or(|source| source == "k8s") && is(&self.key)
    }

    /// Does it name the pod's namespace?
    pub fn is_namespace(&self) -> bool {
        self.is_k8s(|key| key == NAMESPACE)
    }

    /// Does it name a label of the namespace?
    pub fn is_namespace_label(&self) -> bool {
        self.is_k8s(|key| key.starts_with(NAMESPACE_LABELS))
    }

    /// Does it name the cluster?
    pub fn is_cluster(&self) -> bool {
        self.is_k8s(|key| key == CLUSTER)
    }

    /// Does it name a reserved label?
    pub fn is_reserved(&self) -> bool {
        self.source.as_deref() == Some("reserved")
    }

    fn is_of(&self, label: &Label) -> bool {
        self.key == label.key && self.source.as_ref().is_none_or(|s| *s == label.source)
    }
}

impl fmt::Display for Key {
    /// `source:key`, or the key alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{source}:{}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

/// One condition on a label set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// The key is there with one of the values.
    In(Key, BTreeSet<String>),
    /// The key is absent or has none of the values.
    NotIn(Key, BTreeSet<String>),
    /// The key is there.
    Exists(Key),
    /// The key is absent.
    DoesNotExist(Key),
}

impl Requirement {
    /// `key = value`.
    pub fn equals(key: Key, value: &str) -> Self {
        Requirement::In(key, BTreeSet::from([value.to_owned()]))
    }

    /// The key it is about.
    pub fn key(&self) -> &Key {
        match self {
            Requirement::In(key, _)
            | Requirement::NotIn(key, _)
            | Requirement::Exists(key)
            | Requirement::DoesNotExist(key) => key,
        }
    }

    /// The value that its label must have, if it can be one only.
    pub fn only_value(&self) -> Option<&str> {
        match self {
            Requirement::In(_, values) if values.len() == 1 => values.first().map(String::as_str),
            _ => None,
        }
    }

    /// Does it hold only where the key is there?
    pub fn demands_key(&self) -> bool {
        matches!(self, Requirement::In(..) | Requirement::Exists(_))
    }

    fn holds(&self, labels: &[Label]) -> bool {
        let mut of_key = labels.iter().filter(|label| self.key().is_of(label));
        match self {
            Requirement::In(_, values) => of_key.any(|label| values.contains(&label.value)),
            Requirement::NotIn(_, values) => !of_key.any(|label| values.contains(&label.value)),
            Requirement::Exists(_) => of_key.next().is_some(),
            Requirement::DoesNotExist(_) => of_key.next().is_none(),
        }
    }
}

/// Conditions that must all hold; none selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// The conditions.
    pub requirements: Vec<Requirement>,
}

impl Selector {
    /// The same without what it asks of the namespace.
    pub fn in_any_namespace(&self) -> Self {
        let requirements = self.requirements.iter();
        Selector {
            requirements: requirements
                .filter(|requirement| !requirement.key().is_namespace())
                .cloned()
                .collect(),
        }
    }

    /// Does the selector select something with these labels?
    pub fn matches(&self, labels: &[Label]) -> bool {
        self.requirements.iter().all(|r| r.holds(labels))
    }

    /// Does any condition speak about a key that `is` says yes to?
    pub fn mentions(&self, is: impl Fn(&Key) -> bool) -> bool {
        self.requirements.iter().any(|r| is(r.key()))
    }

    /// Adds `k8s:<namespace key> = namespace`.
    pub fn require_namespace(&mut self, namespace: &str) {
        self.requirements
            .push(Requirement::equals(Key::of("k8s", NAMESPACE), namespace));
    }

    /// Adds `k8s:<cluster key> = the local cluster`.
    pub fn require_local_cluster(&mut self) {
        self.requirements
            .push(Requirement::equals(Key::of("k8s", CLUSTER), LOCAL_CLUSTER));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(requirements: Vec<Requirement>, labels: &[(&str, &str, &str)], expected: bool) {
        let labels: Vec<Label> = labels.iter().map(|(s, k, v)| Label::new(s, k, v)).collect();
        let selector = Selector { requirements };
        assert_eq!(
            selector.matches(&labels),
            expected,
            "{selector:?} {labels:?}"
        );
    }

    fn values(values: &[&str]) -> BTreeSet<String> {
        values.iter().map(|v| (*v).to_owned()).collect()
    }

    fn key(text: &str) -> Key {
        Key::parse(text).unwrap()
    }

    #[test]
    fn operators() {
        let app = || key("app");
        let web = [("k8s", "app", "web")];
        check(vec![], &[], true);
        check(vec![Requirement::equals(app(), "web")], &web, true);
        check(vec![Requirement::equals(app(), "db")], &web, false);
        check(
            vec![Requirement::In(app(), values(&["db", "web"]))],
            &web,
            true,
        );
        check(
            vec![Requirement::NotIn(app(), values(&["web"]))],
            &web,
            false,
        );
        check(vec![Requirement::NotIn(app(), values(&["db"]))], &web, true);
        check(vec![Requirement::NotIn(app(), values(&["db"]))], &[], true);
        check(vec![Requirement::Exists(app())], &web, true);
        check(vec![Requirement::Exists(app())], &[], false);
        check(vec![Requirement::DoesNotExist(app())], &web, false);
        check(vec![Requirement::DoesNotExist(app())], &[], true);
    }

    #[test]
    fn sources() {
        let web = [("k8s", "app", "web")];
        check(vec![Requirement::equals(key("k8s:app"), "web")], &web, true);
        check(vec![Requirement::equals(key("any:app"), "web")], &web, true);
        check(
            vec![Requirement::equals(key("container:app"), "web")],
            &web,
            false,
        );
        check(
            vec![Requirement::equals(key("$host"), "")],
            &[("reserved", "host", "")],
            true,
        );
    }
}
