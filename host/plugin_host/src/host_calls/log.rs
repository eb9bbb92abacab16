//! Log lines of plugins: short, and not too many.

use std::time::{Duration, Instant};

use crate::{
    instance::State,
    worlds::imports::log::{Host, Level},
};

/// Longest line, bytes.
pub(crate) const LINE: usize = 4 << 10;
/// Lines a second, after a first burst of as many.
const RATE: u32 = 20;

/// Token bucket of one plugin.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    refilled: Option<Instant>,
    tokens: u32,
    lost: u64,
}

impl Bucket {
    /// Takes a token; lines lost since the last one that was written. `None`: lost.
    pub(super) fn take(&mut self, now: Instant) -> Option<u64> {
        let since = self
            .refilled
            .map(|last| now.saturating_duration_since(last));
        if since.is_none_or(|since| since >= Duration::from_secs(1)) {
            self.refilled = Some(now);
            self.tokens = RATE;
        }
        if self.tokens == 0 {
            self.lost += 1;
            return None;
        }
        self.tokens -= 1;
        Some(std::mem::take(&mut self.lost))
    }
}

impl Host for State {
    fn write(&mut self, level: Level, message: String) {
        if self.facts.imagined {
            return;
        }
        let Some(lost) = self.shared.may_log(Instant::now()) else {
            return;
        };
        let plugin = self.shared.label.as_str();
        if lost > 0 {
            tracing::warn!(plugin, lost, "log lines of a plugin were dropped");
        }
        let message = &message[..message.floor_char_boundary(LINE)];
        match level {
            Level::Debug => tracing::debug!(plugin, "{message:?}"),
            Level::Info => tracing::info!(plugin, "{message:?}"),
            Level::Warn => tracing::warn!(plugin, "{message:?}"),
            Level::Error => tracing::error!(plugin, "{message:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_the_rate_and_counted() {
        let (mut bucket, start) = (Bucket::default(), Instant::now());
        let written = (0..100).filter(|_| bucket.take(start).is_some()).count();
        assert_eq!(written, RATE as usize);
        assert_eq!(bucket.take(start + Duration::from_millis(999)), None);
        assert_eq!(bucket.take(start + Duration::from_secs(1)), Some(81));
        assert_eq!(bucket.take(start + Duration::from_secs(1)), Some(0));
    }
}
