//! What a plugin file is found to be, and by whom that is asked for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidegate_contract::PluginInfo;
use tidegate_signatures::Signer;
use tidegate_sources::folder::PluginStamp;

/// A plugin version that passed examination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// What the proxy must know of it.
    pub info: PluginInfo,
    /// Compiled code.
    pub artifact: PathBuf,
    /// Whose it is, if it is signed by somebody the node believes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Signer>,
}

/// The outcome of examining one version of a plugin file.
#[derive(Debug)]
pub struct Examination {
    /// The file.
    pub path: PathBuf,
    /// The version that was examined.
    pub stamp: PluginStamp,
    /// A plugin ready to be published, or why not.
    pub outcome: Result<Candidate, String>,
}

/// What the owner of control must do next; the answer comes back as an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Examine a plugin file: [`Examination`].
    Examine(PathBuf, PluginStamp),
    /// Compile a plugin of this program.
    BuiltIn(String),
}
