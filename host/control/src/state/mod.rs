//! The owner of desired state. Events come in, one generation at a time goes out.

mod publish;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use tidegate_contract::Reject;
use tidegate_observe::directory::Directory;
use tidegate_policy::{
    Compiler, Document, Ids, Linter, Mode, Origin, Source,
    compiled::{Compiled, Generation},
    shared::Map,
};
use tidegate_signatures::Trust;
use tidegate_sources::{
    Delta, News,
    folder::{FolderId, FolderSource, Origins, VENDOR},
};
use tokio::sync::watch;

use super::{
    bindings::{self, Bindings},
    documents::{Documents, Keep, Past},
    event::{Event, NodeDevices},
    identities::Allocator,
    plugins::{Candidate, Plugins, Request, printable},
    problems::{NamedAt, Problems},
    publication::{ForProxy, InForce, Outcome, Publication},
    readers::Rows,
    secrets::Secrets,
    sinks::{Kernel, KernelStatus, Sinks},
    store::Store,
    view::{ProxyView, View},
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
    /// Where it is written which folders there are; what is wrong with one is told there.
    pub folders: BTreeMap<Origin, NamedAt>,
    /// Whose plugin files are taken.
    pub trust: Trust,
}

/// The owner of desired state.
pub struct Control<K> {
    settings: Settings,
    kernel: K,
    store: Store,
    ids: Ids,
    identities: Box<dyn Allocator>,
    /// Why label sets have no number, if so.
    unnumbered: Option<anyhow::Error>,
    compiler: Compiler,
    linter: Linter,
    /// For what is written and not in force.
    set_aside: Linter,
    documents: Documents,
    /// Sources whose objects are files.
    folders: BTreeMap<Source, FolderSource>,
    plugins: Plugins,
    bindings: Bindings,
    secrets: Secrets,
    node_addresses: Vec<IpAddr>,
    node_devices: NodeDevices,
    problems: Problems,
    /// Sources that are not asked any more, and the way out.
    unnamed: BTreeMap<Source, String>,
    published: Option<Published>,
    /// A generation of which it is not known yet whether it is in force.
    on_its_way: Option<OnItsWay>,
    /// What happened to desired state meanwhile: it belongs to the next one.
    meanwhile: Vec<Event>,
    /// Something changed since the last attempt to publish.
    dirty: bool,
    /// The last attempt failed for a reason that time may cure: when to try again.
    retry: Option<Instant>,
    /// How long to wait after the next failure.
    patience: Duration,
    /// Sources that have not spoken yet; before that nothing is published, or a restart
    /// would begin with an empty generation.
    awaited: BTreeSet<Source>,
    /// Why the folder of plugins cannot be listed.
    no_plugins: Option<String>,
    /// Until when the first generation waits for plugins to be examined.
    first_wait: Option<Instant>,
    kernel_status: KernelStatus,
    proxy: ProxyView,
    rows: Rows,
    /// What was compiled last was looked at for mistakes.
    is_looked_through: bool,
    /// Readers have not been told of what changed.
    untold: bool,
    view: watch::Sender<Arc<View>>,
    started_s: u64,
    /// What the state folder has by now of what rarely changes.
    kept: Kept,
}

/// What was written to the state folder last, so that it is not written again.
#[derive(Default)]
struct Kept {
    origins: Option<BTreeMap<Origin, FolderId>>,
    plugins: Option<BTreeMap<PathBuf, Candidate>>,
    doubtful: Option<BTreeSet<Origin>>,
}

/// A failed publication is tried again at once, then after this wait, doubled each time:
/// what stays broken costs nothing.
const RETRY: Duration = Duration::from_secs(1);
/// Longest such wait.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The plugin that reads `rules.kafka`, which is compiled when first needed.
const KAFKA: &str = "kafka";

/// How long the first generation waits for plugins that were never seen before. Those of
/// an earlier run are compiled already; policy must not wait for one that takes a minute.
const FIRST_WAIT: Duration = Duration::from_secs(3);

/// The generation in force.
struct Published {
    generation: Generation,
    compiled: Arc<Compiled>,
    for_proxy: Arc<ForProxy>,
    other_sources: bool,
    directory: Arc<Directory>,
}

