//! What is wrong with a file, said so that its author can mend it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::origin::{ObjectKey, Origin};

/// How much a problem matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The document cannot be used.
    Error,
    /// The document is used, but probably does not do what its author means.
    Warning,
}

/// One finding about one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was found; `None` if it is about all there is.
    pub origin: Option<Origin>,
    /// The document, once it is known which one it is.
    pub document: Option<ObjectKey>,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// Path of the field, e.g. `spec.ingress[0].toPorts[1].ports[0].port`; empty
    /// for the document as a whole.
    pub field: String,
    /// The value found there, if it is short enough to show.
    pub value: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
    /// How much it matters.
    pub severity: Severity,
}

impl fmt::Display for Problem {
    /// One line: `origin:line:column: field: message (value); hint`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}:{}:{}: ", self.line, self.column)?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        self.said().fmt(f)
    }
}

impl Problem {
    /// What is wrong, without the place and how much it matters, for those who show these
    /// in another way: `field: message (value); hint`.
    pub fn said(&self) -> impl fmt::Display {
        Said(self)
    }
}

struct Said<'a>(&'a Problem);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(problem) = self;
        if !problem.field.is_empty() {
            write!(f, "{}: ", problem.field)?;
        }
        f.write_str(&problem.message)?;
        if let Some(value) = &problem.value {
            write!(f, " ({value})")?;
        }
        if let Some(hint) = &problem.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}
