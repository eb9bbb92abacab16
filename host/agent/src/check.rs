//! What an agent with this configuration would make of its folders: the same control over
//! sinks that ask the plugins and keep nothing. The node is not touched.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use tidegate_config::{Config, Place, Written};
use tidegate_contract::{Concern, Note, Snapshot};
use tidegate_control::{
    documents::Past,
    event::Event,
    identities::Local,
    sinks::{Kernel, KernelStatus, Sinks},
    state::Control,
    store::Store,
    view::{ProblemView, ProxyView, View},
};
use tidegate_datapath::{
    DatapathError, Survey, bridges, firewall_notes, pinned_otherwise, without_cgroup,
};
use tidegate_plugin_host::{Catalog, PluginStore, Runtime, StoreOptions};
use tidegate_policy::{
    NumbersInUse,
    compiled::{Compiled, Generation},
};
use tidegate_sources::folder::{Origins, QUIET, Scanner, Watched};

use super::{
    plugins::{candidate, examine},
    settings, sources, table_limits,
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
    let mut options = StoreOptions::new(state.path().join("plugins"));
    options.trust = config.plugins.trust.clone();
    let plugins = PluginStore::new(options)?;
    let built_in = plugins.builtin().await?.into_iter().map(candidate);
    let store = Store::open(state.path())?;
    // What is in force already, so that newcomers, emptied files and two plugins of one name
    // are told as the agent would. Read only.
    let kept = Store::at(&config.node.state_dir);
    let mut notes = Vec::new();
    let (past, origins) = match kept.past().and_then(|past| Ok((past, kept.origins()?))) {
        Err(error) if is_forbidden(&error) => {
            notes.push(format!(
                "what is in force may not be read ({error:#}), so the files are checked as if all \
                 of them were new"
            ));
            (Past::default(), Origins::default())
        }
        read => read?,
    };
    let nowhere = Nowhere::new(config)?;
    let sockets = config.node.cgroup.is_none().then(without_cgroup);
    let mut control = Control::with_past(
        settings(config),
        nowhere.clone(),
        store,
        built_in.collect(),
        Local,
        past,
    )?;
    let addresses = sources::node_addresses(&config.node.addresses);
    control.apply(Event::NodeAddresses(addresses));
    let bridges = bridges().unwrap_or_default();
    control.apply(Event::NodeDevices(sources::node_devices(config, bridges)));

    control.apply(Event::Secrets(sources::secrets(&config.folders.secrets)));
    let vendor = match sources::vendor(&config.folders.vendor) {
        Ok(watched) => scanned(watched, &origins).await,
        Err(news) => sources::no_vendor(news),
    };
    let own = scanned(Watched::of(&config.folders), &origins).await;
    for event in [vendor, own] {
        for request in control.apply(event) {
            control.apply(examine(&plugins, request).await);
        }
    }
    control.publish_all(nowhere.clone()).await;
    let mut proxy = ProxyView::default();
    proxy.stats.bindings = nowhere.catalog().bindings();
    control.apply(Event::Proxy(proxy));
    control.settle();
    control.tell();
    let mut view = View::clone(&control.view().borrow());
    match pinned_otherwise(&config.node.bpffs, &table_limits(config)) {
        Ok(refusals) => view.problems.extend(
            refusals
                .iter()
                .map(|error| of_limit(error, &config.written)),
        ),
        Err(error) => notes.push(format!(
            "the tables in the kernel may not be read ({error}), so `limits` is not compared with \
             their sizes"
        )),
    }
    let notes = notes.into_iter();
    view.datapath.notes.extend(sockets);
    view.datapath
        .notes
        .extend(notes.map(|note| Note::new(Concern::Node, note)));
    Ok(Arc::new(view))
}

/// A table has another size than the configuration asks for.
fn of_limit(error: &DatapathError, written: &Written) -> ProblemView {
    let Place { file, line, column } = match error {
        DatapathError::Capacity { key, .. } => written.place(key),
        _ => Place::default(),
    };
    ProblemView {
        file,
        line,
        column,
        severity: "error".to_owned(),
        message: error.to_string(),
        ..ProblemView::default()
    }
}

/// What a source's folders hold, once nobody writes into them.
async fn scanned(watched: Watched, origins: &Origins) -> Event {
    let source = watched.source().clone();
    let mut scanner = Scanner::new(watched, origins);
    for _ in 0..PATIENCE {
        if !scanner.scan(SystemTime::now()).unsettled {
            break;
        }
        tokio::time::sleep(QUIET).await;
    }
    Event::Scanned(source, scanner.scan(SystemTime::now()).clone())
}

/// Is it that the one who asks may not read it?
fn is_forbidden(error: &anyhow::Error) -> bool {
    let causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes
        .into_iter()
        .any(|cause| cause.kind() == std::io::ErrorKind::PermissionDenied)
}

/// How long plugins may take to accept or refuse what is bound: the built-in matchers, and
/// others, whose `configure` has a limit of its own.
const BUILT_IN: Duration = Duration::from_secs(60);
const OTHERS: Duration = Duration::from_secs(30);

/// No kernel and no proxy: plugins are asked as the proxy would, and that is all.
#[derive(Clone)]
struct Nowhere {
    catalog: Arc<Mutex<Catalog>>,
    outside: Vec<String>,
}

impl Nowhere {
    fn new(config: &Config) -> anyhow::Result<Self> {
        let runtime = Runtime::start().context("start what runs plugins")?;
        Ok(Self {
            catalog: Arc::new(Mutex::new(Catalog::empty(runtime))),
            outside: config.node.outside_devices.clone(),
        })
    }

    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sinks for Nowhere {
    async fn publish_proxy(
        &mut self,
        snapshot: Snapshot,
        artifacts: BTreeMap<String, PathBuf>,
    ) -> anyhow::Result<Vec<(String, String)>> {
        let read = |(digest, path): (String, PathBuf)| {
            let code = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            Ok((digest, code))
        };
        let code = artifacts.into_iter().map(read);
        let code: BTreeMap<_, _> = code.collect::<anyhow::Result<_>>()?;
        let mut catalog = self.catalog();
        let next = catalog.next(&snapshot, &code);
        next.wait(BUILT_IN, OTHERS);
        *catalog = next.refreshed();
        Ok(catalog.broken().collect())
    }

    async fn publish_kernel(
        &mut self,
        _generation: Generation,
        compiled: Arc<Compiled>,
        _other_sources: bool,
    ) -> anyhow::Result<KernelStatus> {
        let mut survey = Survey::of(&self.outside, &compiled.endpoints);
        if !compiled.l7.is_empty() {
            survey.notes.extend(firewall_notes());
        }
        let mut status = KernelStatus::default();
        status.datapath.notes = survey.notes;
        status.not_ready = survey.not_ready;
        Ok(status)
    }
}

impl Kernel for Nowhere {
    fn too_much(&self, _compiled: &Compiled) -> Option<String> {
        None
    }

    fn generation(&self) -> Generation {
        Generation(0)
    }

    fn has_other_sources(&self) -> bool {
        false
    }

    fn numbers_in_use(&self) -> anyhow::Result<NumbersInUse> {
        Ok(NumbersInUse::default())
    }
}
