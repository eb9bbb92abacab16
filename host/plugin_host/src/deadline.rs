//! When a call must end. What counts is the processor time it used: on a busy machine
//! a thread may not run for longer than a whole deadline, and a call that had no chance
//! to run must not be taken for one that does not end.
//!
//! Reading a thread's processor time is a system call, so the first half of the limit
//! is waited for by the epoch clock alone; only a call that is still running then is
//! looked at.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The deadline of the current call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deadline {
    limit_ms: u64,
    /// Processor time of the thread at which the call ends; unknown in the first half.
    end: Option<Duration>,
}

impl Deadline {
    /// For a call that may use `limit_ms` milliseconds.
    pub(super) fn new(limit_ms: u64) -> Self {
        Self {
            limit_ms,
            end: None,
        }
    }

    /// Milliseconds until it is looked at first, at least 1.
    pub(super) fn first_look_ms(self) -> u64 {
        self.limit_ms.div_ceil(2).max(1)
    }

    /// Milliseconds until the next look, at least 1, or `None` if the call must end.
    /// `used` is the processor time of the thread so far.
    pub(super) fn look(&mut self, used: Duration) -> Option<u64> {
        let half = Duration::from_millis(self.limit_ms / 2);
        let end = *self.end.get_or_insert(used + half);
        let left = end.checked_sub(used).filter(|left| !left.is_zero())?;
        Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1))
    }
}

/// Processor time the current thread has used. A kernel without that clock ends calls
/// at the first look.
pub(super) fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::MAX, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Processor times at the looks, and whether the call goes on after each.
    fn check(limit_ms: u64, looks: &[(u64, Option<u64>)]) {
        let mut deadline = Deadline::new(limit_ms);
        for (used_ms, expected) in looks {
            let next = deadline.look(Duration::from_millis(*used_ms));
            assert_eq!(next, *expected, "limit {limit_ms}, looked at {used_ms}");
        }
    }

    #[test]
    fn a_call_that_runs_ends_after_its_limit() {
        assert_eq!(Deadline::new(10).first_look_ms(), 5);
        check(10, &[(5, Some(5)), (10, None)]);
        check(11, &[(6, Some(5)), (11, None)]);
        check(1, &[(1, None)]);
    }

    #[test]
    fn a_call_that_could_not_run_gets_its_time() {
        check(10, &[(0, Some(5)), (1, Some(4)), (2, Some(3)), (5, None)]);
    }
}
