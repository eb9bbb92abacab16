//! A token bucket over coarse time.

/// State of one bucket; all zero is a full bucket that was never used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TokenBucket {
    /// Tokens taken out and not yet refilled.
    pub used: u64,
    /// Time of the last refill, ns.
    pub refilled: u64,
}

const SECOND: u64 = 1_000_000_000;

impl TokenBucket {
    /// Takes a token if there is one. The bucket holds one second's worth of `rate`
    /// tokens per second. `now` in ns of a clock that does not run backwards.
    #[inline(always)]
    pub fn take(&mut self, rate: u32, now: u64) -> bool {
        let rate = u64::from(rate);
        let elapsed = now.saturating_sub(self.refilled);
        if elapsed >= SECOND {
            self.used = 0;
            self.refilled = now;
        } else {
            let tokens = elapsed * rate / SECOND;
            // Keep the time of fractions of a token: refill only whole ones.
            if tokens != 0 {
                self.used = self.used.saturating_sub(tokens);
                self.refilled = now;
            }
        }
        if self.used >= rate {
            return false;
        }
        self.used += 1;
        true
    }
}
