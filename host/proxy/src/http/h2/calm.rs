//! How much a client may do that leads nowhere (RFC 9113 §10.5): by rate, and in
//! proportion to what does lead somewhere.

use std::time::Instant;

use tidegate_wire::http2::frame::code;

use super::Fault;

/// Allowances of one kind, as a bucket that fills with time and by useful work.
struct Bucket {
    left: u32,
    most: u32,
    per_second: u32,
    refilled: Instant,
}

impl Bucket {
    fn new(most: u32, per_second: u32, now: Instant) -> Self {
        Self {
            left: most,
            most,
            per_second,
            refilled: now,
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled).as_millis();
        let grown = passed * u128::from(self.per_second) / 1000;
        // A fraction is not lost: the clock is not read as late until it is worth one.
        if grown > 0 {
            self.refilled = now;
            self.earn(u32::try_from(grown).unwrap_or(u32::MAX));
        }
    }

    fn earn(&mut self, count: u32) {
        self.left = self.left.saturating_add(count).min(self.most);
    }

    fn spend(&mut self, reason: &'static str) -> Result<(), Fault> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or(Fault::new(code::ENHANCE_YOUR_CALM, reason))?;
        Ok(())
    }
}

/// Frames that change nothing by themselves: at most this many at once ...
const FRAMES: u32 = 2_000;
/// ... and this many a second.
const FRAMES_PER_SECOND: u32 = 500;
/// What a request, or a piece of a body either way, allows in addition: an update of
/// each of two windows, a priority, a ping.
const FRAMES_PER_USE: u32 = 4;
/// Requests that come to nothing by the client's own doing, at once and a second; every
/// answered request allows one more.
const CANCELS: u32 = 1_000;
const CANCELS_PER_SECOND: u32 = 100;

/// What one client still may.
pub(super) struct Calm {
    frames: Bucket,
    cancels: Bucket,
}

impl Calm {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            frames: Bucket::new(FRAMES, FRAMES_PER_SECOND, now),
            cancels: Bucket::new(CANCELS, CANCELS_PER_SECOND, now),
        }
    }

    /// Time has passed.
    pub(super) fn refill(&mut self, now: Instant) {
        self.frames.refill(now);
        self.cancels.refill(now);
    }

    /// A frame that changes nothing by itself.
    pub(super) fn idle_frame(&mut self) -> Result<(), Fault> {
        self.frames.spend("too many frames that do nothing")
    }

    /// A request or a piece of a body.
    pub(super) fn used(&mut self) {
        self.frames.earn(FRAMES_PER_USE);
    }

    /// A request that was cancelled before its answer, or was an error.
    pub(super) fn cancelled(&mut self) -> Result<(), Fault> {
        self.cancels.spend("too many cancelled requests")
    }

    /// A request that upstream answered.
    pub(super) fn answered(&mut self) {
        self.cancels.earn(1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Cancels at a steady pace; how many were allowed, of at most `count`.
    fn cancels(count: u32, per_second: u32) -> u32 {
        let start = Instant::now();
        let mut calm = Calm::new(start);
        (0..count)
            .take_while(|n| {
                calm.refill(start + Duration::from_secs(1) * *n / per_second);
                calm.cancelled().is_ok()
            })
            .count() as u32
    }

    #[test]
    fn the_rate_counts_and_not_the_sum() {
        assert_eq!(cancels(100_000, 27), 100_000, "people who cancel");
        assert!(cancels(100_000, 10_000) < 1_100, "a rapid reset attack");
        let mut calm = Calm::new(Instant::now());
        for _ in 0..100_000 {
            calm.answered();
            calm.cancelled().expect("as many as were answered");
        }
    }

    #[test]
    fn use_allows_frames_in_proportion() {
        let mut calm = Calm::new(Instant::now());
        for _ in 0..100_000 {
            calm.used();
            for _ in 0..FRAMES_PER_USE {
                calm.idle_frame().expect("in proportion");
            }
        }
        let alone = (0..).take_while(|_| calm.idle_frame().is_ok()).count();
        assert!(alone <= FRAMES as usize);
        assert_eq!(
            calm.idle_frame().map_err(|fault| fault.code),
            Err(code::ENHANCE_YOUR_CALM)
        );
    }
}
