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

use super::failure::Failure;

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
    own: Mutex<BTreeMap<String, u64>>,
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

    /// The plugin counts something itself. Names beyond the limit are dropped; a name
    /// keeps only what a label value may hold without surprises.
    pub(super) fn add(&self, mut name: String, value: u64) {
        name.retain(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\'));
        name.truncate(NAME);
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = own.get_mut(&name) {
            *count = count.saturating_add(value);
        } else if own.len() < NAMES {
            own.insert(name, value);
        }
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
            counters: self
                .own
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            ..PluginStats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        let counters = Counters::default();
        for n in 0..1000 {
            counters.add(format!("name-{n}"), 1);
        }
        counters.add("name-0".to_owned(), u64::MAX);
        counters.add("na\nme-\"1".to_owned(), 1);
        let own = counters.stats().counters;
        assert_eq!(own.len(), NAMES);
        assert_eq!(own["name-0"], u64::MAX);
        assert_eq!(own["name-1"], 2);
    }
}
