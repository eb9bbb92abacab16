//! The proxy's plugins: `plugin_host` behind the traits the proxy asks through, a file per
//! protocol.

mod dns;
mod http;
mod stream;

use std::{cell::RefCell, collections::BTreeMap, sync::Arc, time::Duration};

use tidegate_contract::{BindingStats, PluginStats, Snapshot};
use tidegate_plugin_host::{Binding, Catalog, Runtime, Worker};
use tidegate_policy::compiled::{FailMode, L7Id, RuleId};

use super::{
    Artifacts, Loader, Plugins,
    decide::{Chain, Filter, dns::DnsFilter, http::HttpFilter, stream::StreamFilter},
};

thread_local! {
    /// The instances of this thread; they outlive generations.
    static WORKER: RefCell<Worker> = RefCell::new(Worker::new());
}

/// How long a new generation waits for the built-in matchers, without which most rules
/// of it would refuse everything, and for strangers' plugins, which most often are there
/// in a few milliseconds. Whatever takes longer is put to use when it is ready.
const BUILT_IN: Duration = Duration::from_secs(5);
const OTHERS: Duration = Duration::from_millis(250);

/// Gives back this thread's instances that nobody needs any more.
pub(super) fn sweep() {
    WORKER.with_borrow_mut(Worker::sweep);
}

/// Calls this thread's filters that want to be called without a message, as far as that is
/// due; how long until the next look.
pub(super) fn tick() -> Option<Duration> {
    WORKER.with_borrow_mut(Worker::tick)
}

/// Builds one catalog after the other, each from the one before.
pub struct CatalogLoader {
    runtime: Arc<Runtime>,
    catalog: Arc<Catalog>,
    ids: Vec<L7Id>,
}

impl CatalogLoader {
    /// Starts with nothing loaded. `memory` is for all dropped-in plugins together, bytes.
    ///
    /// # Errors
    ///
    /// If this machine cannot run compiled plugins.
    pub fn new(memory: u64) -> anyhow::Result<Self> {
        let runtime = Runtime::with_memory(memory)?;
        Ok(Self {
            catalog: Arc::new(Catalog::empty(runtime.clone())),
            runtime,
            ids: Vec::new(),
        })
    }

    fn loaded(&self) -> Arc<dyn Plugins> {
        Arc::new(Loaded {
            catalog: self.catalog.clone(),
            ids: self.ids.clone(),
        })
    }
}

impl Loader for CatalogLoader {
    fn prepare(
        &mut self,
        snapshot: &Snapshot,
        artifacts: &Artifacts,
    ) -> (Arc<dyn Plugins>, Vec<(String, String)>) {
        let next = self.catalog.next(snapshot, artifacts);
        next.wait(BUILT_IN, OTHERS);
        self.catalog = Arc::new(next.refreshed());
        self.ids = snapshot.l7.keys().copied().collect();
        (self.loaded(), self.catalog.broken().collect())
    }

    async fn news(&self) {
        self.runtime.news().await;
    }

    fn refresh(&mut self) -> Arc<dyn Plugins> {
        self.catalog = Arc::new(self.catalog.refreshed());
        self.loaded()
    }

    fn held(&self) -> Vec<String> {
        self.catalog.artifacts()
    }
}

struct Loaded {
    catalog: Arc<Catalog>,
    ids: Vec<L7Id>,
}

impl Plugins for Loaded {
    fn chains(&self) -> BTreeMap<L7Id, Chain> {
        let sets = self
            .ids
            .iter()
            .filter_map(|id| Some((*id, self.catalog.rule_set(*id)?)));
        sets.map(|(id, set)| {
            let filters = set
                .chain
                .iter()
                .map(|binding| Box::new(Bound(binding.clone())) as Box<dyn Filter>);
            let chain = Chain {
                id,
                protocol: set.protocol,
                filters: filters.collect(),
            };
            (id, chain)
        })
        .collect()
    }

    fn stats(&self) -> BTreeMap<String, PluginStats> {
        self.catalog.stats()
    }

    fn bindings(&self) -> Vec<BindingStats> {
        self.catalog.bindings()
    }
}

/// A plugin as one rule set uses it, called on the current thread's instances. What reads
/// another protocol than it is asked about says so itself.
struct Bound(Arc<Binding>);

impl Filter for Bound {
    fn label(&self) -> &str {
        &self.0.label
    }

    fn content(&self) -> String {
        self.0.content()
    }

    fn fail_mode(&self) -> FailMode {
        self.0.fail_mode
    }

    fn is_bound(&self) -> bool {
        self.0.bound
    }

    fn rules(&self) -> &[RuleId] {
        &self.0.rules
    }

    fn http(&self) -> Option<&dyn HttpFilter> {
        Some(self)
    }

    fn dns(&self) -> Option<&dyn DnsFilter> {
        Some(self)
    }

    fn stream(&self) -> Option<&dyn StreamFilter> {
        Some(self)
    }
}
