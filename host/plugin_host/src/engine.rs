//! Engine settings, and the clock that ends calls.
//!
//! Compiler and proxy must agree on every setting that shapes compiled code, so there
//! is one function for both.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use wasmtime::{Config, Engine, OptLevel};

use super::{
    configured::{Purpose, REHEARSED_PART},
    maker::Board,
    memory::Pot,
};

/// Stack a plugin may use, bytes; a thread's own is 2 MiB.
const WASM_STACK: usize = 256 << 10;

/// Length of an epoch, milliseconds: deadlines are multiples of it. A shorter one would
/// end calls closer to their limit and cost every busy node more: waking up a thousand
/// times a second took 7 % of the processor time of refused requests.
const TICK_MS: u64 = 2;
const TICK: Duration = Duration::from_millis(TICK_MS);

/// Ticks that last at least so long.
pub(super) const fn ticks(ms: u64) -> u64 {
    ms.div_ceil(TICK_MS)
}

/// How many ticks the clock stays awake beyond the deadlines it was asked for. Calls
/// during that time need not tell it anything.
const LINGER: u64 = 1_000;

/// The engine that compiles and runs plugins.
pub(super) fn engine() -> anyhow::Result<Engine> {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK)
        // Calls are synchronous: no fibers, no task state per call.
        .concurrency_support(false)
        // Nobody reads them, and without them a trap costs half.
        .wasm_backtrace_max_frames(None)
        .generate_address_map(false)
        .cranelift_opt_level(OptLevel::Speed);
    Engine::new(&config).map_err(|error| anyhow!("cannot set up the plugin engine: {error:#}"))
}

/// An engine with its clock running: one per proxy process.
#[derive(Debug)]
pub struct Runtime {
    engine: Engine,
    clock: Arc<Clock>,
    thread: thread::Thread,
    started: Instant,
    board: Arc<Board>,
    memory: Arc<Pot>,
    /// For those that documents in shadow alone ask for.
    rehearsed: Arc<Pot>,
}

/// Ticks while a deadline is pending, and sleeps otherwise: an idle node must not wake
/// a thousand times a second.
#[derive(Debug, Default)]
struct Clock {
    /// Ticks so far; the engine's epoch is never ahead of it. Deadlines are counted in
    /// ticks and not in time: on a busy machine a tick may last far longer than it
    /// should, and the clock must not fall asleep before the call it is to end.
    ticks: AtomicU64,
    /// Ticks until which deadlines may be pending.
    awake_until: AtomicU64,
    /// The thread is parked, or about to be.
    asleep: AtomicBool,
    /// The runtime was dropped.
    ended: AtomicBool,
}

/// Memory of all dropped-in plugins together, bytes, where nobody says otherwise.
pub const USUAL_MEMORY: u64 = 512 << 20;

impl Runtime {
    /// With the usual memory for plugins, see [`Self::with_memory`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn start() -> anyhow::Result<Arc<Self>> {
        Self::with_memory(USUAL_MEMORY)
    }

    /// Starts the clock thread. `memory` is for all dropped-in plugins together, bytes; the
    /// built-in matchers do not count: policy must not fail because a stranger is greedy.
    /// Beside it there is a quarter of that for what is only rehearsed.
    ///
    /// # Errors
    ///
    /// If the machine cannot run compiled plugins, or has no thread left.
    pub fn with_memory(memory: u64) -> anyhow::Result<Arc<Self>> {
        let engine = engine()?;
        let clock = Arc::new(Clock::default());
        let started = Instant::now();
        let handle = thread::Builder::new()
            .name("plugin-clock".to_owned())
            .spawn({
                let (engine, clock) = (engine.clone(), clock.clone());
                move || clock.run(|| thread::sleep(TICK), || engine.increment_epoch())
            });
        Ok(Arc::new(Self {
            engine,
            clock,
            thread: handle
                .context("cannot start the plugin clock")?
                .thread()
                .clone(),
            started,
            board: Board::start()?,
            memory: Pot::new(memory),
            rehearsed: Pot::new(memory / REHEARSED_PART),
        }))
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Must be called after a deadline so many ticks from now was set: keeps the clock
    /// ticking until then.
    pub(super) fn expect_deadline(&self, ticks: u64) {
        if self.clock.stay_awake(ticks) {
            self.thread.unpark();
        }
    }

    /// Where instances are asked for.
    pub(super) fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Waits until something that was tried has an outcome.
    pub async fn news(&self) {
        self.board.news.notified().await;
    }

    /// Memory of all dropped-in plugins that serve this purpose.
    pub(super) fn memory(&self, purpose: Purpose) -> &Arc<Pot> {
        match purpose {
            Purpose::Enforced => &self.memory,
            Purpose::Rehearsed => &self.rehearsed,
        }
    }

    /// Time since the start.
    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.clock.ended.store(true, SeqCst);
        self.thread.unpark();
        self.board.end();
    }
}

impl Clock {
    /// Asks for so many ticks from now. True if the clock must be woken for them.
    fn stay_awake(&self, ticks: u64) -> bool {
        let needed = self.ticks.load(SeqCst).saturating_add(ticks);
        if self.awake_until.load(SeqCst) >= needed {
            return false;
        }
        let until = needed.saturating_add(LINGER);
        self.awake_until.fetch_max(until, SeqCst);
        // Sequentially consistent with the clock's store and load in the opposite
        // order: either it sees the new number before it parks, or we see `asleep`.
        self.asleep.load(SeqCst)
    }

    /// Ticks while it must, parks while it need not.
    fn run(&self, wait: impl Fn(), tick: impl Fn()) {
        let idle = || self.ticks.load(SeqCst) >= self.awake_until.load(SeqCst);
        while !self.ended.load(SeqCst) {
            if idle() {
                self.asleep.store(true, SeqCst);
                if idle() && !self.ended.load(SeqCst) {
                    thread::park();
                }
                self.asleep.store(false, SeqCst);
            } else {
                wait();
                self.ticks.fetch_add(1, SeqCst);
                tick();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_clock_reaches_every_deadline_before_it_sleeps() {
        let clock = Arc::new(Clock::default());
        clock.stay_awake(100);
        let handle = thread::spawn({
            let clock = clock.clone();
            // So slow that the time in which a good clock makes all its ticks passes
            // with a few of them.
            move || clock.run(|| thread::sleep(20 * TICK), || ())
        });
        while clock.ticks.load(SeqCst) < 100 {
            assert!(!clock.asleep.load(SeqCst), "asleep before the deadline");
            thread::sleep(TICK);
        }
        clock.ended.store(true, SeqCst);
        handle.thread().unpark();
        handle.join().expect("the clock ends");
    }
}
