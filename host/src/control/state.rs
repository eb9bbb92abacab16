//! The owner of desired state. Events come in, one generation at a time goes out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use tidegate_policy::{Ids, Input, Mode, Problem, compile, compiled::Compiled, lint};
use tokio::sync::watch;

use super::{
    documents::{Documents, Keep},
    event::{Event, Request},
    plugins::{Candidate, Plugins},
    problems::Problems,
    readers,
    sinks::{Sinks, Status},
    store::Store,
    view::View,
};
use crate::{observe::directory::Directory, proxy::contract::Snapshot};

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Node name.
    pub node: String,
    /// When an endpoint is restricted.
    pub mode: Mode,
    /// Lower bound of a learned address's life, seconds.
    pub fqdn_min_ttl: u32,
}

/// The owner of desired state.
pub struct Control<S> {
    settings: Settings,
    sinks: S,
    store: Store,
    ids: Ids,
    documents: Documents,
    plugins: Plugins,
    node_addresses: Vec<IpAddr>,
    problems: Problems,
    published: Option<Published>,
    /// Something changed since the last attempt to publish.
    dirty: bool,
    /// The last attempt failed for a reason that time may cure.
    retry: bool,
    /// The folders were looked at once; before that nothing is published, or a restart
    /// would begin with an empty generation.
    scanned: bool,
    status: Status,
    view: watch::Sender<Arc<View>>,
    started_s: u64,
}

/// The generation in force.
struct Published {
    generation: u32,
    compiled: Arc<Compiled>,
    snapshot: Snapshot,
    artifacts: BTreeMap<String, std::path::PathBuf>,
    directory: Arc<Directory>,
}

impl<S: Sinks> Control<S> {
    /// Picks up where the state folder says the last run ended.
    pub fn new(
        settings: Settings,
        sinks: S,
        store: Store,
        built_in: Vec<Candidate>,
    ) -> anyhow::Result<Self> {
        let started_s = seconds_now();
        let (view, _) = watch::channel(Arc::new(View {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: settings.node.clone(),
            started_s,
            ..View::default()
        }));
        Ok(Self {
            ids: store.ids()?,
            documents: Documents::new(store.last_good()?),
            plugins: Plugins::new(built_in, store.plugins()?),
            settings,
            sinks,
            store,
            node_addresses: Vec::new(),
            problems: Problems::default(),
            published: None,
            dirty: true,
            retry: false,
            scanned: false,
            status: Status::default(),
            view,
            started_s,
        })
    }

    /// What readers see, always the newest.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Takes in one event. Nothing is published before [`Control::settle`], so that
    /// events that arrive together become one generation.
    pub fn apply(&mut self, event: Event) -> Vec<Request> {
        match event {
            Event::Scanned(scan) => {
                self.scanned = true;
                self.problems.folders(&scan.unreadable, seconds_now());
                for name in self.documents.update(&scan.documents) {
                    self.keep(Keep::Forget(name));
                }
                self.dirty = true;
                return self.plugins.update(&scan.plugins);
            }
            Event::Examined(examination) => {
                match &examination.outcome {
                    Ok(plugin) => tracing::info!(
                        plugin = plugin.name,
                        version = plugin.info.version,
                        file = %examination.path.display(),
                        "plugin examined and compiled"
                    ),
                    Err(reason) => tracing::warn!(
                        file = %examination.path.display(),
                        reason,
                        "plugin refused; the version before stays in use"
                    ),
                }
                self.plugins.examined(examination);
                self.dirty = true;
            }
            Event::NodeAddresses(addresses) => {
                self.dirty |= addresses != self.node_addresses;
                self.node_addresses = addresses;
            }
            Event::Tick => self.dirty |= self.retry,
            Event::StatusChanged => {}
        }
        Vec::new()
    }

    /// Publishes what changed, as one generation, and tells the readers.
    ///
    /// A generation that fails anywhere is given up everywhere; the one before stays
    /// in force and the reason is among the problems.
    pub async fn settle(&mut self) {
        // A first generation without the plugins of the last run would refuse their traffic.
        let waiting = !self.scanned || (self.published.is_none() && self.plugins.pending());
        if self.dirty && !waiting {
            self.dirty = false;
            self.retry = false;
            if let Err(error) = self.publish().await {
                self.retry = true;
                tracing::error!(
                    error = format!("{error:#}"),
                    "generation given up; the one before stays in force"
                );
                self.problems
                    .generation(Some(format!("{error:#}")), seconds_now());
            }
        }
        self.refresh();
    }

    async fn publish(&mut self) -> anyhow::Result<()> {
        let mut ids = self.ids.clone();
        let Some(compiled) = self.compile(&mut ids) else {
            return Ok(());
        };
        let (plugins, artifacts) = self.plugin_set();
        let unchanged = self.published.as_ref().is_some_and(|published| {
            *published.compiled == compiled && published.snapshot.plugins == plugins
        });
        if unchanged {
            self.problems.generation(None, seconds_now());
            return Ok(());
        }
        // Before anything that uses the numbers is published.
        self.store.save_ids(&ids)?;
        self.ids = ids;

        let before = self.published.as_ref();
        let generation = 1 + self
            .sinks
            .kernel_generation()
            .max(before.map_or(0, |published| published.generation));
        let mut snapshot = Snapshot {
            generation,
            l7: compiled.l7.clone(),
            identities: compiled.identities.clone(),
            fqdn: compiled.fqdn.clone(),
            plugins,
            fqdn_min_ttl: self.settings.fqdn_min_ttl,
        };
        // Until the kernel flips, flows still carry rule sets of the generation before;
        // ids are content-addressed, so both can be known at once.
        if let Some(before) = before {
            for (id, set) in &before.compiled.l7 {
                snapshot.l7.entry(*id).or_insert_with(|| set.clone());
            }
        }
        let refused = self
            .sinks
            .publish_proxy(snapshot.clone(), artifacts.clone())
            .await
            .context("hand the generation to the proxy")?;
        if let Err(error) = self.sinks.publish_kernel(generation, &compiled) {
            self.take_back().await;
            return Err(error.context("write the generation to the kernel"));
        }
        for (name, reason) in &refused {
            tracing::warn!(
                plugin = name,
                reason,
                "the proxy refused the plugin; the version before stays in use"
            );
            self.plugins.refused(name, reason);
        }
        snapshot.plugins = self.plugin_set().0;
        self.commit(generation, compiled, snapshot, artifacts);
        Ok(())
    }

