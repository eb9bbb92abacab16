//! What each binding accepted last, so that a proxy that starts again can go on with it
//! where what is wanted now is refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tidegate_contract::{
    BindingState, BindingStats, PluginInfo, ProxyStats, Remembered, Snapshot, config_id,
};
use tidegate_policy::{
    Document, Problem, Severity,
    compiled::{Compiled, FailMode, L7Id, L7RuleSet, PluginUse, RuleId, RuleInfo, plugin_uses},
    objects::{Body, PluginBinding},
    origin::At,
    shared::Map,
};

use super::view::BindingView;

/// A plugin and the rules whose binding it is.
type Place = (String, Vec<RuleId>);

/// Last good versions and configurations by binding.
#[derive(Debug, Default)]
pub struct Bindings {
    good: BTreeMap<Place, Good>,
}

/// A version and a configuration that a binding accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Good {
    info: PluginInfo,
    config: String,
    artifact: PathBuf,
}

/// As it is kept across restarts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptBinding {
    plugin: String,
    rules: Vec<RuleId>,
    good: Good,
}

impl KeptBinding {
    /// The version that was accepted, as its file's digest.
    pub fn digest(&self) -> &str {
        &self.good.info.digest
    }
}

impl Bindings {
    /// What an earlier run kept.
    pub fn new(kept: Vec<KeptBinding>) -> Self {
        let good = kept.into_iter();
        Self {
            good: good.map(|k| ((k.plugin, k.rules), k.good)).collect(),
        }
    }

    /// To be kept for the next run.
    pub fn kept(&self) -> Vec<KeptBinding> {
        let good = self.good.iter();
        good.map(|((plugin, rules), good)| KeptBinding {
            plugin: plugin.clone(),
            rules: rules.clone(),
            good: good.clone(),
        })
        .collect()
    }

    /// Takes in what the proxy says of the published generation. True if something new
    /// was accepted.
    pub fn learn(
        &mut self,
        stats: &ProxyStats,
        published: &Snapshot,
        artifacts: &BTreeMap<String, PathBuf>,
    ) -> bool {
        let uses: BTreeMap<(&str, &[RuleId], String), &str> = plugin_uses(&published.l7)
            .map(|used| {
                let id = config_id(&used.config);
                ((&*used.plugin, &*used.rules, id), &*used.config)
            })
            .collect();
        let mut changed = false;
        for row in &stats.bindings {
            let key = (&*row.plugin, &*row.rules, row.config.clone());
            let (Some(config), Some(info)) = (uses.get(&key), published.plugins.get(&row.plugin))
            else {
                continue;
            };
            if row.state != BindingState::Active || row.digest != info.digest {
                continue;
            }
            let Some(artifact) = artifacts.get(&info.artifact) else {
                continue;
            };
            let good = Good {
                info: info.clone(),
                config: (*config).to_owned(),
                artifact: artifact.clone(),
            };
            let place = (row.plugin.clone(), row.rules.clone());
            changed |= self.good.get(&place) != Some(&good);
            self.good.insert(place, good);
        }
        changed
    }

    /// What a new proxy must know: bindings of these rule sets that accepted something
    /// else than what is wanted now. Adds the compiled code it needs.
    pub fn remembered(
        &self,
        l7: &Map<L7Id, Arc<L7RuleSet>>,
        plugins: &Map<String, PluginInfo>,
        artifacts: &mut BTreeMap<String, PathBuf>,
    ) -> Vec<Remembered> {
        let mut remembered = BTreeMap::new();
        for used in plugin_uses(l7) {
            let place = (used.plugin.clone(), used.rules.clone());
            let Some(good) = self.good.get(&place) else {
                continue;
            };
            let wanted = plugins.get(&used.plugin) == Some(&good.info);
            if wanted && used.config == good.config {
                continue;
            }
            artifacts.insert(good.info.artifact.clone(), good.artifact.clone());
            let entry = Remembered {
                plugin: place.0.clone(),
                rules: place.1.clone(),
                info: good.info.clone(),
                config: good.config.clone(),
            };
            remembered.insert(place, entry);
        }
        remembered.into_values().collect()
    }

    /// Compiled code a binding may have to go back to.
    pub fn artifacts(&self) -> impl Iterator<Item = PathBuf> {
        self.good.values().map(|good| good.artifact.clone())
    }

    /// A generation is in force: forgets bindings it does not have.
    pub fn commit(&mut self, compiled: &Compiled) {
        let places: BTreeSet<Place> = plugin_uses(&compiled.l7)
            .map(|used| (used.plugin.clone(), used.rules.clone()))
            .collect();
        self.good.retain(|place, _| places.contains(place));
    }
}

