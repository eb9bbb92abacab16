//! What a round of attaching did, in words.

use std::fmt;

use serde::Serialize;

/// What a round of attaching did, in words for logs and `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachReport {
    /// What is new in place.
    pub attached: Vec<String>,
    /// What is gone.
    pub detached: Vec<String>,
    /// What is declared but does not exist (yet).
    pub waiting: Vec<Waiting>,
    /// What exists but could not be attached, with the reason.
    pub failed: Vec<String>,
    /// What somebody else had undone, and was put back.
    pub restored: Vec<String>,
}

/// Something declared that needs what does not exist (yet).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// The endpoint, `namespace/name`; `None` for the node itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// What there is not, in words.
    pub missing: String,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(endpoint) = &self.endpoint {
            write!(f, "{endpoint}: ")?;
        }
        f.write_str(&self.missing)
    }
}

impl AttachReport {
    pub(super) fn wait(&mut self, endpoint: Option<&str>, missing: String) {
        self.waiting.push(Waiting {
            endpoint: endpoint.map(str::to_owned),
            missing,
        });
    }

    /// Nothing came and nothing went.
    pub fn is_unchanged(&self) -> bool {
        self.attached.is_empty() && self.detached.is_empty() && self.restored.is_empty()
    }
}

/// The deny list on an outside device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct XdpStatus {
    /// Device name.
    pub device: String,
    /// `native`, `generic` or `none`.
    pub mode: &'static str,
    /// Why it is not `native`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An error and what caused it, in one line.
pub(crate) fn with_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
