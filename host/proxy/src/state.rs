//! What workers decide with: one immutable value, replaced as a whole. A worker looks
//! whether there is a newer one each time it decides, and waits for nobody.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use arc_swap::ArcSwapOption;

use tidegate_contract::{BindingStats, L7Record, PluginStats, Reject, Snapshot};
use tidegate_policy::{
    compiled::{EndpointId, Generation, IdentityId, L7Id, PolicyRow, Rehearsed},
    fqdn::Matcher,
    http_options::HttpOptions,
    shared::Map,
    tls::TlsContexts,
};

use super::{
    contexts::Contexts,
    decide::{Chain, Side, tls::ServerNames},
    dns::Quotas,
    masquerade::Masquerade,
    records::{Learned, Outbox, Records},
    tables::Tables,
    turns::Turns,
};

/// The plugins of one generation, from which every worker makes its own instances.
pub trait Plugins: Send + Sync {
    /// Every rule set of the generation, with plugins for the calling thread.
    fn chains(&self) -> BTreeMap<L7Id, Chain>;
    /// Counters by plugin.
    fn stats(&self) -> BTreeMap<String, PluginStats>;
    /// How every binding is doing.
    fn bindings(&self) -> Vec<BindingStats>;
}

/// Names that clients have to ask for in TLS, by rule set.
type Names = BTreeMap<L7Id, Arc<ServerNames>>;

/// One generation, ready to decide with.
pub(super) struct State {
    pub(super) generation: Generation,
    /// Labels by identity.
    pub(super) identities: Map<IdentityId, Arc<[String]>>,
    /// FQDN selectors, and the identity each grants.
    pub(super) fqdn: Vec<(IdentityId, Matcher)>,
    /// Those of them that only documents in shadow ask for.
    pub(super) fqdn_in_shadow: BTreeSet<IdentityId>,
    /// Lower bound of a learned address's life, seconds.
    pub(super) fqdn_min_ttl: u32,
    /// How a query for a name that no rule allows is answered.
    pub(super) reject: Reject,
    /// Denials are only reported.
    pub(super) audit: bool,
    /// Egress rows about the world outside, by endpoint.
    pub(super) outward: Map<EndpointId, Arc<[PolicyRow]>>,
    pub(super) plugins: Arc<dyn Plugins>,
    /// Rule sets with a rule that plainly allows CONNECT; see `L7RuleSet::allows_connect`.
    pub(super) tunnels: BTreeSet<L7Id>,
    /// How HTTP is carried, by rule set, where documents say so.
    http: BTreeMap<L7Id, HttpOptions>,
    /// Names that clients have to ask for in TLS, of the rule sets that say so.
    names: Arc<Names>,
    /// Those of the generation before; see `before`.
    names_before: Arc<Names>,
    /// TLS that ends and begins here, by rule set.
    ended: BTreeMap<L7Id, TlsContexts>,
    /// What it is spoken with.
    pub(super) contexts: Contexts,
    /// What is rehearsed of the traffic of a rule set, where that is something else.
    shadows: BTreeMap<L7Id, Rehearsed>,
    /// Plugins of the generation before. The kernel changes over a moment after the
    /// proxy, and until then flows name rule sets of the older generation; an id
    /// always means the same content.
    before: Option<Arc<dyn Plugins>>,
    pub(super) tables: Arc<Tables>,
}

impl State {
    /// The state of a snapshot that follows `before`.
    pub(super) fn new(
        snapshot: &Snapshot,
        plugins: Arc<dyn Plugins>,
        tables: Arc<Tables>,
        before: Option<&State>,
    ) -> Self {
        let fqdn = snapshot.fqdn.iter();
        let sets = snapshot.l7.iter();
        let tunnels = sets.filter(|(_, set)| set.allows_connect());
        let sets = snapshot.l7.iter();
        let shadows = sets.filter_map(|(id, set)| Some((*id, set.shadow?)));
        let sets = snapshot.l7.iter();
        let http = sets.map(|(id, set)| (*id, set.http));
        let http_before = before.iter().flat_map(|before| &before.http);
        let names_before = before.map(|before| before.names.clone());
        let names_before = names_before.unwrap_or_default();
        let names = snapshot.l7.iter().filter_map(|(id, set)| {
            let names = set.tls.as_ref()?;
            let known = names_before.get(id).cloned();
            let known = known.unwrap_or_else(|| Arc::new(ServerNames::new(names)));
            Some((*id, known))
        });
        let sets = snapshot.l7.iter();
        let ended = sets.filter(|(_, set)| !set.contexts.is_nothing());
        let ended = ended.map(|(id, set)| (*id, set.contexts.clone()));
        let ended_before = before.iter().flat_map(|before| before.ended.clone());
        let shadows_before = before.iter().flat_map(|before| &before.shadows);
        // An id means the same content for ever.
        let before_it = before.iter().flat_map(|before| &before.tunnels);
        Self {
            tunnels: tunnels
                .map(|(id, _)| id)
                .chain(before_it)
                .copied()
                .collect(),
            http: http
                .chain(http_before.map(|(id, options)| (*id, *options)))
                .filter(|(_, options)| !options.is_nothing())
                .collect(),
            shadows: shadows
                .chain(shadows_before.map(|(id, shadow)| (*id, *shadow)))
                .collect(),
            names: Arc::new(names.collect()),
            names_before,
            ended: ended_before.chain(ended).collect(),
            contexts: Contexts::new(snapshot, before.map(|before| &before.contexts)),
            generation: snapshot.generation,
            identities: snapshot.identities.clone(),
            fqdn: fqdn
                .map(|(id, selector)| (*id, Matcher::new(selector)))
                .collect(),
            fqdn_in_shadow: snapshot.fqdn_in_shadow.clone(),
            fqdn_min_ttl: snapshot.fqdn_min_ttl,
            reject: snapshot.reject,
            audit: snapshot.audit,
            outward: snapshot.outward.clone(),
            plugins,
            before: before.map(|before| before.plugins.clone()),
            tables,
        }
    }

