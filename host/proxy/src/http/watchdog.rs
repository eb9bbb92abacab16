//! Ends connections on which nothing moves, or whose place somebody else needs more.
//! One coarse timer per connection looks at a counter, so that moving bytes costs no
//! timer work.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::budget::Budget;

/// How often a connection is looked at; every limit is met within one tick.
pub(super) const TICK: Duration = Duration::from_secs(10);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
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
pub(crate) struct Activity {
    tick: Duration,
    phase: Cell<Phase>,
    /// When the phase began.
    since: Cell<Instant>,
    steps: Cell<u64>,
    evicted: Cell<bool>,
    told: Notify,
    budget: Budget,
}

#[cfg(test)]
impl Default for Activity {
    fn default() -> Self {
        Self::of(&Budget::default())
    }
}

impl Activity {
    /// Of a connection with this part of the memory.
    pub(crate) fn of(budget: &Budget) -> Self {
        Self::new(TICK, budget)
    }

    /// For a connection that is looked at every `tick`: [`TICK`], but in tests.
    pub(super) fn new(tick: Duration, budget: &Budget) -> Self {
        Self {
            tick,
            phase: Cell::new(Phase::Idle),
            since: Cell::new(Instant::now()),
            steps: Cell::new(0),
            evicted: Cell::new(false),
            told: Notify::new(),
            budget: budget.clone(),
        }
    }

    /// What its bytes take their memory from.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Bytes moved.
    pub(super) fn progress(&self) {
        self.steps.set(self.steps.get().wrapping_add(1));
    }

    /// Another phase begins; within [`Phase::Head`] only this counts as progress, so
    /// that a head sent byte by byte meets its limit.
    pub(crate) fn enter(&self, phase: Phase) {
        if self.phase.replace(phase) != phase {
            self.since.set(Instant::now());
            self.progress();
        }
    }

    /// Since when it waits for a request; `None` if it does something else.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        (self.phase.get() == Phase::Idle).then(|| self.since.get())
    }

    /// Since when it does what it does.
    pub(crate) fn since(&self) -> Instant {
        self.since.get()
    }

    /// Asks the connection to end, because its place is needed.
    pub(crate) fn evict(&self) {
        self.evicted.set(true);
        self.told.notify_waiters();
    }

    /// Was it asked to?
    pub(crate) fn is_evicted(&self) -> bool {
        self.evicted.get()
    }

    /// Returns once it was.
    pub(crate) async fn evicted(&self) {
        let told = self.told.notified();
        if !self.evicted.get() {
            told.await;
        }
    }

    /// Returns when the limit of the current phase has passed without progress, or the
    /// connection's place is needed.
    pub(super) async fn expired(&self) {
        tokio::select! {
            () = self.evicted() => {}
            () = self.quiet() => {}
        }
    }

    async fn quiet(&self) {
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
