//! Counters of plugins; names and their number are bounded by
//! [`Counters`](crate::plugin_host::counters::Counters).

use crate::plugin_host::{bindings::imports::metrics::Host, instance::State};

impl Host for State {
    fn add(&mut self, name: String, value: u64) {
        self.shared.totals.add(name, value);
    }
}
