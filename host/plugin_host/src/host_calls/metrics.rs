//! Counters of plugins; names and their number are bounded by
//! [`Counters`](crate::counters::Counters).

use crate::{instance::State, worlds::imports::metrics::Host};

impl Host for State {
    fn add(&mut self, name: String, value: u64) {
        if !self.facts.imagined {
            self.shared.totals.add(self.shared.purpose, name, value);
        }
    }
}