/// What bindings of the generation in force were refused, and where that was written; true
/// for those that go on with what they accepted last. A plugin that never was there is found
/// with the documents; one that was `removed` since, here.
pub fn refusals<'a>(
    stats: &[BindingStats],
    published: (&Compiled, &Snapshot),
    removed: &BTreeSet<&str>,
    documents: impl Iterator<Item = &'a Document> + Clone,
) -> Vec<(Problem, bool)> {
    let (compiled, snapshot) = published;
    let gone = plugin_uses(&compiled.l7).filter(|used| removed.contains(&*used.plugin));
    let gone: BTreeMap<_, _> = gone
        .map(|used| ((&*used.plugin, &*used.rules), used))
        .collect();
    let mut refusals: Vec<_> = gone
        .into_values()
        .filter_map(|used| Some((gone_plugin(used, compiled)?, false)))
        .collect();
    for row in stats {
        let Some(reason) = &row.reason else { continue };
        let mut uses = plugin_uses(&compiled.l7).filter(|used| {
            used.plugin == row.plugin
                && used.rules == row.rules
                && config_id(&used.config) == row.config
        });
        let index = blamed(reason, row.rules.len());
        let rule = row.rules.get(index).and_then(|id| compiled.rules.get(id));
        let (Some(used), Some(rule)) = (uses.next(), rule) else {
            continue;
        };
        if !snapshot.plugins.contains_key(&row.plugin) {
            continue;
        }
        let is_its = |binding: &&Arc<PluginBinding>| {
            let meta = &binding.meta;
            meta.kind == rule.kind && meta.name == rule.policy && meta.namespace == rule.namespace
        };
        let mut bindings = documents
            .clone()
            .filter_map(|document| match &document.body {
                Body::PluginBinding(binding) => Some(binding),
                _ => None,
            });
        let at = match bindings.find(is_its) {
            Some(binding) => binding.config_at.clone(),
            None => rule.at(),
        };
        let message = format!("the plugin {} does not take this: {reason}", row.plugin);
        let problem = Problem {
            value: Some(shown(&used.config, index, row.rules.len())),
            ..of_rule(rule, at, message)
        };
        refusals.push((problem, row.state == BindingState::LastGood));
    }
    refusals
}

/// Which of its rules a plugin means: one that it names as `rules[1]: …`, else the first.
fn blamed(reason: &str, rules: usize) -> usize {
    let named = reason.strip_prefix("rules[").and_then(|rest| {
        let (index, _) = rest.split_once("]:")?;
        index.parse().ok()
    });
    named.filter(|index| *index < rules).unwrap_or(0)
}

/// What of a configuration is shown where it is refused: of a list of rules the one that is
/// meant.
fn shown(config: &str, index: usize, rules: usize) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_str(config).ok();
    let list = parsed.as_ref().and_then(|config| {
        let list = config
            .as_array()
            .or_else(|| config.get("rules")?.as_array());
        list.filter(|list| list.len() == rules)
    });
    let rule = list
        .and_then(|list| list.get(index))
        .map(ToString::to_string);
    let whole = rule.as_deref().unwrap_or(config);
    whole.chars().take(SHOWN).collect()
}

/// A plugin was removed, and rules go on naming it.
fn gone_plugin(used: &PluginUse, compiled: &Compiled) -> Option<Problem> {
    let rule = compiled.rules.get(used.rules.first()?)?;
    let becomes = match used.fail_mode {
        FailMode::Closed => "refused",
        FailMode::Open => "let through",
    };
    let message = format!(
        "the plugin {} is not there any more, so what it should look at is {becomes}; bring its \
         file back into the plugins folder, or remove what names it",
        used.plugin
    );
    Some(of_rule(rule, rule.at(), message))
}

/// What is wrong with a rule, said of this place.
fn of_rule(rule: &RuleInfo, at: At, message: String) -> Problem {
    Problem {
        origin: Some(rule.origin.clone()),
        document: None,
        line: at.line,
        column: at.column,
        field: at.path,
        value: None,
        message,
        hint: None,
        severity: Severity::Error,
    }
}

/// Longest configuration shown in a message, in characters.
const SHOWN: usize = 60;