    /// One generation from everything that can be used; `None`, with the problems
    /// noted, if the result must not be published.
    fn compile(&mut self, ids: &mut Ids) -> Option<Compiled> {
        let base = Input {
            node_addresses: self.node_addresses.clone(),
            plugins: self.plugins.known(),
            mode: self.settings.mode,
            ..Input::default()
        };
        let before = ids.clone();
        let mut warnings = Vec::new();
        let settled = self
            .documents
            .settle(self.published.is_none(), |documents| {
                let mut input = base.clone();
                documents
                    .into_iter()
                    .for_each(|document| input.add(document));
                // A failed attempt must leave no numbers behind.
                *ids = before.clone();
                let compiled = compile(&input, ids)?;
                warnings = lint(&input);
                Ok(compiled)
            });
        let now = seconds_now();
        match settled {
            Ok(compiled) => {
                self.problems.documents(&self.documents, &warnings, now);
                Some(compiled)
            }
            Err(problems) => {
                self.problems.documents(&self.documents, &problems, now);
                let files: BTreeSet<&str> =
                    problems.iter().map(|p: &Problem| p.file.as_str()).collect();
                let message = format!(
                    "files in force do not fit together any more ({}); the generation before stays in force",
                    files.into_iter().collect::<Vec<_>>().join(", ")
                );
                self.problems.generation(Some(message), now);
                None
            }
        }
    }

    fn plugin_set(&self) -> (PluginSet, BTreeMap<String, std::path::PathBuf>) {
        let candidates = || self.plugins.candidates();
        (
            candidates()
                .map(|c| (c.name.clone(), c.info.clone()))
                .collect(),
            candidates()
                .map(|c| (c.info.artifact.clone(), c.artifact.clone()))
                .collect(),
        )
    }

    /// Gives the proxy the generation in force again after the kernel refused the next.
    async fn take_back(&mut self) {
        let Some(before) = &self.published else {
            return;
        };
        let again = self
            .sinks
            .publish_proxy(before.snapshot.clone(), before.artifacts.clone());
        if let Err(error) = again.await {
            // Harmless: its rule sets are a superset; the next attempt replaces it.
            tracing::warn!(
                error = format!("{error:#}"),
                "the proxy keeps a generation the kernel refused"
            );
        }
    }

    fn commit(
        &mut self,
        generation: u32,
        compiled: Compiled,
        snapshot: Snapshot,
        artifacts: BTreeMap<String, std::path::PathBuf>,
    ) {
        for keep in self.documents.commit() {
            self.keep(keep);
        }
        self.plugins.commit(&compiled);
        if let Err(error) = self.store.save_plugins(&self.plugins.published()) {
            tracing::warn!(
                error = format!("{error:#}"),
                "cannot keep the plugin list for the next start"
            );
        }
        tracing::info!(
            generation,
            endpoints = compiled.endpoints.len(),
            rules = compiled.rules.len(),
            services = compiled.services.len(),
            plugins = snapshot.plugins.len(),
            "generation in force"
        );
        let before = self
            .published
            .as_ref()
            .map(|published| &*published.directory);
        let directory = Arc::new(Directory::new(&compiled, before));
        self.published = Some(Published {
            generation,
            compiled: Arc::new(compiled),
            snapshot,
            artifacts,
            directory,
        });
        self.problems.generation(None, seconds_now());
    }

    /// What is in force does not depend on it: a failure costs the next start's safety
    /// net only.
    fn keep(&self, keep: Keep) {
        let kept = match &keep {
            Keep::Save(name, text) => self.store.save_last_good(name, text),
            Keep::Forget(name) => self.store.forget_last_good(name),
        };
        if let Err(error) = kept {
            tracing::warn!(
                error = format!("{error:#}"),
                "cannot keep the last good version of a file"
            );
        }
    }

    fn refresh(&mut self) {
        self.status = self.sinks.status();
        let compiled = self
            .published
            .as_ref()
            .map(|published| published.compiled.clone())
            .unwrap_or_default();
        let view = View {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.settings.node.clone(),
            started_s: self.started_s,
            generation: self
                .published
                .as_ref()
                .map_or(0, |published| published.generation),
            proxy_generation: self.status.proxy.stats.generation,
            endpoints: readers::endpoints(&compiled, &self.status.not_ready),
            identities: compiled.identities.clone(),
            services: compiled.services.clone(),
            policies: readers::policies(&compiled, &self.documents),
            plugins: self.plugins.view(&compiled),
            problems: self.problems.view(),
            datapath: self.status.datapath.clone(),
            proxy: self.status.proxy.clone(),
            compiled,
            directory: self
                .published
                .as_ref()
                .map(|p| p.directory.clone())
                .unwrap_or_default(),
        };
        self.view.send_replace(Arc::new(view));
    }
}

type PluginSet = BTreeMap<String, crate::proxy::contract::PluginInfo>;

fn seconds_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