/// A generation that was given out to be published.
struct OnItsWay {
    generation: Generation,
    compiled: Arc<Compiled>,
    for_proxy: Arc<ForProxy>,
    other_sources: bool,
}

impl<K: Kernel> Control<K> {
    /// Picks up where the state folder says the last run ended. `identities` numbers label sets.
    pub fn new(
        settings: Settings,
        kernel: K,
        store: Store,
        built_in: Vec<Candidate>,
        identities: impl Allocator + 'static,
    ) -> anyhow::Result<Self> {
        let past = store.past()?;
        Self::with_past(settings, kernel, store, built_in, identities, past)
    }

    /// As [`Control::new`], with what an earlier run left in another place.
    pub fn with_past(
        settings: Settings,
        kernel: K,
        store: Store,
        built_in: Vec<Candidate>,
        identities: impl Allocator + 'static,
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
            &kernel
                .numbers_in_use()
                .context("read the kernel's numbers")?,
        );
        let documents = Documents::new(&past);
        let folders = folders(&past.origins);
        let plugins = Plugins::new(built_in, past.plugins, &settings.trust);
        let mut bindings = past.bindings;
        if settings.trust.required {
            // Whose they are was kept with the files alone.
            bindings.retain(|kept| plugins.has(kept.digest()));
        }
        Ok(Self {
            ids,
            identities: Box::new(identities),
            unnumbered: None,
            compiler: Compiler::default(),
            linter: Linter::default(),
            set_aside: Linter::default(),
            documents,
            unnamed: BTreeMap::new(),
            folders,
            plugins,
            bindings: Bindings::new(bindings),
            secrets: Secrets::default(),
            settings,
            kernel,
            store,
            node_addresses: Vec::new(),
            node_devices: NodeDevices::default(),
            problems: Problems::default(),
            published: None,
            on_its_way: None,
            meanwhile: Vec::new(),
            dirty: true,
            retry: None,
            patience: Duration::ZERO,
            awaited: [Source::folders(), Source::named(VENDOR)].into(),
            no_plugins: None,
            first_wait: None,
            kernel_status: KernelStatus::default(),
            proxy: ProxyView::default(),
            rows: Rows::default(),
            is_looked_through: true,
            untold: true,
            view,
            started_s,
            kept: Kept::default(),
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
            Event::Kernel(status) => self.kernel_is(status),
            Event::Proxy(proxy) => {
                self.untold |= self.proxy != proxy;
                self.proxy = proxy;
            }
            Event::Published(outcome) => {
                self.concluded(outcome);
                let meanwhile = std::mem::take(&mut self.meanwhile);
                let requests = meanwhile.into_iter().map(|event| self.desire(event));
                return requests.collect::<Vec<_>>().concat();
            }
            Event::Tick => {
                self.dirty |= self.retry.is_some_and(|at| at <= Instant::now());
                return self.plugins.due(Instant::now());
            }
            // Which of the files are in force is known when it is known what is.
            event if self.on_its_way.is_some() => self.meanwhile.push(event),
            event => return self.desire(event),
        }
        Vec::new()
    }

    fn kernel_is(&mut self, status: KernelStatus) {
        if status.look >= self.kernel_status.look {
            self.kernel_status = status;
            self.untold = true;
        }
    }

    fn concluded(&mut self, Outcome(result): Outcome) {
        let Some(on_its_way) = self.on_its_way.take() else {
            return;
        };
        self.untold = true;
        self.rows.stale = true;
        match result {
            Ok(InForce { refused, kernel }) => {
                self.kernel_is(kernel);
                self.commit(on_its_way, &refused);
            }
            Err(error) => self.given_up(&error),
        }
    }

    fn given_up(&mut self, error: &anyhow::Error) {
        self.retry = Some(Instant::now() + self.patience);
        self.patience = (2 * self.patience).clamp(RETRY, LONGEST_RETRY);
        tracing::error!(
            error = format!("{error:#}"),
            "generation given up; the one before stays in force"
        );
        self.problems
            .generation(Some(format!("{error:#}")), seconds_now());
    }

