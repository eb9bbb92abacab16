//! Kernel and proxy as control sees them.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use tidegate_contract::{ProxyStats, Snapshot};
use tidegate_control::sinks::{Sinks, Status};
use tidegate_datapath::{AttachReport, Clocks, Datapath, DatapathError};
use tidegate_policy::{NumbersInUse, compiled::Compiled};
use tidegate_supervisor::ProxySupervisor;
use tokio::{sync::watch, time::timeout};

use super::status;

/// The datapath, shared by those who publish and those who tend it. Every use is
/// short; none waits for anything but the kernel.
#[derive(Clone)]
pub(super) struct SharedDatapath(Arc<Mutex<Datapath>>);

impl SharedDatapath {
    pub(super) fn new(datapath: Datapath) -> Self {
        Self(Arc::new(Mutex::new(datapath)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Datapath> {
        // A panic while it was held left tables that the next publication mends.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches to what appeared and lets go of what is gone. True if anything changed.
    pub(super) fn attach_pending(&self) -> bool {
        match self.lock().attach_pending() {
            Ok(report) => {
                tell(&report);
                !report.is_unchanged()
            }
            Err(error) => {
                tracing::warn!(%error, "cannot attach to what appeared; tried again soon");
                false
            }
        }
    }

    /// Names of the bridges that were there when it last attached.
    pub(super) fn bridge_names(&self) -> Vec<String> {
        self.lock().bridge_names()
    }

    /// Looks whether the kernel's tables are what this agent wrote.
    pub(super) fn read_back(&self) {
        let mut datapath = self.lock();
        if let Err(error) = datapath.read_back() {
            tracing::warn!(%error, "cannot read the tables back");
        }
        for what in datapath.written_by_others() {
            tracing::error!("{what}");
        }
    }

    /// Forgets idle flows and learned addresses past their time.
    pub(super) fn expire(&self) {
        match self.lock().expire(Clocks::now()) {
            Ok(sweep) => tracing::debug!(?sweep, "expired"),
            Err(error) => tracing::warn!(%error, "cannot expire flows"),
        }
    }
}

fn tell(report: &AttachReport) {
    for place in &report.attached {
        tracing::info!("attached: {place}");
    }
    for what in &report.restored {
        tracing::error!("{what}, not by this agent; put back");
    }
    for place in &report.detached {
        tracing::info!("gone: {place}");
    }
}

/// How long the proxy may take to put a generation into use, a restart of it included.
const PROXY_TIMEOUT: Duration = Duration::from_secs(15);

/// Kernel and proxy.
pub(super) struct Node {
    pub(super) datapath: SharedDatapath,
    pub(super) proxy: Arc<ProxySupervisor>,
    pub(super) stats: watch::Receiver<ProxyStats>,
}

impl Sinks for Node {
    async fn publish_proxy(
        &mut self,
        snapshot: Snapshot,
        artifacts: BTreeMap<String, PathBuf>,
    ) -> anyhow::Result<Vec<(String, String)>> {
        let published = timeout(PROXY_TIMEOUT, self.proxy.publish(snapshot, artifacts))
            .await
            .with_context(|| format!("the proxy did not answer within {PROXY_TIMEOUT:?}"))??;
        Ok(published.refused)
    }

    fn too_much(&self, compiled: &Compiled) -> Option<String> {
        match self.datapath.lock().fits(compiled) {
            Err(error @ DatapathError::Full { .. }) => Some(error.to_string()),
            _ => None,
        }
    }

    fn publish_kernel(&mut self, generation: u32, compiled: &Compiled) -> anyhow::Result<()> {
        let report = self.datapath.lock().publish(generation, compiled)?;
        tracing::debug!(?report, "tables written");
        Ok(())
    }

    fn kernel_generation(&self) -> u32 {
        self.datapath.lock().generation()
    }

    fn numbers_in_use(&self) -> anyhow::Result<NumbersInUse> {
        Ok(self.datapath.lock().numbers_in_use()?)
    }

    fn status(&mut self) -> Status {
        let (datapath, not_ready) = status::datapath(&self.datapath.lock());
        Status {
            datapath,
            proxy: status::proxy(&self.proxy.status().borrow(), &self.stats.borrow()),
            not_ready,
        }
    }
}
