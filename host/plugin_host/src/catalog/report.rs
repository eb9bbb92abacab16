//! What the agent is told of a catalog.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed};

use tidegate_contract::{BindingState, BindingStats, PluginStats, config_id};

use super::{Catalog, rule_set::uses};
use crate::{configured::Place, failure::Failure};

impl Catalog {
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
        for used in uses.keys() {
            let (place, config) = used;
            let attempt = self.attempts.get(used).map(|attempt| attempt.outcome());
            let bound = self.configured(place, config);
            let broken = self.versions.get(&place.0).and_then(|v| v.as_ref().err());
            let (state, reason) = match (attempt, &bound) {
                (Some(Some(Ok(_))), _) => (BindingState::Active, None),
                (Some(Some(Err(why))), Ok(_)) => (BindingState::LastGood, Some(why.to_string())),
                (Some(Some(Err(why))), Err(_)) => (BindingState::Refused, Some(why.to_string())),
                (Some(None), _) => (BindingState::Preparing, None),
                (None, Err(why @ Failure::Preparing)) => {
                    (BindingState::Preparing, Some(why.to_string()))
                }
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
}
