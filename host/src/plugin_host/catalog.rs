//! Every plugin and every rule set of one generation, tried before it goes live.
//!
//! A catalog never changes. The next one is built beside it, taking over what did not
//! change, and a plugin version that cannot be started with every configuration in use
//! is refused: the version before stays.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tidegate_policy::compiled::{FailMode, L7Id, L7Protocol, PluginUse, RuleId};
use wasmtime::component::Component;

use super::{
    answer::Failure,
    budget::Budget,
    engine::Runtime,
    host_calls::Shared,
    instance::{Instance, Linked, Needs},
};
use crate::proxy::contract::{PluginInfo, PluginStats, Snapshot};

/// Plugins and rule sets of one generation.
#[derive(Debug)]
pub struct Catalog {
    runtime: Arc<Runtime>,
    versions: BTreeMap<String, Arc<Version>>,
    configured: HashMap<Key, Result<Arc<Configured>, Failure>>,
    rule_sets: BTreeMap<L7Id, RuleSet>,
}

/// Plugin and configuration.
type Key = (String, String);

/// What the proxy does with a flow: [`L7RuleSet`] with its plugins found.
///
/// [`L7RuleSet`]: tidegate_policy::compiled::L7RuleSet
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

/// A plugin version with a configuration it accepted. Its instances are
/// interchangeable, hence the id, never used twice in a process.
pub(super) struct Configured {
    pub(super) id: u64,
    pub(super) version: Arc<Version>,
    pub(super) config: String,
    needs: Needs,
}

/// A loaded plugin version.
pub(super) struct Version {
    info: PluginInfo,
    component: Component,
    linked: Linked,
    pub(super) runtime: Arc<Runtime>,
    pub(super) shared: Arc<Shared>,
    pub(super) budget: Budget,
}

impl Catalog {
    /// Nothing loaded.
    pub fn empty(runtime: Arc<Runtime>) -> Self {
        Self {
            runtime,
            versions: BTreeMap::new(),
            configured: HashMap::new(),
            rule_sets: BTreeMap::new(),
        }
    }

    /// The catalog of a snapshot. `artifacts` are those the agent sent, by digest;
    /// what this catalog holds already need not be among them. Returns the refusals
    /// too: plugin and reason.
    pub fn next(
        &self,
        snapshot: &Snapshot,
        artifacts: &BTreeMap<String, Vec<u8>>,
    ) -> (Self, Vec<(String, String)>) {
        let mut refused = Vec::new();
        let mut next = Self::empty(self.runtime.clone());
        let uses = uses_by_plugin(snapshot);
        for (name, info) in &snapshot.plugins {
            let configs = uses.get(name.as_str()).map_or(&[][..], Vec::as_slice);
            let before = self.versions.get(name);
            if let Some(before) = before.filter(|before| before.info == *info) {
                next.take(self, name, before, configs, &mut refused);
                continue;
            }
            match self.load(name, info, artifacts).and_then(|version| {
                let tried = configs
                    .iter()
                    .map(|config| Configured::new(&version, config));
                let tried = tried.collect::<Result<Vec<_>, _>>();
                tried
                    .map(|tried| (version, tried))
                    .map_err(|failure| failure.to_string())
            }) {
                Ok((version, tried)) => next.add(name, version, tried),
                Err(reason) => {
                    refused.push((name.clone(), reason));
                    if let Some(before) = before {
                        next.take(self, name, before, configs, &mut refused);
                    }
                }
            }
        }
        next.rule_sets = snapshot
            .l7
            .iter()
            .map(|(id, set)| {
                let chain = set.chain.iter().map(|used| Arc::new(next.bind(used)));
                let rule_set = RuleSet {
                    protocol: set.protocol,
                    chain: chain.collect(),
                };
                (*id, rule_set)
            })
            .collect();
        (next, refused)
    }

    /// A rule set of this generation.
    pub fn rule_set(&self, id: L7Id) -> Option<&RuleSet> {
        self.rule_sets.get(&id)
    }

    /// Digests of the artifacts it holds.
    pub fn artifacts(&self) -> Vec<String> {
        let versions = self.versions.values();
        versions
            .map(|version| version.info.artifact.clone())
            .collect()
    }

    /// Counters by plugin.
    pub fn stats(&self) -> BTreeMap<String, PluginStats> {
        let stats = self.versions.iter();
        stats
            .map(|(name, version)| (name.clone(), version.stats()))
            .collect()
    }

