//! Why a plugin file is not admitted.

use std::{io, path::Path, time::Duration};

/// Why a plugin was not admitted. Each is a sentence for `tidegate plugin list`.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The file cannot be read, or the cache cannot be written.
    #[error("cannot access {path}: {error}")]
    Io {
        /// File or folder.
        path: String,
        /// The system's reason.
        #[source]
        error: io::Error,
    },
    /// It is not a usable component.
    #[error("{0}")]
    Component(String),
    /// Manifest or the file beside it is wrong.
    #[error("{0}")]
    Manifest(String),
    /// It has to be signed by somebody the node believes, and is not.
    #[error("it {0}")]
    Signature(String),
    /// Compiling it takes longer than it was given.
    #[error("compiling it takes longer than {0:?}")]
    TakesLong(Duration),
    /// The compiler ended before it had a verdict, for want of memory or by somebody's
    /// hand. That says nothing of the plugin.
    #[error("{0}")]
    Interrupted(String),
    /// It calls something it may not.
    #[error("it uses `{interface}`, which {why}")]
    NotGranted {
        /// The interface.
        interface: String,
        /// Who did not ask or grant.
        why: &'static str,
    },
}

impl Refusal {
    /// Is it the file's own fault, so that only another file can mend it?
    pub fn is_final(&self) -> bool {
        match self {
            Self::Component(_)
            | Self::Manifest(_)
            | Self::Signature(_)
            | Self::NotGranted { .. } => true,
            Self::Io { .. } | Self::TakesLong(_) | Self::Interrupted(_) => false,
        }
    }
}

/// The file or folder that could not be accessed.
pub(super) fn refuse_io(path: &Path) -> impl Fn(io::Error) -> Refusal {
    move |error| Refusal::Io {
        path: format!("{}", path.display()).escape_debug().to_string(),
        error,
    }
}
