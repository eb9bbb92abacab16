//! Every plugin and every rule set of one generation.
//!
//! A catalog never changes; the next one is built beside it and takes over what did not
//! change. The unit is the **binding**: a plugin as the same rules use it. A new version
//! or configuration is tried for each binding by itself, while the binding goes on with
//! what it had; one that is refused there stays out there and nowhere else. Nothing
//! waits for a trial: see [`Catalog::refreshed`].

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tidegate_contract::{BindingState, BindingStats, PluginInfo, PluginStats, Snapshot, config_id};
use tidegate_policy::compiled::{FailMode, L7Id, L7Protocol, L7RuleSet, PluginUse, RuleId};
use wasmtime::component::Component;

use super::{
    answer::Failure,
    configured::{Attempt, Configured, Place, Version},
    counters::Counters,
    engine::Runtime,
    instance::Linked,
    memory::Pot,
};

/// Plugins and rule sets of one generation.
#[derive(Debug)]
pub struct Catalog {
    runtime: Arc<Runtime>,
    /// Code of all that the snapshot names, by digest; the reason if it cannot be used.
    code: BTreeMap<String, Result<Component, String>>,
    /// By name; the reason if its code cannot be used.
    versions: BTreeMap<String, Result<Arc<Version>, String>>,
    wanted: Arc<BTreeMap<L7Id, L7RuleSet>>,
    attempts: HashMap<Use, Arc<Attempt>>,
    /// What the agent remembers of bindings this process has not seen at work.
    remembered: HashMap<Place, Arc<Attempt>>,
    /// What each binding was last seen to accept.
    good: HashMap<Place, Arc<Configured>>,
    rule_sets: BTreeMap<L7Id, RuleSet>,
}

/// A binding with a configuration.
type Use = (Place, String);

/// What the proxy does with a flow: [`L7RuleSet`] with its plugins found.
#[derive(Clone, Debug)]
pub struct RuleSet {
    /// How the stream is read.
    pub protocol: L7Protocol,
    /// Plugins, in order; all must agree.
    pub chain: Vec<Arc<Binding>>,
}

/// A plugin as one rule set uses it.
#[derive(Debug)]
pub struct Binding {
    /// Name of the plugin.
    pub plugin: String,
    /// `name@version` as records show it; the name alone if it is not loaded.
    pub label: String,
    /// What happens when there is no answer.
    pub fail_mode: FailMode,
    /// What the plugin's rule indices refer to.
    pub rules: Vec<RuleId>,
    /// It looks at whatever is allowed, by whichever rule; see [`PluginUse::bound`].
    pub bound: bool,
    pub(super) configured: Result<Arc<Configured>, Failure>,
}

impl Binding {
    /// Does the plugin want to see responses too?
    pub fn sees_responses(&self) -> bool {
        let needs = self.configured.as_ref().map(|configured| &configured.needs);
        needs.is_ok_and(|needs| needs.responses)
    }

    /// The rule behind an index of a decision. One without an index, or beyond the
    /// end, is attributed to the first.
    pub fn rule(&self, index: Option<u32>) -> Option<RuleId> {
        let index = index.and_then(|index| usize::try_from(index).ok());
        index
            .and_then(|index| self.rules.get(index))
            .or_else(|| self.rules.first())
            .copied()
    }
}

impl Catalog {
    /// Nothing loaded.
    pub fn empty(runtime: Arc<Runtime>) -> Self {
        Self {
            runtime,
            code: BTreeMap::new(),
            versions: BTreeMap::new(),
            wanted: Arc::default(),
            attempts: HashMap::new(),
            remembered: HashMap::new(),
            good: HashMap::new(),
            rule_sets: BTreeMap::new(),
        }
    }

