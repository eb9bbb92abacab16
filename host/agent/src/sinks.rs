//! Kernel and proxy as control sees them.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::Duration,
};

use anyhow::Context as _;
use tidegate_contract::Snapshot;
use tidegate_control::sinks::{Kernel, KernelStatus, Sinks};
use tidegate_datapath::{AttachReport, Audit, Clocks, Datapath, DatapathError, Reader};
use tidegate_policy::{
    NumbersInUse,
    compiled::{Compiled, Generation},
};
use tidegate_supervisor::ProxySupervisor;
use tokio::{task::spawn_blocking, time::timeout};

use super::status;

/// The datapath, shared by those who publish and those who tend it. Attaching to many
/// devices takes seconds, so nobody waits for it who has anything else to do.
#[derive(Clone)]
pub(super) struct SharedDatapath {
    datapath: Arc<Mutex<(Datapath, Looks)>>,
    tables: Reader,
}

/// How often somebody looked how the datapath is doing.
type Looks = u64;

impl SharedDatapath {
    pub(super) fn new(datapath: Datapath) -> Self {
        let tables = datapath.reader();
        Self {
            datapath: Arc::new(Mutex::new((datapath, 0))),
            tables,
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Datapath, Looks)> {
        // A panic while it was held left tables that the next publication mends.
        self.datapath.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches to what appeared and lets go of what is gone, and says how it is then.
    pub(super) fn attach_pending(&self) -> KernelStatus {
        attach(&mut self.lock())
    }

    /// Looks for what changes without news; says how it is then, if anything did.
    pub(super) fn audit(&self) -> Option<KernelStatus> {
        let mut held = self.lock();
        match held.0.audit() {
            Audit::AsBefore => None,
            Audit::Tell => Some(look(&mut held)),
            Audit::Attach => Some(attach(&mut held)),
        }
    }

    /// Names of the bridges that were there when it last attached.
    pub(super) fn bridge_names(&self) -> Vec<String> {
        self.lock().0.bridge_names()
    }

    /// Looks whether the kernel's tables are what this agent wrote.
    pub(super) fn read_back(&self) -> KernelStatus {
        let mut held = self.lock();
        if let Err(error) = held.0.read_back() {
            tracing::warn!(%error, "cannot read the tables back");
        }
        for what in held.0.written_by_others() {
            tracing::error!("{what}");
        }
        look(&mut held)
    }

    /// Forgets idle flows and learned addresses past their time.
    pub(super) fn expire(&self) -> KernelStatus {
        let mut held = self.lock();
        match held.0.expire(Clocks::now()) {
            Ok(sweep) => tracing::debug!(?sweep, "expired"),
            Err(error) => tracing::warn!(%error, "cannot expire flows"),
        }
        look(&mut held)
    }

    fn publish(
        &self,
        generation: Generation,
        compiled: &Compiled,
        other_sources: bool,
    ) -> Result<KernelStatus, DatapathError> {
        let mut held = self.lock();
        // Whoever is asked in between may believe that something is missing, never the reverse.
        if other_sources {
            held.0.set_other_sources(true)?;
        }
        let report = held.0.publish(generation, compiled)?;
        if !other_sources {
            held.0.set_other_sources(false)?;
        }
        tell(&report.attach);
        tracing::debug!(?report, "tables written");
        Ok(look(&mut held))
    }
}

fn attach(held: &mut (Datapath, Looks)) -> KernelStatus {
    match held.0.attach_pending() {
        Ok(report) => tell(&report),
        Err(error) => tracing::warn!(%error, "cannot attach to what appeared; tried again soon"),
    }
    look(held)
}

fn look((datapath, looks): &mut (Datapath, Looks)) -> KernelStatus {
    *looks += 1;
    let (view, not_ready) = status::datapath(datapath);
    KernelStatus {
        look: *looks,
        datapath: view,
        not_ready,
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

impl Kernel for SharedDatapath {
    fn too_much(&self, compiled: &Compiled) -> Option<String> {
        let mut held = match self.datapath.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // It attaches to something: that may take longer than control may wait.
            Err(TryLockError::WouldBlock) => return None,
        };
        match held.0.fits(compiled) {
            Err(error @ DatapathError::Full { .. }) => Some(error.to_string()),
            _ => None,
        }
    }

    fn generation(&self) -> Generation {
        self.tables.generation()
    }

    fn has_other_sources(&self) -> bool {
        self.tables.has_other_sources()
    }

    fn numbers_in_use(&self) -> anyhow::Result<NumbersInUse> {
        Ok(self.lock().0.numbers_in_use()?)
    }
}

/// How long the proxy may take to put a generation into use, a restart of it included.
const PROXY_TIMEOUT: Duration = Duration::from_secs(15);

/// Kernel and proxy.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) datapath: SharedDatapath,
    pub(super) proxy: Arc<ProxySupervisor>,
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

    async fn publish_kernel(
        &mut self,
        generation: Generation,
        compiled: Arc<Compiled>,
        other_sources: bool,
    ) -> anyhow::Result<KernelStatus> {
        let datapath = self.datapath.clone();
        let publish =
            spawn_blocking(move || datapath.publish(generation, &compiled, other_sources));
        Ok(publish.await.context("write the tables")??)
    }
}
