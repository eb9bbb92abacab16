//! What makes one snapshot of another: one changed policy must not cost what all of them do.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tidegate_policy::{
    compiled::{EndpointId, FqdnSelector, Generation, IdentityId, L7Id, L7RuleSet, PolicyRow},
    shared::{self, Map},
};

use crate::{Context, PluginInfo, Reject, Remembered, Snapshot};

/// What is different in a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delta {
    generation: Generation,
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    l7: Changes<L7Id, Arc<L7RuleSet>>,
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    identities: Changes<IdentityId, Arc<[String]>>,
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    fqdn: Changes<IdentityId, FqdnSelector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fqdn_in_shadow: Option<BTreeSet<IdentityId>>,
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    plugins: Changes<String, PluginInfo>,
    fqdn_min_ttl: u32,
    reject: Reject,
    audit: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remembered: Option<Vec<Remembered>>,
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    outward: Changes<EndpointId, Arc<[PolicyRow]>>,
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    contexts: Changes<String, Context>,
}

/// It is for another snapshot than this: something it takes out is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it takes out something of {0} that is not there")]
pub struct Misfit(&'static str);

impl Delta {
    /// What makes `new` of `old`.
    pub fn between(old: &Snapshot, new: &Snapshot) -> Self {
        // In full, so that no part is forgotten.
        let Snapshot {
            generation,
            l7,
            identities,
            fqdn,
            fqdn_in_shadow,
            plugins,
            fqdn_min_ttl,
            reject,
            audit,
            remembered,
            outward,
            contexts,
        } = new;
        Self {
            generation: *generation,
            l7: Changes::between(&old.l7, l7),
            identities: Changes::between(&old.identities, identities),
            fqdn: Changes::between(&old.fqdn, fqdn),
            fqdn_in_shadow: (old.fqdn_in_shadow != *fqdn_in_shadow).then(|| fqdn_in_shadow.clone()),
            plugins: Changes::between(&old.plugins, plugins),
            fqdn_min_ttl: *fqdn_min_ttl,
            reject: *reject,
            audit: *audit,
            remembered: (old.remembered != *remembered).then(|| remembered.clone()),
            outward: Changes::between(&old.outward, outward),
            contexts: Changes::between(&old.contexts, contexts),
        }
    }

    /// Makes the new snapshot of the old one.
    ///
    /// # Errors
    ///
    /// If it is for another one; then `snapshot` stays as it was.
    pub fn apply(self, snapshot: &mut Snapshot) -> Result<(), Misfit> {
        self.l7.fits(&snapshot.l7, "l7")?;
        self.identities.fits(&snapshot.identities, "identities")?;
        self.fqdn.fits(&snapshot.fqdn, "fqdn")?;
        self.plugins.fits(&snapshot.plugins, "plugins")?;
        self.outward.fits(&snapshot.outward, "outward")?;
        self.contexts.fits(&snapshot.contexts, "contexts")?;
        let Self {
            generation,
            l7,
            identities,
            fqdn,
            fqdn_in_shadow,
            plugins,
            fqdn_min_ttl,
            reject,
            audit,
            remembered,
            outward,
            contexts,
        } = self;
        snapshot.generation = generation;
        l7.apply(&mut snapshot.l7);
        identities.apply(&mut snapshot.identities);
        fqdn.apply(&mut snapshot.fqdn);
        plugins.apply(&mut snapshot.plugins);
        outward.apply(&mut snapshot.outward);
        contexts.apply(&mut snapshot.contexts);
        snapshot.fqdn_min_ttl = fqdn_min_ttl;
        snapshot.reject = reject;
        snapshot.audit = audit;
        if let Some(in_shadow) = fqdn_in_shadow {
            snapshot.fqdn_in_shadow = in_shadow;
        }
        if let Some(remembered) = remembered {
            snapshot.remembered = remembered;
        }
        Ok(())
    }
}

/// What is different in one table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "K: Deserialize<'de> + Ord, V: Deserialize<'de>"))]
struct Changes<K, V> {
    /// New, or with another content.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    put: BTreeMap<K, V>,
    /// Not there any more.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    gone: BTreeSet<K>,
}

impl<K, V> Default for Changes<K, V> {
    fn default() -> Self {
        Self {
            put: BTreeMap::new(),
            gone: BTreeSet::new(),
        }
    }
}

impl<K, V> Changes<K, V> {
    fn is_empty(&self) -> bool {
        self.put.is_empty() && self.gone.is_empty()
    }
}

impl<K: Ord + Clone, V: PartialEq + Clone> Changes<K, V> {
    fn between(old: &Map<K, V>, new: &Map<K, V>) -> Self {
        let mut changes = Self::default();
        for change in shared::changes(old, new) {
            match change.now {
                Some(now) => _ = changes.put.insert(change.key.clone(), now.clone()),
                None => _ = changes.gone.insert(change.key.clone()),
            }
        }
        changes
    }

    fn fits(&self, table: &Map<K, V>, name: &'static str) -> Result<(), Misfit> {
        match self.gone.iter().all(|key| table.contains_key(key)) {
            true => Ok(()),
            false => Err(Misfit(name)),
        }
    }

    fn apply(self, table: &mut Map<K, V>) {
        for key in &self.gone {
            table.remove(key);
        }
        table.extend(self.put);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use tidegate_policy::compiled::RuleId;

    use super::*;

    /// Few keys and contents, so that the same ones come, change and go.
    fn snapshot() -> impl Strategy<Value = Snapshot> {
        let labels = vec((0..4_u32, vec("[ab]", 0..2)), 0..4);
        let names = vec((0..4_u32, "[ab]\\."), 0..3);
        let sets = vec((1..4_u32, 0..2_usize), 0..3);
        let outward = vec(0..4_u32, 0..3);
        let in_shadow = vec(0..4_u32, 0..2);
        let contexts = vec(("[ab]", "[ab]"), 0..3);
        let rest = (0..3_u32, any::<bool>(), 0..2_u32);
        (labels, names, sets, outward, (in_shadow, contexts), rest).prop_map(
            |(labels, names, sets, outward, (in_shadow, contexts), (ttl, flag, generation))| {
                let reject = match flag {
                    true => Reject::NameError,
                    false => Reject::Refused,
                };
                let set = |n| L7RuleSet {
                    protocol: tidegate_policy::compiled::L7Protocol::Http,
                    http: Default::default(),
                    chain: Vec::new(),
                    tls: None,
                    contexts: Default::default(),
                    shadow: (n > 0).then_some(tidegate_policy::compiled::Rehearsed {
                        verdict: tidegate_policy::compiled::Verdict::Deny,
                        rule: RuleId(1),
                        l7: L7Id(0),
                    }),
                };
                Snapshot {
                    generation: Generation(generation),
                    l7: sets
                        .into_iter()
                        .map(|(id, n)| (L7Id(id), Arc::new(set(n))))
                        .collect(),
                    identities: labels
                        .into_iter()
                        .map(|(id, all)| (IdentityId(id), Arc::from(all)))
                        .collect(),
                    fqdn: names
                        .into_iter()
                        .map(|(id, name)| (IdentityId(id), FqdnSelector::MatchName(name)))
                        .collect(),
                    fqdn_in_shadow: in_shadow.into_iter().map(IdentityId).collect(),
                    plugins: Map::new(),
                    fqdn_min_ttl: ttl,
                    reject,
                    audit: flag,
                    remembered: Vec::new(),
                    outward: outward
                        .into_iter()
                        .map(|id| (EndpointId(id), Arc::from([])))
                        .collect(),
                    contexts: contexts
                        .into_iter()
                        .map(|(key, text)| (key, Context::Broken(text)))
                        .collect(),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn any_sequence_of_snapshots_is_the_same_as_deltas(snapshots in vec(snapshot(), 1..8)) {
            let mut old = Snapshot::default();
            for new in snapshots {
                let mut made = old.clone();
                let delta = Delta::between(&old, &new);
                // As it travels.
                let bytes = serde_json::to_vec(&delta).expect("written");
                let delta: Delta = serde_json::from_slice(&bytes).expect("read");
                prop_assert_eq!(delta.apply(&mut made), Ok(()));
                prop_assert_eq!(&made, &new);
                old = new;
            }
        }

        #[test]
        fn what_does_not_fit_changes_nothing(
            one in snapshot(), other in snapshot(), third in snapshot(),
        ) {
            let mut made = third.clone();
            if Delta::between(&one, &other).apply(&mut made).is_err() {
                prop_assert_eq!(made, third);
            }
        }
    }

    #[test]
    fn what_is_for_another_snapshot_does_not_fit() {
        let old = Snapshot {
            identities: Map::unit(IdentityId(1), Arc::from([])),
            ..Snapshot::default()
        };
        let delta = Delta::between(&old, &Snapshot::default());
        let misfit = delta.apply(&mut Snapshot::default()).expect_err("a misfit");
        assert!(misfit.to_string().contains("identities"));
    }
}
