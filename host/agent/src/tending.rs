//! Tends the datapath beside everything else: attaches to what appears, audits, expires. It
//! goes by what the kernel tells; what the kernel does not tell is looked for now and then.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tidegate_config::Config;
use tidegate_control::{
    event::{Event, NodeDevices},
    sinks::KernelStatus,
};
use tokio::{
    sync::mpsc,
    task::{JoinError, spawn_blocking},
    time::{Interval, MissedTickBehavior, interval, interval_at},
};

use super::{sinks::SharedDatapath, sources};

/// How often what changes without news is looked for.
const AUDIT: Duration = Duration::from_secs(1);
/// How often idle flows and expired addresses are swept.
const SWEEP: Duration = Duration::from_secs(10);
/// How often everything is looked at even if there are no news of it, and what could not be
/// done is tried again.
const RECHECK: Duration = Duration::from_secs(30);

/// What the rest of the agent asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Look whether the kernel's tables are what this agent wrote.
    ReadBack,
}

/// Tends the datapath.
pub(super) struct Tending {
    datapath: SharedDatapath,
    config: Arc<Config>,
    events: mpsc::Sender<Event>,
    told: (Vec<IpAddr>, NodeDevices),
}

impl Tending {
    /// `told`: what control knows already of the node's addresses and devices.
    pub(super) fn new(
        datapath: SharedDatapath,
        config: Arc<Config>,
        events: mpsc::Sender<Event>,
        told: (Vec<IpAddr>, NodeDevices),
    ) -> Self {
        Self {
            datapath,
            config,
            events,
            told,
        }
    }

    /// Until nobody asks for anything any more.
    ///
    /// # Errors
    ///
    /// If a round panicked.
    pub(super) async fn run(
        mut self,
        mut asked: mpsc::Receiver<Ask>,
        mut news: mpsc::Receiver<()>,
    ) -> anyhow::Result<()> {
        let (mut audit, mut sweep) = (every(AUDIT), every(SWEEP));
        let mut recheck = interval_at(tokio::time::Instant::now() + RECHECK, RECHECK);
        recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // In this order: a new device waits for nothing but the sweep, and news that
                // never end hold up only what a look at everything does as well.
                biased;
                ask = asked.recv() => match ask {
                    Some(Ask::ReadBack) => self.with(|it| Some(it.read_back())).await?,
                    None => return Ok(()),
                },
                _ = sweep.tick() => self.with(|it| Some(it.expire())).await?,
                Some(()) = news.recv() => self.look_at_all().await?,
                _ = audit.tick() => self.with(SharedDatapath::audit).await?,
                _ = recheck.tick() => self.look_at_all().await?,
            }
        }
    }

    /// Does something to the datapath, off the threads that serve others, and tells what came
    /// of it. Nobody listens while the agent ends.
    async fn with(
        &self,
        work: impl FnOnce(&SharedDatapath) -> Option<KernelStatus> + Send + 'static,
    ) -> Result<(), JoinError> {
        let datapath = self.datapath.clone();
        if let Some(status) = spawn_blocking(move || work(&datapath)).await? {
            let _ = self.events.send(Event::Kernel(status)).await;
        }
        Ok(())
    }

    async fn look_at_all(&mut self) -> Result<(), JoinError> {
        self.with(|datapath| Some(datapath.attach_pending()))
            .await?;
        let (datapath, config) = (self.datapath.clone(), self.config.clone());
        let node = move || {
            let addresses = sources::node_addresses(&config.node.addresses);
            let devices = sources::node_devices(&config, datapath.bridge_names());
            (addresses, devices)
        };
        let (addresses, devices) = spawn_blocking(node).await?;
        if addresses != self.told.0 {
            self.told.0.clone_from(&addresses);
            let _ = self.events.send(Event::NodeAddresses(addresses)).await;
        }
        if devices != self.told.1 {
            self.told.1 = devices.clone();
            let _ = self.events.send(Event::NodeDevices(devices)).await;
        }
        Ok(())
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
