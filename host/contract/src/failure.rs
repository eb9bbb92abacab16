//! Why something came to nothing, or passed unasked, though no rule is the reason.

use std::{borrow::Cow, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What kind of failure, for whoever counts and filters, and what exactly, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    what: Cow<'static, str>,
}

impl Failure {
    /// What exactly, in words.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The same, where it came to it: `the response broke off: closed`.
    pub fn within(self, where_: &str) -> Self {
        self.kind.because(format!("{where_}: {}", self.what))
    }

    /// Heap memory it takes, bytes.
    pub fn memory(&self) -> usize {
        match &self.what {
            Cow::Borrowed(_) => 0,
            Cow::Owned(text) => text.capacity(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// Kinds of failures. Words of the output: they are not taken back.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum FailureKind {
    /// What the client sent cannot be read as the protocol it is, or must not be passed on.
    ClientProtocol,
    /// No TLS came to an end with the client where TLS was to be.
    ClientTls,
    /// The client left before it was answered.
    ClientClosed,
    /// The client began to send and did not go on.
    ClientTimeout,
    /// There is no connection to the server.
    UpstreamConnection,
    /// No TLS came to an end with the server.
    UpstreamTls,
    /// The server did not answer in time.
    UpstreamTimeout,
    /// The server closed or reset what was under way.
    UpstreamReset,
    /// What the server sent cannot be read as the protocol it is, or must not be passed on.
    UpstreamProtocol,
    /// A plugin was asked and failed: it trapped, took too long or too much memory, or gave no
    /// valid answer.
    PluginFailed,
    /// A plugin was not there to be asked: it is missing, not configured, or being started.
    PluginUnavailable,
    /// A plugin was not asked, because the peer or the binding has used up what it may take.
    PluginHeldBack,
    /// The peer, or all together, have used up what they may take of the proxy.
    Overload,
    /// The rules have changed, and what is under way cannot be what they want by now.
    RulesChanged,
    /// By which rules to decide cannot be said.
    RulesUnknown,
    /// The connection's time was over.
    Retired,
}

impl FailureKind {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::ClientProtocol,
        Self::ClientTls,
        Self::ClientClosed,
        Self::ClientTimeout,
        Self::UpstreamConnection,
        Self::UpstreamTls,
        Self::UpstreamTimeout,
        Self::UpstreamReset,
        Self::UpstreamProtocol,
        Self::PluginFailed,
        Self::PluginUnavailable,
        Self::PluginHeldBack,
        Self::Overload,
        Self::RulesChanged,
        Self::RulesUnknown,
        Self::Retired,
    ];

    /// A failure of this kind, in words.
    pub fn because(self, what: impl Into<Cow<'static, str>>) -> Failure {
        Failure {
            kind: self,
            what: what.into(),
        }
    }

    /// Its word in the output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientProtocol => "clientProtocol",
            Self::ClientTls => "clientTls",
            Self::ClientClosed => "clientClosed",
            Self::ClientTimeout => "clientTimeout",
            Self::UpstreamConnection => "upstreamConnection",
            Self::UpstreamTls => "upstreamTls",
            Self::UpstreamTimeout => "upstreamTimeout",
            Self::UpstreamReset => "upstreamReset",
            Self::UpstreamProtocol => "upstreamProtocol",
            Self::PluginFailed => "pluginFailed",
            Self::PluginUnavailable => "pluginUnavailable",
            Self::PluginHeldBack => "pluginHeldBack",
            Self::Overload => "overload",
            Self::RulesChanged => "rulesChanged",
            Self::RulesUnknown => "rulesUnknown",
            Self::Retired => "retired",
        }
    }
}

impl std::str::FromStr for FailureKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| {
            let all = Self::ALL.map(Self::name).join(", ");
            format!("`{name}` is no kind of failure; they are {all}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_one_word() {
        for kind in FailureKind::ALL {
            let word = serde_json::to_value(kind).expect("written");
            assert_eq!(word, kind.name());
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        let error = "timeout".parse::<FailureKind>().expect_err("no kind");
        assert!(error.contains("upstreamTimeout"), "{error}");
    }
}
