//! How many failures a plugin may have before it is left alone for a while.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Failures within [`WINDOW`] that use the budget up.
const FAILURES: usize = 10;
/// Failures older than this are forgotten.
const WINDOW: Duration = Duration::from_secs(10);
/// First suspension; each further one lasts twice as long, up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Error budget of one plugin version, shared by all threads. Times are since the
/// runtime's start.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// End of the suspension in milliseconds; 0 if there is none.
    until_ms: AtomicU64,
    history: Mutex<History>,
}

#[derive(Debug, Default)]
struct History {
    failures: VecDeque<Duration>,
    /// Length and end of the last suspension.
    last: Option<(Duration, Duration)>,
}

impl Budget {
    /// Time left of a suspension. Costs one load while there never was one.
    pub(super) fn suspended(&self, now: impl FnOnce() -> Duration) -> Option<Duration> {
        let until = match self.until_ms.load(Relaxed) {
            0 => return None,
            until => Duration::from_millis(until),
        };
        until.checked_sub(now()).filter(|left| !left.is_zero())
    }

    /// A call failed. `Some`: the plugin is suspended for this long from now on.
    pub(super) fn failed(&self, now: Duration) -> Option<Duration> {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let suspension = history.failed(now)?;
        let until = u64::try_from((now + suspension).as_millis()).unwrap_or(u64::MAX);
        self.until_ms.store(until, Relaxed);
        Some(suspension)
    }
}

impl History {
    fn failed(&mut self, now: Duration) -> Option<Duration> {
        if let Some((_, until)) = self.last
            && now < until
        {
            // Another thread's call was under way when the suspension began.
            return None;
        }
        self.failures.push_back(now);
        while self
            .failures
            .front()
            .is_some_and(|first| *first + WINDOW < now)
        {
            self.failures.pop_front();
        }
        // On probation for one window after a suspension: one failure is enough.
        let probation = self.last.filter(|(_, until)| now < *until + WINDOW);
        let suspension = match probation {
            Some((length, _)) => (length * 2).min(LONGEST),
            None if self.failures.len() >= FAILURES => FIRST,
            None => return None,
        };
        self.failures.clear();
        self.last = Some((suspension, now + suspension));
        Some(suspension)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Failures at these milliseconds; the answers that are suspensions, in seconds.
    fn check(failures_ms: &[u64], expected: &[(u64, u64)]) {
        let budget = Budget::default();
        let mut suspensions = Vec::new();
        for ms in failures_ms {
            if let Some(length) = budget.failed(Duration::from_millis(*ms)) {
                suspensions.push((*ms, length.as_secs()));
            }
        }
        assert_eq!(suspensions, expected, "{failures_ms:?}");
    }

    #[test]
    fn ten_failures_in_ten_seconds_suspend_and_repetition_doubles() {
        check(&[1; 9], &[]);
        check(&[1; 10], &[(1, 1)]);
        let slow: Vec<u64> = (0..30).map(|n| n * 1_200).collect();
        check(&slow, &[]);
        let mut again = vec![0; 10];
        again.extend([
            500, 1_000, 3_000, 7_000, 15_000, 31_000, 63_000, 123_000, 183_000,
        ]);
        check(
            &again,
            &[
                (0, 1),
                (1_000, 2),
                (3_000, 4),
                (7_000, 8),
                (15_000, 16),
                (31_000, 32),
                (63_000, 60),
                (123_000, 60),
                (183_000, 60),
            ],
        );
        let mut healed = vec![0; 10];
        healed.push(12_000);
        check(&healed, &[(0, 1)]);
    }

    #[test]
    fn a_suspension_ends() {
        let budget = Budget::default();
        let at = |ms| move || Duration::from_millis(ms);
        assert_eq!(budget.suspended(at(0)), None);
        for _ in 0..FAILURES {
            budget.failed(Duration::from_millis(100));
        }
        assert_eq!(budget.suspended(at(600)), Some(Duration::from_millis(500)));
        assert_eq!(budget.suspended(at(1_100)), None);
    }
}
