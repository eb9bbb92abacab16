//! Every plugin and every rule set of one generation.
//!
//! A catalog never changes; the next one is built beside it and takes over what did not
//! change. The unit is the **binding**: a plugin as the same rules use it. A new version
//! or configuration is tried for each binding by itself, while the binding goes on with
//! what it had; one that is refused there stays out there and nowhere else. Nothing
//! waits for a trial: see [`Catalog::refreshed`].

mod load;
mod report;
mod rule_set;
mod united;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tidegate_contract::{BUILT_IN, Snapshot};
use tidegate_policy::{
    compiled::{L7Id, L7RuleSet, PluginUse, plugin_uses},
    shared::Map,
};

pub use self::rule_set::{Binding, RuleSet};
use self::rule_set::{Use, use_of, uses};
pub(crate) use self::united::retire;
use super::{
    configured::{Attempt, Configured, Place, Purpose, Version},
    engine::Runtime,
    failure::Failure,
    worlds::Code,
};

/// Plugins and rule sets of one generation.
#[derive(Debug)]
pub struct Catalog {
    runtime: Arc<Runtime>,
    /// Code of all that the snapshot names, by digest; the reason if it cannot be used.
    code: BTreeMap<String, Result<Code, String>>,
    /// By name; the reason if its code cannot be used.
    versions: BTreeMap<String, Result<Arc<Version>, String>>,
    wanted: Map<L7Id, Arc<L7RuleSet>>,
    attempts: HashMap<Use, Arc<Attempt>>,
    /// What the agent remembers of bindings this process has not seen at work.
    remembered: HashMap<Place, Arc<Attempt>>,
    /// What each binding was last seen to accept.
    good: HashMap<Place, Arc<Configured>>,
    rule_sets: BTreeMap<L7Id, RuleSet>,
}

impl Catalog {
    /// Nothing loaded.
    pub fn empty(runtime: Arc<Runtime>) -> Self {
        Self {
            runtime,
            code: BTreeMap::new(),
            versions: BTreeMap::new(),
            wanted: Map::new(),
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
        next.wanted = snapshot.l7.clone();
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
        for (used, purpose) in uses {
            let Some(Ok(version)) = next.versions.get(&used.0.0) else {
                continue;
            };
            let known = self.attempts.get(&used).filter(|known| {
                Arc::ptr_eq(&known.version, version)
                    && known.purpose == purpose
                    && !known.may_be_tried_again()
            });
            let attempt = match known {
                Some(known) => known.clone(),
                None => Attempt::begin(version, &used.1, purpose),
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
                Some(Attempt::begin(&version, &kept.config, Purpose::Enforced))
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
        for used in plugin_uses(&self.wanted) {
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
            // One of our own that was not sent is being compiled.
            None if BUILT_IN.contains(&place.0.as_str())
                && !self.versions.contains_key(&place.0) =>
            {
                Failure::Preparing
            }
            None => Failure::Missing,
        };
        self.good.get(place).cloned().ok_or(failure)
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
