//! The owner of desired state. Events come in, one generation at a time goes out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use tidegate_contract::{Reject, Snapshot};
use tidegate_observe::directory::Directory;
use tidegate_policy::{Ids, Input, Mode, Problem, Severity, compile, compiled::Compiled, lint};
use tokio::sync::watch;

use super::{
    bindings::{self, Bindings},
    documents::{Documents, Keep, Past},
    event::{Event, NodeDevices, Request},
    folder::folder_of,
    misplaced::{misplaced, outside},
    plugins::{Candidate, Plugins, printable},
    problems::Problems,
    readers,
    sinks::{Sinks, Status},
    store::Store,
    view::View,
};

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Node name.
    pub node: String,
    /// When an endpoint is restricted.
    pub mode: Mode,
    /// Denials are only reported.
    pub audit: bool,
    /// Lower bound of a learned address's life, seconds.
    pub fqdn_min_ttl: u32,
    /// How a query for a name that no rule allows is answered.
    pub reject: Reject,
}

/// The owner of desired state.
pub struct Control<S> {
    settings: Settings,
    sinks: S,
    store: Store,
    ids: Ids,
    documents: Documents,
    plugins: Plugins,
    bindings: Bindings,
    node_addresses: Vec<IpAddr>,
    node_devices: NodeDevices,
    problems: Problems,
    published: Option<Published>,
    /// Something changed since the last attempt to publish.
    dirty: bool,
    /// The last attempt failed for a reason that time may cure: when to try again.
    retry: Option<Instant>,
    /// How long to wait after the next failure.
    patience: Duration,
    /// The folders were looked at once; before that nothing is published, or a restart
    /// would begin with an empty generation.
    scanned: bool,
    /// Until when the first generation waits for plugins to be examined.
    first_wait: Option<Instant>,
    status: Status,
    view: watch::Sender<Arc<View>>,
    started_s: u64,
}

