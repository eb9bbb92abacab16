//! The proxy's plugins: `plugin_host` behind the two traits the proxy asks through.

use std::{borrow::Cow, cell::RefCell, collections::BTreeMap, sync::Arc, time::Duration};

use tidegate_contract::{BindingStats, PluginStats, Snapshot};
use tidegate_plugin_host::{Binding, Catalog, DnsDecision, Failure, HttpDecision, Runtime, Worker};
use tidegate_policy::compiled::{FailMode, L7Id, RuleId};
use tidegate_wire::http::{HttpHead, ResponseHead};

use super::{
    Artifacts, Loader, Plugins,
    chain::{Chain, DnsAnswer, Facts, Fault, Filter, HttpAnswer},
    http::{Denial, Verdict},
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

fn fault(failure: Failure) -> Fault {
    Fault {
        why: failure.to_string(),
        of_load: failure.is_of_load(),
    }
}

/// A plugin as one rule set uses it, called on the current thread's instances.
struct Bound(Arc<Binding>);

impl Filter for Bound {
    fn label(&self) -> &str {
        &self.0.label
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

    fn sees_responses(&self) -> bool {
        self.0.sees_responses()
    }

    fn request(&self, head: &HttpHead<'_>, facts: &Arc<Facts>) -> Result<HttpAnswer, Fault> {
        http(WORKER.with_borrow_mut(|worker| worker.http_request(&self.0, head, facts)))
    }

    fn response(&self, head: &ResponseHead<'_>, facts: &Arc<Facts>) -> Result<HttpAnswer, Fault> {
        http(WORKER.with_borrow_mut(|worker| worker.http_response(&self.0, head, facts)))
    }

    fn query(&self, name: &str, qtype: u16, facts: &Arc<Facts>) -> Result<DnsAnswer, Fault> {
        let decision =
            WORKER.with_borrow_mut(|worker| worker.dns_query(&self.0, name, qtype, facts));
        match decision.map_err(fault)? {
            DnsDecision::Allow { rule } => Ok(DnsAnswer { refuse: None, rule }),
            DnsDecision::Refuse { rcode } => Ok(DnsAnswer {
                refuse: Some(rcode),
                rule: None,
            }),
        }
    }
}

fn http(decision: Result<HttpDecision, Failure>) -> Result<HttpAnswer, Fault> {
    let (verdict, rule) = match decision.map_err(fault)? {
        HttpDecision::Allow { rule } => (Verdict::Allow, rule),
        HttpDecision::Edit { rule, edit } => (Verdict::Edit(edit), rule),
        HttpDecision::Deny(denial) => (
            Verdict::Deny(refusal(denial.status, denial.body)),
            denial.rule,
        ),
    };
    Ok(HttpAnswer { verdict, rule })
}

/// A plugin that has nothing to say leaves the usual words.
fn refusal(status: u16, body: String) -> Denial {
    let usual = Denial::default();
    Denial {
        status,
        body: if body.is_empty() {
            usual.body
        } else {
            Cow::Owned(body)
        },
    }
}
