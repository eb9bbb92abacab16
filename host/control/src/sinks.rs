//! Kernel and proxy as control sees them: what it asks, and where a generation goes.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use tidegate_contract::Snapshot;
use tidegate_policy::{
    NumbersInUse,
    compiled::{Compiled, Generation},
};

use super::view::DatapathView;

/// What is asked of the kernel while a generation is made. No answer may take long: the
/// owner of desired state waits for it.
pub trait Kernel {
    /// Would the tables hold this? The reason if not, in words an operator can act on.
    /// `None` also if that cannot be found out now: writing finds it out again.
    fn too_much(&self, compiled: &Compiled) -> Option<String>;

    /// Generation the kernel decides with; 0 if it never had one.
    fn generation(&self) -> Generation;

    /// Was that generation made of documents of other sources than the operator's folders too?
    /// Known without anything on disk.
    fn has_other_sources(&self) -> bool;

    /// The numbers the kernel goes by.
    ///
    /// # Errors
    ///
    /// If its tables cannot be read.
    fn numbers_in_use(&self) -> anyhow::Result<NumbersInUse>;
}

/// Where a generation goes. Two places, one order: the proxy learns the rule sets first,
/// then the kernel flips, so a flow never carries a rule set the proxy lacks.
pub trait Sinks: Send {
    /// Hands a snapshot to the proxy and waits until it is in use. `artifacts` are the
    /// files of compiled code by digest. Returns the plugins it refused, and why: the
    /// version before stays in use.
    fn publish_proxy(
        &mut self,
        snapshot: Snapshot,
        artifacts: BTreeMap<String, PathBuf>,
    ) -> impl Future<Output = anyhow::Result<Vec<(String, String)>>> + Send;

    /// Writes the tables and flips, and says how the kernel side is then. An error means
    /// that nothing was flipped. `other_sources`: see [`Kernel::has_other_sources`].
    fn publish_kernel(
        &mut self,
        generation: Generation,
        compiled: Arc<Compiled>,
        other_sources: bool,
    ) -> impl Future<Output = anyhow::Result<KernelStatus>> + Send;
}

/// How the kernel side is doing, apart from what is counted.
#[derive(Clone, Debug, Default)]
pub struct KernelStatus {
    /// Which look this is: a later one has a larger number, whatever way it comes.
    pub look: u64,
    /// The kernel side.
    pub datapath: DatapathView,
    /// Endpoints that are not in force, by name, and why.
    pub not_ready: BTreeMap<String, String>,
}
