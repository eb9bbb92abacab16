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
mod unknown;

use std::path::{Path, PathBuf};

pub use checked::Limits;
pub use checked::{
    Addresses, Config, Folders, Fqdn, Log, LogFormat, Metrics, Node, Place, Policy, PolicyMode,
    Proxy, ProxyUser, RejectResponseCode, Vendor, Written,
};
pub use error::{Complaint, ConfigError};

/// Reads and checks a configuration file. Relative paths in it are taken from the
/// file's own folder.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    look(path).usable()
}

/// What can be made of a file.
#[derive(Debug, Default)]
pub struct Looked {
    /// What it means; where something is wrong, with the default in its place. None if it
    /// cannot be read as a configuration at all.
    pub config: Option<Config>,
    /// What is wrong with it.
    pub error: Option<ConfigError>,
}

impl Looked {
    fn usable(self) -> Result<Config, ConfigError> {
        match (self.config, self.error) {
            (Some(config), None) => Ok(config),
            (_, error) => Err(error.unwrap_or_else(|| ConfigError::Invalid(Vec::new()))),
        }
    }
}

/// As [`load`], for those who want to know more than that something is wrong.
pub fn look(path: &Path) -> Looked {
    let raw = read(path);
    match raw {
        Ok((file, raw, folder)) => check::check(&file, raw, &folder),
        Err(error) => Looked {
            config: None,
            error: Some(error),
        },
    }
}

fn read(path: &Path) -> Result<(String, raw::RawConfig, PathBuf), ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let absolute = std::path::absolute(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    let file = path.display().to_string();
    let raw = raw::parse(&file, &text)?;
    Ok((file, raw, folder.to_owned()))
}

/// Parses and checks configuration text. `file` names it in errors, `folder` is what
/// relative paths are relative to.
pub fn parse(file: &str, text: &str, folder: &Path) -> Result<Config, ConfigError> {
    let raw = raw::parse(file, text)?;
    check::check(file, raw, folder).usable()
}

/// JSON Schema of the configuration file, for editors.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(raw::RawConfig).to_value()
}

#[cfg(test)]
mod tests;
