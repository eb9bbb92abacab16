//! Why a plugin gave no answer.

use tidegate_contract::FailureKind;

/// Longest reason a plugin may give, bytes.
const REASON: usize = 300;

/// Why there is no answer; the binding's fail mode says what happens then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No plugin of this name is loaded.
    #[error("plugin is not loaded")]
    Missing,
    /// It reads another protocol.
    #[error("plugin has another world")]
    WrongWorld,
    /// It did not accept its configuration, or could not be started with it.
    #[error("plugin was not configured: {0}")]
    NotConfigured(String),
    /// It is being configured; there was nothing in use before.
    #[error("plugin is being prepared")]
    Preparing,
    /// No configured instance is at hand; one is being made.
    #[error("plugin is being restarted")]
    Restarting,
    /// This peer's messages made it fail too often; it is tried again later.
    #[error("plugin is suspended for this peer after too many failures")]
    Suspended,
    /// The binding, or this peer, has used up its share of the processor.
    #[error("plugin used up its share of the processor")]
    OverShare,
    /// The memory of this plugin, or of all together, is used up.
    #[error("no memory is left for plugins")]
    NoRoom,
    /// It trapped.
    #[error("plugin trapped: {0}")]
    Trapped(String),
    /// It exceeded its deadline.
    #[error("plugin exceeded its deadline")]
    Deadline,
    /// It exceeded its memory.
    #[error("plugin ran out of memory")]
    OutOfMemory,
    /// Its answer makes no sense.
    #[error("plugin gave an invalid answer: {0}")]
    Invalid(&'static str),
}

impl Failure {
    /// Brought about by traffic and ended by time. It must never let a message pass:
    /// whoever sends enough would switch the plugin off for himself.
    pub fn is_of_load(&self) -> bool {
        matches!(self, Self::Suspended | Self::OverShare | Self::NoRoom)
    }

    /// As records tell of it.
    pub fn told(&self) -> tidegate_contract::Failure {
        let kind = match self {
            Self::Missing
            | Self::WrongWorld
            | Self::NotConfigured(_)
            | Self::Preparing
            | Self::Restarting => FailureKind::PluginUnavailable,
            Self::Suspended | Self::OverShare | Self::NoRoom => FailureKind::PluginHeldBack,
            Self::Trapped(_) | Self::Deadline | Self::OutOfMemory | Self::Invalid(_) => {
                FailureKind::PluginFailed
            }
        };
        kind.because(self.to_string())
    }

    /// Was the plugin asked, and failed? Else it is no fault of the message's sender.
    pub(super) fn is_of_call(&self) -> bool {
        matches!(
            self,
            Self::Trapped(_) | Self::Deadline | Self::OutOfMemory | Self::Invalid(_)
        )
    }
}

/// Words a plugin chose, fit for a log line or a table: at most 500 bytes, no control
/// characters.
pub(super) fn shorten(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(REASON));
    text.trim()
        .replace(|c: char| c.is_control() && c != '\n', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_plugin_fit_a_line() {
        assert_eq!(shorten(" a\x1b[31m\u{7f}b\n".to_owned()), "a[31mb");
        assert_eq!(shorten("é".repeat(10_000)).len(), REASON);
    }
}
