//! What a document is called, where it comes from, and whether it is in force.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    origin::{At, ObjectKey, Origin},
    problem::{Problem, Severity},
};

/// Name and origin of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// What it comes from.
    pub origin: Origin,
    /// Where the document begins.
    pub at: At,
    /// `kind:`.
    pub kind: &'static str,
    /// Where that was written.
    pub kind_at: At,
    /// Namespace; `None` for cluster-wide kinds.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Where that was written.
    pub name_at: At,
    /// Is it in force, or only rehearsed?
    pub enforcement: Enforcement,
    /// Egress rules by name are for who asks for that name alone.
    pub holds_names: bool,
}

/// What becomes of what a document says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// It is in force.
    #[default]
    Enforce,
    /// Everything is decided as if it were not there, and beside every decision stands
    /// what it would be if it were in force.
    Shadow,
}

impl Meta {
    /// Is it only rehearsed?
    pub fn is_shadow(&self) -> bool {
        self.enforcement == Enforcement::Shadow
    }

    /// Name of the document among all documents.
    pub fn key(&self) -> ObjectKey {
        ObjectKey {
            kind: self.kind,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            source: self.origin.source().clone(),
        }
    }

    /// `namespace/name`, or the name alone if it has no namespace.
    pub fn full_name(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.clone(),
        }
    }

    /// A problem of this document, at one place of it; an error unless it is made a warning.
    pub fn problem(&self, at: &At, message: String, hint: &str) -> Problem {
        Problem {
            origin: Some(self.origin.clone()),
            document: Some(self.key()),
            line: at.line,
            column: at.column,
            field: at.path.clone(),
            value: None,
            message,
            hint: (!hint.is_empty()).then(|| hint.to_owned()),
            severity: Severity::Error,
        }
    }
}