/// How the bindings of the generation in force are doing, by name.
pub fn view(stats: &[BindingStats], compiled: &Compiled) -> Vec<BindingView> {
    let wanted: BTreeSet<(&str, &[RuleId], String)> = plugin_uses(&compiled.l7)
        .map(|used| (&*used.plugin, &*used.rules, config_id(&used.config)))
        .collect();
    let rows = stats
        .iter()
        .filter(|row| wanted.contains(&(&*row.plugin, &*row.rules, row.config.clone())));
    rows.map(|row| {
        let rule = row.rules.first().and_then(|id| compiled.rules.get(id));
        BindingView {
            binding: rule.map_or_else(String::new, |rule| {
                format!("{} {}", rule.kind, rule.short())
            }),
            file: rule.map(|rule| rule.origin.to_string()).unwrap_or_default(),
            plugin: row.plugin.clone(),
            version: row.version.clone(),
            state: row.state.into(),
            reason: row.reason.clone(),
            calls: row.calls,
            failures: row.failures,
            held_back: row.held_back,
            peers_held_back: row.peers_held_back,
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use tidegate_contract::{Limits, World};
    use tidegate_policy::compiled::{FailMode, L7Protocol, PluginUse};

    use super::*;

    fn info(digest: &str) -> PluginInfo {
        PluginInfo {
            version: "1".into(),
            digest: digest.into(),
            artifact: format!("code of {digest}"),
            world: World::HttpFilter,
            capabilities: Vec::new(),
            limits: Limits::default(),
        }
    }

    fn sets(config: &str) -> Map<L7Id, Arc<L7RuleSet>> {
        let set = L7RuleSet {
            protocol: L7Protocol::Http,
            http: Default::default(),
            chain: vec![PluginUse {
                plugin: "p".into(),
                config: config.into(),
                fail_mode: FailMode::Closed,
                rules: vec![RuleId(7)],
                bound: true,
                in_shadow: false,
            }],
            tls: None,
            contexts: Default::default(),
            shadow: None,
        };
        Map::unit(L7Id(1), Arc::new(set))
    }

    #[test]
    fn the_rule_that_a_plugin_names_is_the_one_that_is_shown() {
        for (reason, rules, index) in [
            ("rules[1]: key: no", 2, 1),
            ("rules[2]: key: no", 2, 0),
            ("rules[-1]: no", 2, 0),
            ("rules[1] no", 2, 0),
            ("unknown field", 2, 0),
        ] {
            assert_eq!(blamed(reason, rules), index, "{reason}");
        }
        for (config, index, rules, said) in [
            (r#"[{"a":1},{"b":2}]"#, 1, 2, r#"{"b":2}"#),
            (r#"{"rules":[{"a":1},{"b":2}]}"#, 1, 2, r#"{"b":2}"#),
            // Not a list with a place for each rule.
            (r#"[{"a":1}]"#, 0, 2, r#"[{"a":1}]"#),
            (r#"{"a":1}"#, 0, 1, r#"{"a":1}"#),
            ("no json", 0, 1, "no json"),
        ] {
            assert_eq!(shown(config, index, rules), said, "{config}");
        }
    }

    #[test]
    fn what_was_accepted_is_remembered_where_something_else_is_wanted() {
        let published = Snapshot {
            l7: sets("good"),
            plugins: Map::unit("p".to_owned(), info("a")),
            ..Snapshot::default()
        };
        let code = BTreeMap::from([("code of a".to_owned(), PathBuf::from("/a"))]);
        let row = |state, config: &str| BindingStats {
            plugin: "p".into(),
            rules: vec![RuleId(7)],
            config: config_id(config),
            digest: "a".into(),
            state,
            ..BindingStats::default()
        };
        let stats = |rows| ProxyStats {
            bindings: rows,
            ..ProxyStats::default()
        };
        let mut bindings = Bindings::default();
        let pending = stats(vec![row(BindingState::Preparing, "good")]);
        assert!(!bindings.learn(&pending, &published, &code));
        let active = stats(vec![row(BindingState::Active, "good")]);
        assert!(bindings.learn(&active, &published, &code));
        assert!(!bindings.learn(&active, &published, &code), "nothing new");

        let mut bindings = Bindings::new(bindings.kept());
        let mut artifacts = BTreeMap::new();
        let mut check = |config: &str, digest: &str, expected: usize| {
            let plugins = Map::unit("p".to_owned(), info(digest));
            let told = bindings.remembered(&sets(config), &plugins, &mut artifacts);
            assert_eq!(told.len(), expected, "{config} {digest}");
            told
        };
        check("good", "a", 0);
        assert_eq!(check("bad", "a", 1)[0].config, "good");
        assert_eq!(check("good", "b", 1)[0].info.digest, "a");
        assert_eq!(artifacts["code of a"], PathBuf::from("/a"));
        bindings.commit(&Compiled::default());
        assert!(bindings.kept().is_empty());
    }
}
