//! What is counted per plugin version, by all threads.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tidegate_contract::{PluginStats, durations::Histogram};

use super::{
    configured::{PerPurpose, Purpose},
    failure::Failure,
};

/// Counter names a plugin may use.
const NAMES: usize = 64;
/// Longest counter name, bytes.
const NAME: usize = 128;

/// Counters of one plugin version.
#[derive(Debug, Default)]
pub(super) struct Counters {
    calls: AtomicU64,
    traps: AtomicU64,
    deadlines: AtomicU64,
    out_of_memory: AtomicU64,
    durations: Histogram,
    instances: AtomicU64,
    own: Mutex<PerPurpose<BTreeMap<String, u64>>>,
}

impl Counters {
    /// A call ended.
    pub(super) fn called(&self, took: Duration, failure: Option<&Failure>) {
        self.calls.fetch_add(1, Relaxed);
        self.durations.add(took);
        let kind = match failure {
            None => return,
            Some(Failure::Deadline) => &self.deadlines,
            Some(Failure::OutOfMemory) => &self.out_of_memory,
            Some(_) => &self.traps,
        };
        kind.fetch_add(1, Relaxed);
    }

    /// An instance was made.
    pub(super) fn instance_made(&self) {
        self.instances.fetch_add(1, Relaxed);
    }

    /// An instance was thrown away.
    pub(super) fn instance_dropped(&self) {
        self.instances.fetch_sub(1, Relaxed);
    }

    /// Something the plugin keeps itself went up or down; it never is below zero.
    pub(super) fn change(&self, purpose: Purpose, name: String, by: i64) {
        self.adjust(purpose, name, |count| count.saturating_add_signed(by));
    }

    /// The plugin counts something itself. Names beyond the limit are dropped, of what is
    /// rehearsed beyond a part of it that it has for itself; a name keeps only what a label
    /// value may hold without surprises.
    pub(super) fn add(&self, purpose: Purpose, name: String, value: u64) {
        self.adjust(purpose, name, |count| count.saturating_add(value));
    }

    fn adjust(&self, purpose: Purpose, mut name: String, next: impl FnOnce(u64) -> u64) {
        name.retain(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\'));
        name.truncate(NAME);
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let own = &mut own[purpose];
        let most = purpose.part_of(NAMES);
        if let Some(count) = own.get_mut(&name) {
            *count = next(*count);
        } else if own.len() < most {
            own.insert(name, next(0));
        }
    }

    /// What it counts itself, whoever asked for it.
    fn own(&self) -> BTreeMap<String, u64> {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sums = BTreeMap::new();
        for (name, count) in own.iter().flatten() {
            let sum: &mut u64 = sums.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
        sums
    }

    /// Everything, for the agent; version, digest and suspension are the caller's.
    pub(super) fn stats(&self) -> PluginStats {
        PluginStats {
            calls: self.calls.load(Relaxed),
            traps: self.traps.load(Relaxed),
            deadlines: self.deadlines.load(Relaxed),
            out_of_memory: self.out_of_memory.load(Relaxed),
            durations: self.durations.read(),
            instances: self.instances.load(Relaxed),
            counters: self.own(),
            ..PluginStats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_those_in_shadow_take_none_from_others() {
        let counters = Counters::default();
        let enforced = |name: String, value| counters.add(Purpose::Enforced, name, value);
        for n in 0..1000 {
            counters.add(Purpose::Rehearsed, format!("shadow-{n}"), 1);
        }
        assert_eq!(counters.stats().counters.len(), NAMES / 4);
        for n in 0..1000 {
            enforced(format!("name-{n}"), 1);
        }
        enforced("name-0".to_owned(), u64::MAX);
        enforced("na\nme-\"1".to_owned(), 1);
        counters.add(Purpose::Rehearsed, "shadow-0".to_owned(), 1);
        let own = counters.stats().counters;
        assert_eq!(own.len(), NAMES + NAMES / 4);
        assert_eq!(own["name-0"], u64::MAX);
        assert_eq!(own["name-1"], 2);
        assert_eq!(own["shadow-0"], 2);
        enforced("shadow-0".to_owned(), 1);
        assert_eq!(counters.stats().counters.len(), NAMES + NAMES / 4);
    }
}
