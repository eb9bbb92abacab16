//! `tidegate.yaml`: what was written ([`raw`]), what it means ([`checked`]), and the way
//! from one to the other ([`check`](mod@check)).
//!
//! Strict on purpose: a key nobody reads is an error with a suggestion, because a
//! misspelled setting that is silently ignored protects nothing. Reads one file,
//! never watches it: a changed configuration takes a restart, which loses no traffic.

mod check;
mod checked;
mod defaults;
mod error;
mod raw;

use std::path::Path;

pub use checked::Limits;
pub use checked::{
    Addresses, Config, Folders, Fqdn, Log, LogFormat, Metrics, Node, Policy, PolicyMode, Proxy,
    ProxyUser, RejectResponseCode, Vendor,
};
pub use error::{Complaint, ConfigError};

/// Reads and checks a configuration file. Relative paths in it are taken from the
/// file's own folder.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let absolute = std::path::absolute(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    parse(&path.display().to_string(), &text, folder)
}

/// Parses and checks configuration text. `file` names it in errors, `folder` is what
/// relative paths are relative to.
pub fn parse(file: &str, text: &str, folder: &Path) -> Result<Config, ConfigError> {
    let raw = raw::parse(file, text)?;
    check::check(file, raw, folder)
}

/// JSON Schema of the configuration file, for editors.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(raw::RawConfig).to_value()
}

#[cfg(test)]
mod tests;