    /// The catalog of a snapshot, at once: what must be tried first is on its way.
    /// `artifacts` are those the agent sent, by digest; what the snapshot before named
    /// need not be among them.
    pub fn next(&self, snapshot: &Snapshot, artifacts: &BTreeMap<String, Vec<u8>>) -> Self {
        let mut next = Self::empty(self.runtime.clone());
        next.wanted = Arc::new(snapshot.l7.clone());
        for digest in snapshot.artifacts() {
            if !next.code.contains_key(digest) {
                let code = self.code(digest, artifacts);
                next.code.insert(digest.clone(), code);
            }
        }
        for (name, info) in &snapshot.plugins {
            let version = self.version(name, info, &next.code);
            next.versions.insert(name.clone(), version);
        }
        let (places, uses) = uses(&next.wanted);
        for used in uses {
            let Some(Ok(version)) = next.versions.get(&used.0.0) else {
                continue;
            };
            let known = self.attempts.get(&used).filter(|known| {
                Arc::ptr_eq(&known.version, version) && !known.may_be_tried_again()
            });
            let attempt = match known {
                Some(known) => known.clone(),
                None => Attempt::begin(version, &used.1),
            };
            next.attempts.insert(used, attempt);
        }
        // A plugin that was removed leaves nothing behind, whatever accepted it.
        let stays = |place: &Place| places.contains(place) && next.versions.contains_key(&place.0);
        let good = self.good.iter().filter(|(place, _)| stays(place));
        next.good = good.map(|(p, c)| (p.clone(), c.clone())).collect();
        for kept in &snapshot.remembered {
            let place = (kept.plugin.clone(), kept.rules.clone());
            if !stays(&place) || next.good.contains_key(&place) {
                continue;
            }
            let known = self.remembered.get(&place).cloned();
            let attempt = known.or_else(|| {
                let version = self.version(&kept.plugin, &kept.info, &next.code).ok()?;
                Some(Attempt::begin(&version, &kept.config))
            });
            next.remembered
                .extend(attempt.map(|attempt| (place, attempt)));
        }
        next.put_together();
        self.retire_all_but(&next);
        next
    }

    /// The same generation with what was tried meanwhile.
    pub fn refreshed(&self) -> Self {
        let mut next = Self {
            runtime: self.runtime.clone(),
            code: self.code.clone(),
            versions: self.versions.clone(),
            wanted: self.wanted.clone(),
            attempts: self.attempts.clone(),
            remembered: self.remembered.clone(),
            good: self.good.clone(),
            rule_sets: BTreeMap::new(),
        };
        next.put_together();
        self.retire_all_but(&next);
        next
    }

    /// Waits for trials to end: those of built-in plugins up to `built_in`, those of
    /// others up to `others`, for each from now on.
    pub fn wait(&self, built_in: Duration, others: Duration) {
        let tried = |attempt: &Arc<Attempt>| attempt.outcome().is_some();
        let all = || self.attempts.values().chain(self.remembered.values());
        let board = self.runtime.board();
        if !board.wait(others, || all().all(tried)) {
            let ours = |attempt: &&Arc<Attempt>| attempt.version.built_in();
            board.wait(built_in.saturating_sub(others), || {
                all().filter(ours).all(tried)
            });
        }
    }

    /// A rule set of this generation.
    pub fn rule_set(&self, id: L7Id) -> Option<&RuleSet> {
        self.rule_sets.get(&id)
    }

    /// Digests of the artifacts it holds.
    pub fn artifacts(&self) -> Vec<String> {
        let usable = self.code.iter().filter(|(_, code)| code.is_ok());
        usable.map(|(digest, _)| digest.clone()).collect()
    }

    /// Plugins whose code cannot be used at all, and why.
    pub fn broken(&self) -> impl Iterator<Item = (String, String)> {
        let versions = self.versions.iter();
        versions.filter_map(|(name, v)| Some((name.clone(), v.as_ref().err()?.clone())))
    }

    /// Everything that could not be used: plugin and reason, each once.
    pub fn refused(&self) -> Vec<(String, String)> {
        let broken = self.broken();
        let failed = self.attempts.iter().filter_map(|((place, _), attempt)| {
            let failure = attempt.outcome()?.as_ref().err()?;
            Some((place.0.clone(), failure.to_string()))
        });
        let mut refused: Vec<_> = broken.chain(failed).collect();
        refused.sort_unstable();
        refused.dedup();
        refused
    }