    /// Takes a version over from the catalog before, trying configurations that are
    /// new to it. A configuration it does not accept is that use's failure alone.
    fn take(
        &mut self,
        before: &Self,
        name: &str,
        version: &Arc<Version>,
        configs: &[&str],
        refused: &mut Vec<(String, String)>,
    ) {
        for config in configs {
            let key = (name.to_owned(), (*config).to_owned());
            let known = before.configured.get(&key).filter(|known| known.is_ok());
            let configured = match known {
                Some(known) => known.clone(),
                None => Configured::new(version, config),
            };
            if let Err(failure) = &configured {
                refused.push((name.to_owned(), failure.to_string()));
            }
            self.configured.insert(key, configured);
        }
        self.versions.insert(name.to_owned(), version.clone());
    }

    fn add(&mut self, name: &str, version: Arc<Version>, tried: Vec<Arc<Configured>>) {
        for configured in tried {
            let key = (name.to_owned(), configured.config.clone());
            self.configured.insert(key, Ok(configured));
        }
        self.versions.insert(name.to_owned(), version);
    }

    fn load(
        &self,
        name: &str,
        info: &PluginInfo,
        artifacts: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Arc<Version>, String> {
        let held = self.versions.values();
        let mut held = held.filter(|version| version.info.artifact == info.artifact);
        let component = match held.next_back() {
            Some(version) => version.component.clone(),
            None => {
                let artifact = artifacts
                    .get(&info.artifact)
                    .ok_or("its compiled code was not sent")?;
                // SAFETY: the bytes are an artifact of our own compile worker: the
                // agent alone writes to the control socket, and it sends what the
                // worker made, checked against the digest it recorded. Code of another
                // engine version or other settings is refused by the call itself.
                unsafe { Component::deserialize(self.runtime.engine(), artifact) }
                    .map_err(|error| format!("cannot load its compiled code: {error:#}"))?
            }
        };
        let linked = Linked::new(&component, info.world, &info.capabilities)
            .map_err(|error| format!("cannot link it: {error:#}"))?;
        Ok(Arc::new(Version {
            info: info.clone(),
            component,
            linked,
            runtime: self.runtime.clone(),
            shared: Shared::new(format!("{name}@{}", info.version)),
            budget: Budget::default(),
        }))
    }

    fn bind(&self, used: &PluginUse) -> Binding {
        let key = (used.plugin.clone(), used.config.clone());
        let version = self.versions.get(&used.plugin);
        Binding {
            plugin: used.plugin.clone(),
            label: version.map_or_else(
                || used.plugin.clone(),
                |version| version.shared.label.clone(),
            ),
            fail_mode: used.fail_mode,
            rules: used.rules.clone(),
            configured: self
                .configured
                .get(&key)
                .cloned()
                .unwrap_or(Err(Failure::Missing)),
        }
    }
}

/// The configurations each plugin is used with, each once.
fn uses_by_plugin(snapshot: &Snapshot) -> BTreeMap<&str, Vec<&str>> {
    let mut uses: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for used in snapshot.l7.values().flat_map(|set| &set.chain) {
        uses.entry(&used.plugin).or_default().push(&used.config);
    }
    for configs in uses.values_mut() {
        configs.sort_unstable();
        configs.dedup();
    }
    uses
}

impl Configured {
    /// Tries a configuration on an instance, which is then thrown away.
    fn new(version: &Arc<Version>, config: &str) -> Result<Arc<Self>, Failure> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let instance = version.start(config)?;
        Ok(Arc::new(Self {
            id: NEXT.fetch_add(1, Relaxed),
            version: version.clone(),
            config: config.to_owned(),
            needs: instance.needs().clone(),
        }))
    }
}

impl Version {
    /// A configured instance.
    pub(super) fn start(&self, config: &str) -> Result<Instance, Failure> {
        Instance::start(
            &self.linked,
            &self.shared,
            &self.info.limits,
            &self.runtime,
            config,
        )
    }

    /// Wall-clock limit of one call, milliseconds.
    pub(super) fn call_ms(&self) -> u64 {
        self.info.limits.call_ms
    }

    fn stats(&self) -> PluginStats {
        let left = self.budget.suspended(|| self.runtime.uptime());
        PluginStats {
            version: self.info.version.clone(),
            digest: self.info.digest.clone(),
            suspended_ms: left.map_or(0, millis),
            ..self.shared.counters.stats()
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Version").field(&self.info).finish()
    }
}

impl fmt::Debug for Configured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configured")
            .field("id", &self.id)
            .field("plugin", &self.version.shared.label)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
