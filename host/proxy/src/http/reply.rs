//! What we say in upstream's place, whichever version it is written in.

use std::borrow::Cow;

use crate::decide::http::Denial;

/// A response of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) location: Option<String>,
    /// `text/plain`.
    pub(super) body: Cow<'static, str>,
}

impl Reply {
    /// Why it cannot be served, as a line.
    pub(super) fn error(status: u16, reason: &str) -> Self {
        Self {
            status,
            location: None,
            body: Cow::Owned(format!("{reason}\r\n")),
        }
    }

    /// The client is to ask for this instead.
    pub(super) fn redirect(location: &str) -> Self {
        Self {
            status: 307,
            location: Some(location.to_owned()),
            body: Cow::Borrowed(""),
        }
    }

    /// A plugin asked for a change to the header that nobody may make.
    pub(super) fn invalid_edit() -> Self {
        Self::error(500, "invalid header edit")
    }
}

impl From<Denial> for Reply {
    fn from(denial: Denial) -> Self {
        Self {
            status: denial.status,
            location: None,
            body: denial.body,
        }
    }
}