    /// Counters by plugin.
    pub fn stats(&self) -> BTreeMap<String, PluginStats> {
        let mut stats = BTreeMap::new();
        for (name, version) in &self.versions {
            let Ok(version) = version else { continue };
            let of_plugin = self.in_use().filter(|used| used.version.name == *name);
            let now = self.runtime.uptime();
            let longest = of_plugin.map(|used| used.budgets.held_back(now).1).max();
            let suspended_ms = longest.unwrap_or_default().as_millis();
            let row = PluginStats {
                suspended_ms: u64::try_from(suspended_ms).unwrap_or(u64::MAX),
                ..version.stats()
            };
            stats.insert(name.clone(), row);
        }
        stats
    }

    /// How every binding is doing.
    pub fn bindings(&self) -> Vec<BindingStats> {
        let mut rows: BTreeMap<(&Place, &str), BindingStats> = BTreeMap::new();
        let (_, uses) = uses(&self.wanted);
        for used in &uses {
            let (place, config) = used;
            let attempt = self.attempts.get(used).map(|attempt| attempt.outcome());
            let bound = self.configured(place, config);
            let broken = self.versions.get(&place.0).and_then(|v| v.as_ref().err());
            let (state, reason) = match (attempt, &bound) {
                (Some(Some(Ok(_))), _) => (BindingState::Active, None),
                (Some(Some(Err(why))), Ok(_)) => (BindingState::LastGood, Some(why.to_string())),
                (Some(Some(Err(why))), Err(_)) => (BindingState::Refused, Some(why.to_string())),
                (Some(None), _) => (BindingState::Preparing, None),
                (None, Ok(_)) => (BindingState::LastGood, broken.cloned()),
                (None, Err(why)) => {
                    let reason = broken.cloned().unwrap_or_else(|| why.to_string());
                    (BindingState::Refused, Some(reason))
                }
            };
            let mut row = BindingStats {
                plugin: place.0.clone(),
                rules: place.1.clone(),
                config: config_id(config),
                version: String::new(),
                digest: String::new(),
                state,
                reason,
                ..BindingStats::default()
            };
            if let Ok(configured) = bound {
                let now = self.runtime.uptime();
                row.version.clone_from(&configured.version.info.version);
                row.digest.clone_from(&configured.version.info.digest);
                row.calls = configured.tally.calls.load(Relaxed);
                row.failures = configured.tally.failures.load(Relaxed);
                row.held_back = configured.tally.held_back.load(Relaxed);
                row.peers_held_back = configured.budgets.held_back(now).0 as u64;
            }
            rows.insert((place, config), row);
        }
        rows.into_values().collect()
    }

    /// Fills in the rule sets from what is known now.
    fn put_together(&mut self) {
        for (place, attempt) in &self.remembered {
            if let Some(Ok(configured)) = attempt.outcome() {
                self.good
                    .entry(place.clone())
                    .or_insert_with(|| configured.clone());
            }
        }
        // In the order of ids: what was written last is what counts as last good.
        let chains = self.wanted.values().flat_map(|set| &set.chain);
        for used in chains {
            let used = use_of(used);
            let outcome = self.attempts.get(&used).and_then(|a| a.outcome());
            if let Some(Ok(configured)) = outcome {
                self.good.insert(used.0, configured.clone());
            }
        }
        let sets = self.wanted.iter().map(|(id, set)| {
            let chain = set.chain.iter().map(|used| Arc::new(self.bind(used)));
            let rule_set = RuleSet {
                protocol: set.protocol,
                chain: chain.collect(),
            };
            (*id, rule_set)
        });
        self.rule_sets = sets.collect();
    }

    fn bind(&self, used: &PluginUse) -> Binding {
        let (place, config) = use_of(used);
        let configured = self.configured(&place, &config);
        Binding {
            label: configured
                .as_ref()
                .map_or_else(|_| used.plugin.clone(), |c| c.shared.label.clone()),
            plugin: place.0,
            fail_mode: used.fail_mode,
            rules: place.1,
            bound: used.bound,
            configured,
        }
    }