/// A failed publication is tried again at once, then after this wait, doubled each time:
/// what stays broken costs nothing.
const RETRY: Duration = Duration::from_secs(1);
/// Longest such wait.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// How long the first generation waits for plugins that were never seen before. Those of
/// an earlier run are compiled already; policy must not wait for one that takes a minute.
const FIRST_WAIT: Duration = Duration::from_secs(3);

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
        let past = store.past()?;
        Self::with_past(settings, sinks, store, built_in, past)
    }

    /// As [`Control::new`], with what an earlier run left in another place.
    pub fn with_past(
        settings: Settings,
        sinks: S,
        store: Store,
        built_in: Vec<Candidate>,
        past: Past,
    ) -> anyhow::Result<Self> {
        let started_s = seconds_now();
        let mut first = View {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: settings.node.clone(),
            started_s,
            ..View::default()
        };
        first.not_ready = first.obstacles();
        let (view, _) = watch::channel(Arc::new(first));
        let mut ids = past.ids.clone();
        ids.stay_clear_of(
            &sinks
                .numbers_in_use()
                .context("read the kernel's numbers")?,
        );
        Ok(Self {
            ids,
            documents: Documents::new(&past),
            plugins: Plugins::new(built_in, past.plugins),
            bindings: Bindings::new(past.bindings),
            settings,
            sinks,
            store,
            node_addresses: Vec::new(),
            node_devices: NodeDevices::default(),
            problems: Problems::default(),
            published: None,
            dirty: true,
            retry: None,
            patience: Duration::ZERO,
            scanned: false,
            first_wait: None,
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
                self.first_wait
                    .get_or_insert_with(|| Instant::now() + FIRST_WAIT);
                let gone = self.documents.update(&scan);
                let held = self.documents.held();
                self.problems.folders(held, &scan, seconds_now());
                for name in gone {
                    tracing::info!(
                        file = name,
                        "the file was removed, and what it said with it"
                    );
                    self.keep(Keep::Forget(name));
                }
                if let Err(error) = self.store.save_origins(self.documents.origins()) {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "cannot keep which folders the files came from"
                    );
                }
                self.dirty = true;
                // Of a folder that is not there nothing is known.
                if !scan.unreadable.contains_key("plugins") {
                    return self.plugins.update(&scan.plugins, &scan.plugins_elsewhere);
                }
            }
            Event::Examined(examination) => {
                match &examination.outcome {
                    Ok(plugin) => tracing::info!(
                        plugin = plugin.name,
                        version = plugin.info.version,
                        file = printable(&examination.path),
                        "plugin examined and compiled"
                    ),
                    Err(reason) => tracing::warn!(
                        file = printable(&examination.path),
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
            Event::NodeDevices(devices) => {
                // What is in force stays; only what was refused for it gets another chance.
                self.dirty |= devices != self.node_devices;
                self.node_devices = devices;
            }
            Event::NotExamined {
                path,
                stamp,
                reason,
            } => {
                tracing::warn!(file = printable(&path), reason, "plugin not examined");
                self.plugins
                    .not_examined(&path, stamp, &reason, Instant::now());
                self.dirty = true;
            }
            Event::Tick => {
                self.dirty |= self.retry.is_some_and(|at| at <= Instant::now());
                return self.plugins.due(Instant::now());
            }
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
        let patient = self.first_wait.is_some_and(|until| Instant::now() < until);
        let first = self.published.is_none();
        let waiting = !self.scanned || (first && patient && self.plugins.pending());
        if self.dirty && !waiting {
            self.dirty = false;
            self.retry = None;
            if let Err(error) = self.publish().await {
                self.retry = Some(Instant::now() + self.patience);
                self.patience = (2 * self.patience).clamp(RETRY, LONGEST_RETRY);
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
        let (plugins, mut artifacts) = self.plugin_set();
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
            reject: self.settings.reject,
            audit: self.settings.audit,
            outward: compiled.outward(),
            ..Snapshot::default()
        };
        // Until the kernel flips, flows still carry rule sets of the generation before;
        // ids are content-addressed, so both can be known at once.
        if let Some(before) = before {
            for (id, set) in &before.compiled.l7 {
                snapshot.l7.entry(*id).or_insert_with(|| set.clone());
            }
        }
        snapshot.remembered =
            self.bindings
                .remembered(&snapshot.l7, &snapshot.plugins, &mut artifacts);
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
        let now = seconds_now();
        let enforced = self.sinks.kernel_generation();
        let unknown = self.documents.unknown(enforced != 0);
        if self.published.is_none() && enforced != 0 && !unknown.is_empty() {
            let message = format!(
                "{}: nothing usable is left of what may have been in force, so the kernel \
                 keeps generation {enforced} as it is, and no change takes effect; mend these or \
                 bring their files back, delete files to remove what they said, or begin anew \
                 after `tidegate cleanup`",
                joined(unknown)
            );
            self.problems.documents(&self.documents, &[], now);
            self.problems.unknown(Some(message), now);
            return None;
        }
        let mut closed = self.documents.unknown(false).into_iter().any(is_policy);
        let mut settled = self.settle_documents(ids, closed);
        // Rules that were in force and fit no more must not leave open what they closed.
        if settled.is_ok() && !closed && self.documents.left_out().any(is_policy) {
            closed = true;
            settled = self.settle_documents(ids, closed);
        }
        let message = closed.then(|| {
            format!(
                "{}: nothing usable is left of what may have been in force, so every endpoint is \
                 in default deny both ways; mend these, or delete them to remove what they said",
                joined(
                    self.documents
                        .unknown(false)
                        .into_iter()
                        .chain(self.documents.left_out())
                )
            )
        });
        self.problems.unknown(message, now);
        match settled {
            Ok((compiled, warnings)) => {
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

    /// Lets files step back until the rest compiles and fits. `closed`: every endpoint is
    /// in default deny.
    fn settle_documents(
        &mut self,
        ids: &mut Ids,
        closed: bool,
    ) -> Result<(Compiled, Vec<Problem>), Vec<Problem>> {
        let base = Input {
            node_addresses: self.node_addresses.clone(),
            plugins: self.plugins.known(),
            mode: match self.settings.mode {
                Mode::Default if closed => Mode::Always,
                mode => mode,
            },
            ..Input::default()
        };
        let before = self.ids.clone();
        let sinks = &self.sinks;
        let devices = &self.node_devices;
        let mut warnings = Vec::new();
        // What runs in the kernel is not taken away for lack of understanding.
        let may_drop = self.published.is_none() && sinks.kernel_generation() == 0;
        let compiled = self.documents.settle(
            may_drop,
            |document| misplaced(document, devices, &base.node_addresses),
            |documents| {
                let mut input = base.clone();
                documents
                    .into_iter()
                    .for_each(|document| input.add(document));
                // A failed attempt must leave no numbers behind.
                *ids = before.clone();
                let compiled = compile(&input, ids)?;
                if let Some(why) = sinks.too_much(&compiled) {
                    return Err(vec![of_no_file(why)]);
                }
                warnings = lint(&input);
                Ok(compiled)
            },
        )?;
        let in_use = self.documents.in_use();
        warnings.extend(in_use.flat_map(|document| outside(document, devices)));
        Ok((compiled, warnings))
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
        self.patience = Duration::ZERO;
        for keep in self.documents.commit() {
            self.keep(keep);
        }
        let homes = compiled.endpoints.iter();
        let homes = homes.map(|(id, e)| (*id, (e.name.clone(), e.location.clone())));
        if let Err(error) = self.store.save_homes(&homes.collect()) {
            tracing::warn!(
                error = format!("{error:#}"),
                "cannot keep where endpoints live"
            );
        }
        self.plugins.commit(&compiled);
        self.bindings.commit(&compiled);
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

    /// Compiled code that must not be lost: what is in force, what bindings may have to
    /// go back to, and what the next generation will bring.
    pub fn artifacts(&self) -> BTreeSet<std::path::PathBuf> {
        let published = self.published.iter().flat_map(|p| p.artifacts.values());
        published
            .cloned()
            .chain(self.bindings.artifacts())
            .chain(self.plugins.candidates().map(|c| c.artifact.clone()))
            .collect()
    }

    /// Takes in what bindings accepted.
    fn learn(&mut self) {
        let Some(published) = &self.published else {
            return;
        };
        let stats = &self.status.proxy.stats;
        let news = self
            .bindings
            .learn(stats, &published.snapshot, &published.artifacts);
        if news && let Err(error) = self.store.save_bindings(&self.bindings.kept()) {
            tracing::warn!(
                error = format!("{error:#}"),
                "cannot keep what bindings accepted for the next start"
            );
        }
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
        self.learn();
        let published = self.published.as_ref();
        let refusals = published.map(|published| {
            let stats = &self.status.proxy.stats.bindings;
            let what = (&*published.compiled, &published.snapshot);
            bindings::refusals(stats, what, self.documents.in_use())
        });
        let refusals = refusals.unwrap_or_default();
        self.problems.bindings(&refusals, seconds_now());
        let compiled = self
            .published
            .as_ref()
            .map(|published| published.compiled.clone())
            .unwrap_or_default();
        let mut view = View {
            not_ready: Vec::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.settings.node.clone(),
            started_s: self.started_s,
            generation: self
                .published
                .as_ref()
                .map_or(0, |published| published.generation),
            proxy_generation: self.status.proxy.stats.generation,
            policy_mode: match (self.settings.audit, self.settings.mode) {
                (true, _) => "audit",
                (false, Mode::Default) => "default",
                (false, Mode::Always) => "always",
                (false, Mode::Never) => "never",
            }
            .to_owned(),
            endpoints: readers::endpoints(&compiled, &self.documents, &self.status.not_ready),
            identities: compiled.identities.clone(),
            services: readers::services(&compiled, &self.status.not_ready),
            policies: readers::policies(&compiled, &self.documents),
            plugins: self.plugins.view(&compiled),
            bindings: bindings::view(&self.status.proxy.stats.bindings, &compiled),
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
        view.not_ready = view.obstacles();
        self.view.send_replace(Arc::new(view));
    }
}

type PluginSet = BTreeMap<String, tidegate_contract::PluginInfo>;

fn seconds_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}

/// Names for people, each once.
fn joined<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: BTreeSet<&str> = names.into_iter().collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// Is it a file of policies, deny lists or bindings, or their folder?
fn is_policy(name: &str) -> bool {
    folder_of(name) == "policies"
}

fn of_no_file(message: String) -> Problem {
    Problem {
        file: String::new(),
        document: None,
        line: 0,
        column: 0,
        field: String::new(),
        value: None,
        message,
        hint: None,
        severity: Severity::Error,
    }
}
