//! How long things take: counted into fixed classes, by many threads at once.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units;

/// Upper bounds of the classes, nanoseconds, each included in its class; what is longer
/// than the last is in a class of its own. From a plugin's call (about 1 µs) to a request
/// that waits for its server: three a decade where most things happen.
pub const BOUNDS_NS: [u64; 18] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    50_000_000,
    250_000_000,
    1_000_000_000,
    5_000_000_000,
    30_000_000_000,
];

/// A histogram that threads add to.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BOUNDS_NS.len() + 1],
    sum_ns: AtomicU64,
}

/// What a histogram had counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Durations {
    /// How many were in each class of [`BOUNDS_NS`], the last one longer than all bounds.
    pub counts: Vec<u64>,
    /// All of them together; nanoseconds inside, seconds outside.
    #[serde(rename = "sumSeconds", with = "units::of_nanoseconds")]
    #[schemars(with = "f64")]
    pub sum_ns: u64,
}

impl Histogram {
    /// Counts one.
    pub fn add(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let class = BOUNDS_NS.partition_point(|bound| *bound < ns);
        self.counts[class].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> Durations {
        Durations {
            counts: self.counts.iter().map(|n| n.load(Relaxed)).collect(),
            sum_ns: self.sum_ns.load(Relaxed),
        }
    }
}

impl Durations {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them together, seconds. From 2^53 ns (104 days) on the last digits are lost.
    pub fn seconds(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_class_and_what_is_longer_to_the_last() {
        let histogram = Histogram::default();
        for ns in [0, 1_000, 1_001, 30_000_000_000, 30_000_000_001] {
            histogram.add(Duration::from_nanos(ns));
        }
        let read = histogram.read();
        assert_eq!(read.counts[..2], [2, 1]);
        assert_eq!(read.counts[BOUNDS_NS.len() - 1..], [1, 1]);
        assert_eq!(read.count(), 5);
        assert!((read.seconds() - 60.000_002_002).abs() < 1e-6);
    }
}