    /// What a binding with this configuration is served by: what was asked for if it
    /// was accepted, else what the binding accepted last.
    fn configured(&self, place: &Place, config: &str) -> Result<Arc<Configured>, Failure> {
        let attempt = self.attempts.get(&(place.clone(), config.to_owned()));
        let failure = match attempt.map(|attempt| attempt.outcome()) {
            Some(Some(Ok(configured))) => return Ok(configured.clone()),
            Some(Some(Err(failure))) => failure.clone(),
            Some(None) => Failure::Preparing,
            None => Failure::Missing,
        };
        self.good.get(place).cloned().ok_or(failure)
    }

    /// The code of a digest, taken over or loaded.
    fn code(
        &self,
        digest: &str,
        artifacts: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Component, String> {
        if let Some(Ok(component)) = self.code.get(digest) {
            return Ok(component.clone());
        }
        let artifact = artifacts
            .get(digest)
            .ok_or("its compiled code was not sent")?;
        // SAFETY: the bytes are an artifact of our own compile worker: the agent alone
        // writes to the control socket, and it sends what the worker made, checked
        // against the digest it recorded. Code of another engine version or other
        // settings is refused by the call itself.
        unsafe { Component::deserialize(self.runtime.engine(), artifact) }
            .map_err(|error| format!("cannot load its compiled code: {error:#}"))
    }

    /// The version a plugin has by now: one that is known, or made of this code.
    fn version(
        &self,
        name: &str,
        info: &PluginInfo,
        code: &BTreeMap<String, Result<Component, String>>,
    ) -> Result<Arc<Version>, String> {
        let same = |version: &&Arc<Version>| version.name == name && version.info == *info;
        if let Some(version) = self.held().find(same) {
            return Ok(version.clone());
        }
        let component = match code.get(&info.artifact) {
            Some(Ok(component)) => component,
            Some(Err(reason)) => return Err(reason.clone()),
            None => return Err("the snapshot does not name its code".to_owned()),
        };
        let linked = Linked::new(component, info.world, &info.capabilities)
            .map_err(|error| format!("cannot link it: {error:#}"))?;
        Ok(Arc::new(Version {
            name: name.to_owned(),
            info: info.clone(),
            linked,
            runtime: self.runtime.clone(),
            totals: Arc::new(Counters::default()),
            pot: Pot::new(info.limits.total_memory_bytes),
        }))
    }

    /// Every version something here refers to.
    fn held(&self) -> impl Iterator<Item = &Arc<Version>> {
        let named = self.versions.values().flatten();
        let tried = self.attempts.values().chain(self.remembered.values());
        named
            .chain(tried.map(|attempt| &attempt.version))
            .chain(self.good.values().map(|good| &good.version))
    }

    /// Every configuration that serves something here.
    fn in_use(&self) -> impl Iterator<Item = &Arc<Configured>> {
        let chains = self.rule_sets.values().flat_map(|set| &set.chain);
        chains.filter_map(|binding| binding.configured.as_ref().ok())
    }

    /// Gives back the instances of what the next catalog does not use.
    fn retire_all_but(&self, next: &Self) {
        let ids = |catalog: &Self| -> HashSet<u64> {
            let good = catalog.good.values().map(|good| good.id);
            good.chain(catalog.in_use().map(|used| used.id)).collect()
        };
        let stay = ids(next);
        let all = self.in_use().chain(self.good.values());
        for gone in all.filter(|used| !stay.contains(&used.id)) {
            gone.retire();
        }
    }
}

fn use_of(used: &PluginUse) -> Use {
    (
        (used.plugin.clone(), used.rules.clone()),
        used.config.clone(),
    )
}

/// Bindings, and what they are to be configured with, each once.
fn uses(wanted: &BTreeMap<L7Id, L7RuleSet>) -> (HashSet<Place>, HashSet<Use>) {
    let chains = wanted.values().flat_map(|set| &set.chain);
    let uses: HashSet<Use> = chains.map(use_of).collect();
    (uses.iter().map(|used| used.0.clone()).collect(), uses)
}
