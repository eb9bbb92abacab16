//! How much memory plugins hold: each plugin by itself, and all of them together.
//!
//! A limit per instance does not bound a node: a plugin has an instance per binding and
//! thread. What is counted is linear memory as the guest grew it, from the moment it
//! grows until the instance is dropped.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Something memory is taken from and given back to.
#[derive(Debug)]
pub(super) struct Pot {
    /// Bytes; never exceeded.
    limit: u64,
    used: AtomicU64,
    /// Times it had not enough left.
    refused: AtomicU64,
}

impl Pot {
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Bytes taken now.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Bytes it may give.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// How often it could not give what was asked for.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    fn take(&self, bytes: u64) -> bool {
        let taken = self.used.fetch_update(Relaxed, Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.limit)
        });
        if taken.is_err() {
            self.refused.fetch_add(1, Relaxed);
        }
        taken.is_ok()
    }

    fn give_back(&self, bytes: u64) {
        // Never more than was taken: see `Held`.
        self.used.fetch_sub(bytes, Relaxed);
    }
}

/// The pots an instance takes from, and what it took; given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    pots: Vec<Arc<Pot>>,
    bytes: u64,
}

impl Held {
    /// Nothing yet.
    pub(super) fn new(pots: Vec<Arc<Pot>>) -> Self {
        Self { pots, bytes: 0 }
    }

    /// Takes so much more from every pot, or nothing from any.
    pub(super) fn grow(&mut self, bytes: u64) -> bool {
        for (index, pot) in self.pots.iter().enumerate() {
            if !pot.take(bytes) {
                for taken in &self.pots[..index] {
                    taken.give_back(bytes);
                }
                return false;
            }
        }
        self.bytes += bytes;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for pot in &self.pots {
            pot.give_back(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_bounded_and_comes_back() {
        let (all, plugin) = (Pot::new(100), Pot::new(60));
        let held = || Held::new(vec![all.clone(), plugin.clone()]);
        let (mut one, mut other) = (held(), held());
        assert!(one.grow(50));
        // More than the plugin's own pot has: nothing is taken from the common one.
        assert!(!other.grow(20));
        assert_eq!((all.used(), plugin.used(), plugin.refused()), (50, 50, 1));
        assert!(other.grow(10));
        let mut neighbour = Held::new(vec![all.clone()]);
        assert!(!neighbour.grow(41));
        assert!(neighbour.grow(40));
        assert!(!neighbour.grow(u64::MAX));
        drop((one, other));
        assert_eq!((all.used(), plugin.used()), (40, 0));
    }
}