    /// Takes in what changes desired state.
    fn desire(&mut self, event: Event) -> Vec<Request> {
        match event {
            Event::Scanned(source, scan) => {
                let folders = self.folders.entry(source.clone());
                let folders =
                    folders.or_insert_with(|| FolderSource::new(source.clone(), BTreeMap::new()));
                let delta = self.documents.delta(folders, &scan);
                self.keep_origins();
                let own = source == Source::folders();
                if own {
                    self.no_plugins = scan.unreadable.get("plugins").cloned();
                }
                let mut requests = self.changed(&delta);
                // Of a folder that is not there nothing is known.
                if own && self.no_plugins.is_none() {
                    requests.extend(self.plugins.update(&scan.plugins, &scan.plugins_elsewhere));
                }
                return requests;
            }
            Event::Told(source, news) => {
                match &news {
                    News::Unnamed(why) => self.unnamed.insert(source.clone(), why.clone()),
                    _ => self.unnamed.remove(&source),
                };
                let delta = self.documents.news(source, news);
                return self.changed(&delta);
            }
            Event::Secrets(scan) => {
                self.secrets.look(scan);
                self.dirty = true;
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
            Event::BuiltIn(name, outcome) => {
                match &outcome {
                    Ok(_) => tracing::info!(plugin = name, "built-in plugin compiled"),
                    Err(reason) => tracing::error!(
                        plugin = name,
                        reason,
                        "built-in plugin not compiled; rules that need it refuse"
                    ),
                }
                self.plugins.has_come(&name, outcome.ok());
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
            Event::Kernel(_) | Event::Proxy(_) | Event::Published(_) | Event::Tick => {}
        }
        Vec::new()
    }

    /// Takes in what changed of what a source says.
    fn changed(&mut self, delta: &Delta) -> Vec<Request> {
        self.awaited.remove(&delta.source);
        if self.awaited.is_empty() {
            self.first_wait
                .get_or_insert_with(|| Instant::now() + FIRST_WAIT);
        }
        let gone = self.documents.update(delta);
        let plugins = self.no_plugins.as_ref();
        self.problems.folders(
            &self.documents,
            plugins,
            &self.settings.folders,
            seconds_now(),
        );
        for (origin, now) in gone {
            match now {
                Some(now) => tracing::info!(file = %origin, %now, "it has another name now"),
                None => tracing::info!(file = %origin, "it was removed, and what it said with it"),
            }
            self.keep(Keep::Forget(origin));
        }
        self.dirty = true;
        // Those of an earlier run are not among what changed.
        let kafka = match &self.published {
            Some(_) => self.documents.some_of(delta, Document::reads_kafka),
            None => self.documents.candidates().any(Document::reads_kafka),
        };
        let needed = kafka.then(|| self.plugins.need(KAFKA)).flatten();
        if needed.is_some() {
            tracing::info!(
                plugin = KAFKA,
                "rules need a built-in plugin, which is compiled now; what they let pass \
                 is refused until it is"
            );
        }
        needed.into_iter().collect()
    }

    /// Publishes until nothing is left to publish, for those who have nothing to do meanwhile.
    pub async fn publish_all(&mut self, sinks: impl Sinks + Clone) {
        while let Some(publication) = self.settle() {
            self.tell();
            let outcome = publication.run(sinks.clone()).await;
            self.apply(Event::Published(outcome));
        }
        self.tell();
    }

    /// What is to be published, as one generation, comes back; nothing else does until its
    /// outcome is here ([`Event::Published`]). When that is on its way, readers are told what
    /// changed: [`Control::tell`].
    pub fn settle(&mut self) -> Option<Publication> {
        // A first generation without the plugins of the last run would refuse their traffic.
        let patient = self.first_wait.is_some_and(|until| Instant::now() < until);
        let first = self.published.is_none();
        // Later nothing waits for a plugin: what needs it is refused until it is there.
        let unfinished = self.plugins.pending() || self.plugins.awaits();
        let waiting = !self.awaited.is_empty() || (first && patient && unfinished);
        let mut next = None;
        if self.dirty && !waiting && self.on_its_way.is_none() {
            self.dirty = false;
            self.untold = true;
            self.retry = None;
            match self.next_generation() {
                Ok(publication) => next = publication,
                Err(error) => self.given_up(&error),
            }
            self.rows.stale |= next.is_none();
            self.on_its_way = next.as_ref().map(|next| OnItsWay {
                generation: next.generation,
                compiled: next.compiled.clone(),
                for_proxy: next.next.clone(),
                other_sources: next.other_sources,
            });
        }
        next
    }

    /// Tells the readers what changed.
    pub fn tell(&mut self) {
        self.look_for_mistakes();
        if std::mem::take(&mut self.untold) {
            self.refresh();
        }
    }

    /// Compiled code that must not be lost: what is in force, what bindings may have to
    /// go back to, and what the next generation will bring.
    pub fn artifacts(&self) -> BTreeSet<PathBuf> {
        let published = self.published.iter().map(|p| &p.for_proxy);
        let on_its_way = self.on_its_way.iter().map(|next| &next.for_proxy);
        let meanwhile = self.meanwhile.iter().filter_map(|event| match event {
            Event::Examined(examination) => examination.outcome.as_ref().ok(),
            _ => None,
        });
        let for_proxy = published.chain(on_its_way);
        for_proxy
            .flat_map(|it| it.artifacts.values())
            .cloned()
            .chain(self.bindings.artifacts())
            .chain(self.plugins.candidates().map(|c| c.artifact.clone()))
            .chain(meanwhile.map(|c| c.artifact.clone()))
            .collect()
    }

    /// Takes in what bindings accepted.
    fn learn(&mut self) {
        let Some(published) = &self.published else {
            return;
        };
        let ForProxy {
            snapshot,
            artifacts,
        } = &*published.for_proxy;
        let news = self.bindings.learn(&self.proxy.stats, snapshot, artifacts);
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

    fn keep_origins(&mut self) {
        let of_source = |folders: &FolderSource| {
            let source = folders.source().clone();
            let origins = folders.origins().clone().into_iter();
            origins.map(move |(name, id)| (Origin::new(source.clone(), &name), id))
        };
        let origins = self.folders.values().flat_map(of_source).collect();
        if self.kept.origins.as_ref() == Some(&origins) {
            return;
        }
        match self.store.save_origins(&origins) {
            Ok(()) => self.kept.origins = Some(origins),
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "cannot keep which folders the files came from"
            ),
        }
    }

    fn refresh(&mut self) {
        self.learn();
        let published = self.published.as_ref();
        let refusals = published.map(|published| {
            let stats = &self.proxy.stats.bindings;
            let what = (&*published.compiled, &published.for_proxy.snapshot);
            let removed = self.plugins.removed().collect();
            bindings::refusals(stats, what, &removed, self.documents.in_use())
        });
        let refusals = refusals.unwrap_or_default();
        self.problems.bindings(&refusals, seconds_now());
        let compiled = self
            .published
            .as_ref()
            .map(|published| published.compiled.clone())
            .unwrap_or_default();
        self.rows
            .refresh(&compiled, &self.documents, &self.kernel_status.not_ready);
        let mut view = View {
            not_ready: Vec::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.settings.node.clone(),
            started_s: self.started_s,
            generation: self
                .published
                .as_ref()
                .map_or(Generation::default(), |published| published.generation),
            proxy_generation: self.proxy.stats.generation,
            policy_mode: match (self.settings.audit, self.settings.mode) {
                (true, _) => "audit",
                (false, Mode::Default) => "default",
                (false, Mode::Always) => "always",
                (false, Mode::Never) => "never",
            }
            .to_owned(),
            endpoints: self.rows.endpoints.clone(),
            identities: self.rows.identities.clone(),
            services: self.rows.services.clone(),
            policies: self.rows.policies.clone(),
            plugins: self.plugins.view(&compiled),
            bindings: bindings::view(&self.proxy.stats.bindings, &compiled),
            problems: self.problems.view(),
            datapath: self.kernel_status.datapath.clone(),
            proxy: self.proxy.clone(),
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

/// The sources that files in force came from.
fn folders(origins: &Origins) -> BTreeMap<Source, FolderSource> {
    let sources = origins.documents.keys().map(Origin::source);
    let folders = |source: &Source| FolderSource::new(source.clone(), origins.of(source));
    sources
        .map(|source| (source.clone(), folders(source)))
        .collect()
}

type PluginSet = Map<String, tidegate_contract::PluginInfo>;

fn seconds_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
