//! A binding's share of a thread that serves traffic.
//!
//! A guest call cannot be put aside half-way: while it runs, nobody else on that thread
//! is served. So each binding may use a part of every thread's time and no more; beyond
//! that its messages are refused without asking the plugin, until time has passed.

use std::time::{Duration, Instant};

/// How much of its share a binding may have saved up.
const BURST: Duration = Duration::from_millis(100);
/// A call of this length was interrupted by others, or is one to look at: from then on
/// the binding's calls are measured in processor time.
pub(super) const CONSPICUOUS: Duration = Duration::from_millis(1);
/// Measured calls without a long one after which it is not looked at any more.
const QUIET: u32 = 1_000;

/// Token bucket of one binding on one thread. What it holds is time.
#[derive(Debug)]
pub(super) struct Share {
    /// Time left, may be negative, microseconds.
    left_us: i64,
    refilled: Instant,
    /// Calls to measure.
    watched: u32,
}

impl Share {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left_us: micros(BURST),
            refilled: now,
            watched: 0,
        }
    }

    /// May the plugin be asked now? `percent` of the thread's time is the binding's.
    pub(super) fn may(&mut self, now: Instant, percent: u8) -> bool {
        let passed = now.saturating_duration_since(self.refilled);
        // Adding nothing must not forget the time that has passed.
        if passed >= Duration::from_millis(1) {
            self.refilled = now;
            let more = micros(passed).saturating_mul(i64::from(percent)) / 100;
            self.left_us = self.left_us.saturating_add(more).min(micros(BURST));
        }
        self.left_us > 0
    }

    /// Should the next call be measured in processor time? Reading that clock is a
    /// system call, which short calls are spared.
    pub(super) fn measured(&self) -> bool {
        self.watched > 0
    }

    /// A call took this long.
    pub(super) fn used(&mut self, took: Duration) {
        self.watched = if took >= CONSPICUOUS {
            QUIET
        } else {
            self.watched.saturating_sub(1)
        };
        self.left_us = self.left_us.saturating_sub(micros(took));
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many calls of this length get through in ten seconds if they never stop.
    fn calls_in_ten_seconds(length: Duration, percent: u8) -> u32 {
        let start = Instant::now();
        let mut share = Share::new(start);
        let (mut now, mut calls) = (start, 0);
        while now < start + Duration::from_secs(10) {
            if share.may(now, percent) {
                share.used(length);
                calls += 1;
                now += length;
            } else {
                now += Duration::from_millis(1);
            }
        }
        calls
    }

    #[test]
    fn a_binding_gets_its_share_and_no_more() {
        for (length_us, percent, least, most) in [
            (8_000, 25, 300, 330),
            (500, 25, 5_000, 5_300),
            (8_000, 1, 20, 27),
            (100, 100, 99_000, 100_000),
        ] {
            let calls = calls_in_ten_seconds(Duration::from_micros(length_us), percent);
            assert!(
                (least..=most).contains(&calls),
                "{length_us} {percent}: {calls}"
            );
        }
    }

    #[test]
    fn only_long_calls_are_conspicuous() {
        let mut share = Share::new(Instant::now());
        share.used(Duration::from_micros(999));
        assert!(!share.measured());
        share.used(CONSPICUOUS);
        assert!(share.measured());
        for _ in 0..QUIET {
            share.used(Duration::from_micros(1));
        }
        assert!(!share.measured());
    }
}
