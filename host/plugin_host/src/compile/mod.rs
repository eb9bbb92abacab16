//! Compiling a stranger's file, in a process of its own: `tidegate compile-plugin`
//! reads a component from standard input and writes a report and the compiled code to
//! standard output. The agent itself never parses a plugin.

mod confine;
mod job;
mod worker;

pub(super) use job::{Job, JobError, LONGEST};
use serde::{Deserialize, Serialize};
use tidegate_contract::World;
pub use worker::run;

use super::manifest::Manifest;

/// Largest plugin file, bytes.
pub(super) const COMPONENT: usize = 32 << 20;
/// Largest compiled plugin, bytes.
const ARTIFACT: usize = 256 << 20;

/// What the worker found out; compiled code follows it if it is `Ok`.
type Report = Result<Inspection, String>;

/// A component, looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Inspection {
    /// World it targets.
    pub(super) world: World,
    /// Host interfaces it imports.
    pub(super) imports: Vec<String>,
    /// Its own statement.
    pub(super) manifest: Manifest,
}
