//! Where a generation goes. Two places, one order: the proxy learns the rule sets
//! first, then the kernel flips, so a flow never carries a rule set the proxy lacks.

use std::{collections::BTreeMap, path::PathBuf};

use tidegate_contract::Snapshot;
use tidegate_policy::{NumbersInUse, compiled::Compiled};

use super::view::{DatapathView, ProxyView};

/// The kernel and the proxy, as control sees them.
pub trait Sinks: Send {
    /// Hands a snapshot to the proxy and waits until it is in use. `artifacts` are the
    /// files of compiled code by digest. Returns the plugins it refused, and why: the
    /// version before stays in use.
    fn publish_proxy(
        &mut self,
        snapshot: Snapshot,
        artifacts: BTreeMap<String, PathBuf>,
    ) -> impl Future<Output = anyhow::Result<Vec<(String, String)>>> + Send;

    /// Would the tables hold this? The reason if not, in words an operator can act on.
    /// `None` also if that cannot be found out now: writing finds it out again.
    fn too_much(&self, compiled: &Compiled) -> Option<String>;

    /// Writes the tables and flips. An error means that nothing was flipped.
    fn publish_kernel(&mut self, generation: u32, compiled: &Compiled) -> anyhow::Result<()>;

    /// Generation the kernel decides with; 0 if it never had one.
    fn kernel_generation(&self) -> u32;

    /// The numbers the kernel goes by.
    fn numbers_in_use(&self) -> anyhow::Result<NumbersInUse>;

    /// How both are doing.
    fn status(&mut self) -> Status;
}

/// How kernel and proxy are doing.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The kernel side.
    pub datapath: DatapathView,
    /// The proxy.
    pub proxy: ProxyView,
    /// Endpoints that are not in force, by name, and why.
    pub not_ready: BTreeMap<String, String>,
}
