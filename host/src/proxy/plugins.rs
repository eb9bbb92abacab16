//! The proxy's plugins: `plugin_host` behind the two traits the proxy asks through.

use std::{borrow::Cow, cell::RefCell, collections::BTreeMap, sync::Arc};

use tidegate_policy::compiled::{FailMode, L7Id, RuleId};
use tidegate_wire::http::{HttpHead, ResponseHead};

use super::{
    Artifacts, Loader, Plugins,
    chain::{Chain, DnsAnswer, Facts, Filter, HttpAnswer},
    contract::{PluginStats, Snapshot},
    http::{Denial, Verdict},
};
use crate::plugin_host::{Binding, Catalog, DnsDecision, Failure, HttpDecision, Runtime, Worker};

thread_local! {
    /// The instances of this thread; they outlive generations.
    static WORKER: RefCell<Worker> = RefCell::new(Worker::new());
}

/// Builds one catalog after the other, each from the one before.
pub struct CatalogLoader {
    catalog: Arc<Catalog>,
}

impl CatalogLoader {
    /// Starts with nothing loaded.
    ///
    /// # Errors
    ///
    /// If this machine cannot run compiled plugins.
    pub fn new() -> anyhow::Result<Self> {
        let catalog = Arc::new(Catalog::empty(Runtime::start()?));
        Ok(Self { catalog })
    }
}

impl Loader for CatalogLoader {
    fn prepare(
        &mut self,
        snapshot: &Snapshot,
        artifacts: &Artifacts,
    ) -> (Arc<dyn Plugins>, Vec<(String, String)>) {
        let (next, refused) = self.catalog.next(snapshot, artifacts);
        let ids = snapshot.l7.keys().copied().collect();
        self.catalog = Arc::new(next);
        let loaded = Loaded {
            catalog: self.catalog.clone(),
            ids,
        };
        (Arc::new(loaded), refused)
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

    fn rules(&self) -> &[RuleId] {
        &self.0.rules
    }

    fn sees_responses(&self) -> bool {
        self.0.sees_responses()
    }

    fn request(&self, head: &HttpHead<'_>, facts: &Arc<Facts>) -> Result<HttpAnswer, String> {
        http(WORKER.with_borrow_mut(|worker| worker.http_request(&self.0, head, facts)))
    }

    fn response(&self, head: &ResponseHead<'_>, facts: &Arc<Facts>) -> Result<HttpAnswer, String> {
        http(WORKER.with_borrow_mut(|worker| worker.http_response(&self.0, head, facts)))
    }

    fn query(&self, name: &str, qtype: u16, facts: &Arc<Facts>) -> Result<DnsAnswer, String> {
        let decision =
            WORKER.with_borrow_mut(|worker| worker.dns_query(&self.0, name, qtype, facts));
        match decision.map_err(|failure| failure.to_string())? {
            DnsDecision::Allow { rule } => Ok(DnsAnswer { refuse: None, rule }),
            DnsDecision::Refuse { rcode } => Ok(DnsAnswer {
                refuse: Some(rcode),
                rule: None,
            }),
        }
    }
}

fn http(decision: Result<HttpDecision, Failure>) -> Result<HttpAnswer, String> {
    let (verdict, rule) = match decision.map_err(|failure| failure.to_string())? {
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