    /// How HTTP is carried between these sides: what all their rule sets say together.
    pub(super) fn http_options(&self, sides: &[Side<'_>]) -> HttpOptions {
        if self.http.is_empty() {
            return HttpOptions::default();
        }
        let ids = sides.iter().flat_map(Side::set_ids);
        ids.filter_map(|id| self.http.get(&id))
            .fold(HttpOptions::default(), |all, one| all.and(*one))
    }

    /// What is rehearsed of the traffic of a rule set, where that is something else.
    pub(super) fn shadow_of(&self, set: L7Id) -> Option<Rehearsed> {
        self.shadows.get(&set).copied()
    }

    /// The names that clients have to ask for in TLS, if the rule set says so.
    pub(super) fn server_names(&self, set: L7Id) -> Option<&ServerNames> {
        let before = || self.names_before.get(&set);
        self.names.get(&set).or_else(before).map(AsRef::as_ref)
    }

    /// The names of all rule sets that ask for some.
    pub(super) fn all_server_names(&self) -> impl Iterator<Item = (L7Id, &ServerNames)> {
        let all = self.names_before.iter().chain(&*self.names);
        all.map(|(id, names)| (*id, &**names))
    }

    /// The TLS that ends and begins here, if the rule set says so.
    pub(super) fn ended(&self, set: L7Id) -> Option<&TlsContexts> {
        self.ended.get(&set)
    }

    /// The same decisions, with tables from another agent.
    pub(super) fn with_tables(&self, tables: Arc<Tables>) -> Self {
        self.with(self.plugins.clone(), tables)
    }

    /// The same generation, with plugins that have become ready.
    pub(super) fn with_plugins(&self, plugins: Arc<dyn Plugins>) -> Self {
        self.with(plugins, self.tables.clone())
    }

    fn with(&self, plugins: Arc<dyn Plugins>, tables: Arc<Tables>) -> Self {
        Self {
            generation: self.generation,
            identities: self.identities.clone(),
            fqdn: self.fqdn.clone(),
            fqdn_in_shadow: self.fqdn_in_shadow.clone(),
            fqdn_min_ttl: self.fqdn_min_ttl,
            reject: self.reject,
            audit: self.audit,
            outward: self.outward.clone(),
            tunnels: self.tunnels.clone(),
            http: self.http.clone(),
            names: self.names.clone(),
            names_before: self.names_before.clone(),
            ended: self.ended.clone(),
            contexts: self.contexts.clone(),
            shadows: self.shadows.clone(),
            plugins,
            before: self.before.clone(),
            tables,
        }
    }
}

/// What all threads share.
#[derive(Default)]
pub(super) struct Shared {
    state: ArcSwapOption<State>,
    pub(super) records: Records,
    /// What each workload's answers have taken of the table of learned addresses.
    pub(super) quotas: Quotas,
    /// What answers for selectors in shadow alone have, of all workloads together.
    pub(super) quotas_in_shadow: Quotas,
    pub(super) turns: Turns,
}

impl Shared {
    /// Replaces the state for all workers.
    pub(super) fn publish(&self, state: State) {
        self.state.store(Some(Arc::new(state)));
    }

    /// The latest state, if one was published.
    pub(super) fn latest(&self) -> Option<Arc<State>> {
        self.state.load_full()
    }
}

/// One worker thread's view of what is shared.
pub(super) struct View {
    pub(super) shared: Arc<Shared>,
    cached: RefCell<Rc<Local>>,
    /// What this thread has for the agent.
    outbox: Arc<Outbox>,
    /// What this thread knows of the node's NAT.
    pub(super) masquerade: Masquerade,
}

/// The state, with the plugins of this thread.
pub(super) struct Local {
    pub(super) state: Arc<State>,
    chains: BTreeMap<L7Id, Chain>,
}

impl Local {
    /// For the calling thread.
    pub(super) fn new(state: Arc<State>) -> Rc<Self> {
        let mut chains = state
            .before
            .as_ref()
            .map(|plugins| plugins.chains())
            .unwrap_or_default();
        chains.extend(state.plugins.chains());
        Rc::new(Self { state, chains })
    }

    /// A rule set by its id.
    pub(super) fn chain(&self, id: L7Id) -> Option<&Chain> {
        self.chains.get(&id)
    }
}

impl View {
    /// A view for the calling thread; `None` before the first state was published.
    pub(super) fn new(shared: Arc<Shared>) -> Option<Self> {
        let local = Local::new(shared.latest()?);
        Some(Self {
            outbox: shared.records.enrol(),
            shared,
            cached: RefCell::new(local),
            masquerade: Masquerade::default(),
        })
    }

    /// The latest state.
    pub(super) fn current(&self) -> Rc<Local> {
        let mut cached = self.cached.borrow_mut();
        if let Some(latest) = &*self.shared.state.load()
            && !Arc::ptr_eq(latest, &cached.state)
        {
            *cached = Local::new(latest.clone());
        }
        cached.clone()
    }

    /// Counts a decided message, and keeps its record for the agent.
    pub(super) fn keep(&self, record: L7Record) {
        self.shared.records.keep(&self.outbox, record);
    }

    /// Keeps a resolved name for the agent.
    pub(super) fn learned(&self, learned: Learned) {
        self.shared.records.learned(&self.outbox, learned);
    }
}
