//! `metadata`: what a document is called, where it comes from, and whether it is in force.

use super::reader::{Cursor, Fields, optional};
use crate::{
    label_syntax,
    objects::{Enforcement, Meta},
    origin::{At, Origin},
};

/// Namespace of our own kinds when none is written.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// Where a document comes from and what its kind does with namespaces.
pub(super) struct Heading<'a> {
    pub(super) origin: &'a Origin,
    pub(super) kind: &'static str,
    pub(super) kind_at: At,
    pub(super) scope: Scope,
}

impl Heading<'_> {
    /// Does the kind have rules?
    fn is_policy(&self) -> bool {
        matches!(
            self.kind,
            "CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy"
        )
    }

    /// Can the kind be rehearsed? What there is (endpoints, services) is there or not, and
    /// the deny list is asked before anything that could tell of a second verdict.
    fn has_shadow(&self) -> bool {
        matches!(
            self.kind,
            "CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy" | "PluginBinding"
        )
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// A missing namespace means "all of them".
    OptionalNamespace,
    /// A missing namespace means [`DEFAULT_NAMESPACE`].
    DefaultNamespace,
    /// The kind has no namespace.
    Cluster,
}

/// The annotation that says [`Enforcement`]; on kinds of others too, where no field could.
pub(crate) const ENFORCEMENT: &str = "tidegate.io/enforcement";
/// How [`ENFORCEMENT`] is written.
pub(crate) const ENFORCEMENTS: [(&str, Enforcement); 2] = [
    ("enforce", Enforcement::Enforce),
    ("shadow", Enforcement::Shadow),
];
/// The annotation that says [`Meta::holds_names`].
pub(crate) const HOLD_NAMES: &str = "tidegate.io/hold-names";
/// How [`HOLD_NAMES`] is written; annotations are text.
pub(crate) const HOLDS: [(&str, bool); 2] = [("true", true), ("false", false)];
/// Prefix of annotations that are meant for us.
const OWN_ANNOTATIONS: &str = "tidegate.io/";

/// Metadata that API servers add, or people; of no meaning here.
pub(crate) const FOREIGN_METADATA: [&str; 8] = [
    "creationTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Reads `metadata` and names the document in everything that is reported from now on.
pub(super) fn read_meta<'a>(
    root: &Cursor<'a>,
    top: &Fields<'a>,
    heading: &Heading<'_>,
) -> Option<Meta> {
    let known: Vec<&str> = ["name", "namespace", "labels", "annotations"]
        .into_iter()
        .chain(FOREIGN_METADATA)
        .collect();
    let fields = top.required("metadata")?.fields(&known)?;
    let name_at = fields.required("name");
    let name = name_at.and_then(Cursor::word);
    let written = optional(fields.get("namespace"), None, |namespace| {
        read_namespace(namespace, heading)
    })?;
    let namespace = match heading.scope {
        Scope::DefaultNamespace => Some(written.unwrap_or(DEFAULT_NAMESPACE)),
        Scope::OptionalNamespace | Scope::Cluster => written,
    };
    let meta = Meta {
        origin: heading.origin.clone(),
        at: root.at(),
        kind: heading.kind,
        kind_at: heading.kind_at.clone(),
        namespace: namespace.map(str::to_owned),
        name: name?.to_owned(),
        name_at: name_at?.at(),
        enforcement: Enforcement::default(),
        holds_names: false,
    };
    root.name_document(meta.key());
    let (enforcement, holds_names) = match fields.get("annotations") {
        Some(annotations) => read_annotations(annotations, heading)?,
        None => (Enforcement::default(), false),
    };
    Some(Meta {
        enforcement,
        holds_names,
        ..meta
    })
}

/// What our own annotations say. One that is mistyped is refused: it was to keep a
/// document from being enforced. Those of others are of no meaning here.
fn read_annotations(
    annotations: &Cursor<'_>,
    heading: &Heading<'_>,
) -> Option<(Enforcement, bool)> {
    let mut enforcement = Some(Enforcement::default());
    let mut holds = Some(false);
    let own = annotations.entries()?.into_iter();
    for (key, value) in own.filter(|(key, _)| key.starts_with(OWN_ANNOTATIONS)) {
        if key == HOLD_NAMES {
            if heading.is_policy() {
                holds = value.one_of(&HOLDS);
            } else {
                value.error(
                    format!("{} has no rules by name", heading.kind),
                    "on CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy only",
                );
            }
        } else if key != ENFORCEMENT {
            let known = format!("known here: {ENFORCEMENT}, {HOLD_NAMES}");
            value.error("no such annotation", &known);
        } else if heading.has_shadow() {
            enforcement = value.one_of(&ENFORCEMENTS);
        } else {
            value.error(
                format!("{} cannot be rehearsed", heading.kind),
                "on CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy and PluginBinding only",
            );
        }
    }
    Some((enforcement?, holds?))
}

/// A namespace as written; the inner `None` if that is nothing.
#[expect(clippy::option_option, reason = "absent and unreadable are different")]
fn read_namespace<'a>(cursor: &Cursor<'a>, heading: &Heading<'_>) -> Option<Option<&'a str>> {
    let text = cursor.text()?;
    if text.is_empty() {
        return Some(None);
    }
    if let Err(reason) = label_syntax::check_namespace(text) {
        cursor.error(format!("not the name of a namespace: {reason}"), "");
        return None;
    }
    if heading.scope == Scope::Cluster {
        cursor.error(format!("{} has no namespace", heading.kind), "remove it");
        return None;
    }
    Some(Some(text))
}
