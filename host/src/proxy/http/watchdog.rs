//! Ends connections on which nothing moves. One coarse timer per connection looks
//! at a counter, so that moving bytes costs no timer work.

use std::{cell::Cell, time::Duration};

/// How often a connection is looked at; every limit is met within one tick.
pub(super) const TICK: Duration = Duration::from_secs(10);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waiting for a request.
    Idle,
    /// A request head has begun.
    Head,
    /// A message is under way.
    Exchange,
    /// Opaque bytes; their own ends decide.
    Tunnel,
}

impl Phase {
    /// Ticks without progress after which the connection ends: an hour of idling,
    /// a minute for a head, five minutes inside a message (as Cilium's Envoy).
    const fn limit(self) -> Option<u32> {
        match self {
            Self::Idle => Some(360),
            Self::Head => Some(6),
            Self::Exchange => Some(30),
            Self::Tunnel => None,
        }
    }
}

/// What the connection tells its watchdog.
pub(super) struct Activity {
    tick: Duration,
    phase: Cell<Phase>,
    steps: Cell<u64>,
}

impl Activity {
    /// For a connection that is looked at every `tick`: [`TICK`], but in tests.
    pub(super) fn new(tick: Duration) -> Self {
        Self {
            tick,
            phase: Cell::new(Phase::Idle),
            steps: Cell::new(0),
        }
    }

    /// Bytes moved.
    pub(super) fn progress(&self) {
        self.steps.set(self.steps.get().wrapping_add(1));
    }

    /// Another phase begins; within [`Phase::Head`] only this counts as progress, so
    /// that a head sent byte by byte meets its limit.
    pub(super) fn enter(&self, phase: Phase) {
        if self.phase.replace(phase) != phase {
            self.progress();
        }
    }

    /// Returns when the limit of the current phase has passed without progress.
    pub(super) async fn expired(&self) {
        let (mut quiet, mut seen) = (0, self.steps.get());
        loop {
            tokio::time::sleep(self.tick).await;
            let steps = self.steps.get();
            quiet = if steps == seen { quiet + 1 } else { 0 };
            seen = steps;
            if self.phase.get().limit().is_some_and(|limit| quiet >= limit) {
                return;
            }
        }
    }
}
