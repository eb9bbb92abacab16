//! Ends connections on which nothing moves, or whose place somebody else needs more.
//! One coarse timer per connection looks at a counter, so that moving bytes costs no
//! timer work.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use tidegate_policy::http_options::HttpOptions;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

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
    /// Ticks without progress after which the connection ends if no document says otherwise:
    /// an hour of idling, a minute for a head, five minutes inside a message (as Cilium's
    /// Envoy).
    const fn ticks(self) -> Option<u32> {
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
    /// When the connection began.
    born: Instant,
    options: Cell<HttpOptions>,
    evicted: Cell<bool>,
    told: Notify,
    client: Client,
}

/// What all connections of one client have together.
#[derive(Clone)]
pub(crate) struct Client {
    /// Its part of the memory.
    pub(crate) budget: Budget,
    /// Whose turn it is of those that have more to do than one turn allows.
    turn: Rc<Semaphore>,
    /// Longest header list of HTTP/2, bytes.
    header_list: u32,
}

impl Client {
    /// With its part of the memory, and the longest header list of HTTP/2.
    pub(crate) fn new(budget: Budget, header_list: u32) -> Self {
        Self {
            budget,
            turn: Rc::new(Semaphore::new(1)),
            header_list,
        }
    }
}

#[cfg(test)]
impl Default for Client {
    fn default() -> Self {
        Self::new(Budget::default(), tidegate_wire::http2::USUAL_LIST as u32)
    }
}

#[cfg(test)]
impl Default for Activity {
    fn default() -> Self {
        Self::of(&Client::default())
    }
}

impl Activity {
    /// Of a connection of this client.
    pub(crate) fn of(client: &Client) -> Self {
        Self::new(TICK, client)
    }

    /// For a connection that is looked at every `tick`: [`TICK`], but in tests.
    pub(super) fn new(tick: Duration, client: &Client) -> Self {
        Self {
            tick,
            phase: Cell::new(Phase::Idle),
            since: Cell::new(Instant::now()),
            steps: Cell::new(0),
            born: Instant::now(),
            options: Cell::default(),
            evicted: Cell::new(false),
            told: Notify::new(),
            client: client.clone(),
        }
    }

    /// Documents say this of how it is carried.
    pub(super) fn carry(&self, options: HttpOptions) {
        self.options.set(options);
    }

    /// Longest time from a request's head to its response's.
    pub(super) fn response_timeout(&self) -> Option<Duration> {
        let seconds = self.options.get().response_timeout_seconds;
        seconds.map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// Is it so old that it shall take no further request?
    pub(super) fn is_old(&self) -> bool {
        let seconds = self.options.get().max_connection_age_seconds;
        seconds.is_some_and(|seconds| self.born.elapsed().as_secs() >= seconds.into())
    }

    /// How long the current phase may last without progress.
    fn limit(&self) -> Option<Duration> {
        let options = self.options.get();
        let seconds = match self.phase.get() {
            Phase::Idle => options.idle_seconds,
            Phase::Exchange => options.stream_idle_seconds,
            Phase::Head | Phase::Tunnel => None,
        };
        let usual = || self.phase.get().ticks().map(|ticks| self.tick * ticks);
        seconds.map_or_else(usual, |seconds| Some(Duration::from_secs(seconds.into())))
    }

    /// Returns when it is time to look at what no byte tells of: every tick, more often where
    /// documents name times shorter than several of them.
    pub(super) async fn look(&self) {
        let options = self.options.get();
        let times = [
            options.response_timeout_seconds,
            options.max_connection_age_seconds,
            options.stream_idle_seconds,
            options.idle_seconds,
        ];
        let shortest = times.into_iter().flatten().min();
        let often = shortest.map_or(self.tick, |seconds| Duration::from_secs(seconds.into()) / 8);
        tokio::time::sleep(often.min(self.tick)).await;
    }

    /// What its bytes take their memory from.
    pub(crate) fn budget(&self) -> &Budget {
        &self.client.budget
    }

    /// The longest header list of HTTP/2, bytes.
    pub(super) fn header_list(&self) -> u32 {
        self.client.header_list
    }

    /// Waits for the others of its worker, and, of its own client's connections that have
    /// as much to do, for those that were here before: however many connections a client
    /// has, others wait for one turn of one of them. The next turn is over when what is
    /// returned is dropped.
    pub(super) async fn next_turn(&self) -> Option<SemaphorePermit<'_>> {
        // Nobody closes it.
        let turn = self.client.turn.acquire().await.ok();
        tokio::task::yield_now().await;
        turn
    }

    /// Bytes moved.
    pub(crate) fn progress(&self) {
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
    pub(crate) async fn expired(&self) {
        tokio::select! {
            () = self.evicted() => {}
            () = self.quiet() => {}
        }
    }

    async fn quiet(&self) {
        let (mut since, mut seen) = (Instant::now(), self.steps.get());
        loop {
            self.look().await;
            let steps = self.steps.get();
            if steps != seen {
                (since, seen) = (Instant::now(), steps);
            } else if self.limit().is_some_and(|limit| since.elapsed() >= limit) {
                return;
            }
        }
    }
}
