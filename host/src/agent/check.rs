//! What an agent with this configuration would make of its folders: the same control over
//! sinks that take everything and keep nothing. The node is not touched.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::SystemTime};

use anyhow::Context as _;
use tidegate_policy::{NumbersInUse, compiled::Compiled};

use super::{
    plugins::{candidate, examine},
    settings, sources,
};
use crate::{
    config::Config,
    control::{
        event::{Event, Request},
        folder::{QUIET, Scanner},
        sinks::{Sinks, Status},
        state::Control,
        store::Store,
        view::View,
    },
    plugin_host::{PluginStore, StoreOptions},
    proxy::contract::Snapshot,
};

/// How often files that are being written are waited for.
const PATIENCE: usize = 50;

/// Reads the folders, examines the plugins and compiles everything, as the agent would.
///
/// # Errors
///
/// If that cannot be tried here; what is wrong with the files is in the answer.
pub fn check(config: &Config) -> anyhow::Result<Arc<View>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(dry_run(config))
}

async fn dry_run(config: &Config) -> anyhow::Result<Arc<View>> {
    let state = tempfile::tempdir().context("make a folder for what is compiled")?;
    let plugins = PluginStore::new(StoreOptions::new(state.path().join("plugins")))?;
    let built_in = plugins.builtin().await?.into_iter().map(candidate);
    let store = Store::open(state.path())?;
    // What is in force already, so that newcomers and emptied files are told as the agent
    // would. Read only; whoever may not read it checks the files as if they were new.
    let past = Store::at(&config.node.state_dir).past().unwrap_or_default();
    let mut control =
        Control::with_past(settings(config), Nowhere, store, built_in.collect(), past)?;
    let addresses = sources::node_addresses(&config.node.addresses);
    control.apply(Event::NodeAddresses(addresses));
    control.apply(Event::NodeDevices(sources::node_devices(config)));

    let mut scanner = Scanner::new(&config.folders);
    for _ in 0..PATIENCE {
        if !scanner.scan(SystemTime::now()).unsettled {
            break;
        }
        tokio::time::sleep(QUIET).await;
    }
    let scan = scanner.scan(SystemTime::now()).clone();
    for Request::Examine(path, stamp) in control.apply(Event::Scanned(scan)) {
        control.apply(examine(&plugins, path, stamp).await);
    }
    control.settle().await;
    Ok(control.view().borrow().clone())
}

/// No kernel and no proxy.
struct Nowhere;

impl Sinks for Nowhere {
    async fn publish_proxy(
        &mut self,
        _snapshot: Snapshot,
        _artifacts: BTreeMap<String, PathBuf>,
    ) -> anyhow::Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    fn too_much(&self, _compiled: &Compiled) -> Option<String> {
        None
    }

    fn publish_kernel(&mut self, _generation: u32, _compiled: &Compiled) -> anyhow::Result<()> {
        Ok(())
    }

    fn kernel_generation(&self) -> u32 {
        0
    }

    fn numbers_in_use(&self) -> anyhow::Result<NumbersInUse> {
        Ok(NumbersInUse::default())
    }

    fn status(&mut self) -> Status {
        Status::default()
    }
}
