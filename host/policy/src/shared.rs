//! Maps whose copies share what is the same, so that a copy costs nothing, and finding what is
//! different between two of them costs what is different.

use imbl::ordmap::DiffItem;

/// A map in the order of its keys. One that was made of another by some edits shares
/// everything else with it.
pub type Map<K, V> = imbl::OrdMap<K, V>;

/// What became of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'m, K, V> {
    /// Its key.
    pub key: &'m K,
    /// What it was; `None` if it was not there.
    pub before: Option<&'m V>,
    /// What it is; `None` if it is not there any more.
    pub now: Option<&'m V>,
}

/// What is different in `now`, in the order of the keys.
pub fn changes<'m, K: Ord, V: PartialEq>(
    before: &'m Map<K, V>,
    now: &'m Map<K, V>,
) -> impl Iterator<Item = Change<'m, K, V>> {
    before.diff(now).map(|item| match item {
        DiffItem::Add(key, value) => Change {
            key,
            before: None,
            now: Some(value),
        },
        DiffItem::Update { old, new } => Change {
            key: new.0,
            before: Some(old.1),
            now: Some(new.1),
        },
        DiffItem::Remove(key, value) => Change {
            key,
            before: Some(value),
            now: None,
        },
    })
}

/// Makes an entry what it should be, or takes it out. What is so already stays as it is, and
/// shared.
pub fn set<K: Ord + Clone, V: PartialEq + Clone>(map: &mut Map<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) if map.get(&key) == Some(&value) => {}
        Some(value) => _ = map.insert(key, value),
        None if !map.contains_key(&key) => {}
        None => _ = map.remove(&key),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Going from one map to another by what is different leads there, however they came about.
        #[test]
        fn what_is_different_leads_from_one_to_the_other(
            start: BTreeMap<u8, u8>,
            edits: Vec<(u8, Option<u8>)>,
            other: BTreeMap<u8, u8>,
        ) {
            let before: Map<u8, u8> = start.into_iter().collect();
            let mut edited = before.clone();
            for (key, value) in edits {
                set(&mut edited, key, value);
            }
            let other: Map<u8, u8> = other.into_iter().collect();
            for now in [edited, other] {
                let mut made: BTreeMap<u8, u8> = before.iter().map(|(k, v)| (*k, *v)).collect();
                for change in changes(&before, &now) {
                    prop_assert_ne!(change.before, change.now);
                    prop_assert_eq!(made.get(change.key), change.before);
                    match change.now {
                        Some(value) => _ = made.insert(*change.key, *value),
                        None => _ = made.remove(change.key),
                    }
                }
                prop_assert!(made.iter().eq(now.iter()));
            }
        }
    }

    /// Counts how often it is compared.
    #[derive(Clone, Debug)]
    struct Counted(u32);
    static COMPARED: AtomicUsize = AtomicUsize::new(0);

    impl PartialEq for Counted {
        fn eq(&self, other: &Self) -> bool {
            COMPARED.fetch_add(1, Relaxed);
            self.0 == other.0
        }
    }

    #[test]
    fn finding_one_difference_does_not_look_at_everything() {
        let before: Map<u32, Counted> = (0..100_000).map(|n| (n, Counted(n))).collect();
        let mut now = before.clone();
        now.insert(5_000, Counted(0));
        now.remove(&70_000);
        now.insert(100_000, Counted(1));
        COMPARED.store(0, Relaxed);
        assert_eq!(changes(&before, &now).count(), 3);
        assert!(COMPARED.load(Relaxed) < 1_000, "{COMPARED:?} comparisons");
    }
}
