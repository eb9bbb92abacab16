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

/// Stack a plugin may use, bytes; a thread's own is 2 MiB.
const WASM_STACK: usize = 256 << 10;

/// Length of an epoch: deadlines are multiples of it.
const TICK: Duration = Duration::from_millis(1);

/// How long the clock stays awake beyond the deadlines it was asked for, milliseconds.
/// Calls during that time need not tell it anything.
const LINGER_MS: u64 = 1_000;

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
}

/// Ticks while a deadline is pending, and sleeps otherwise: an idle node must not wake
/// a thousand times a second.
#[derive(Debug, Default)]
struct Clock {
    /// Uptime in milliseconds until which deadlines may be pending.
    awake_until_ms: AtomicU64,
    /// The thread is parked, or about to be.
    asleep: AtomicBool,
    /// The runtime was dropped.
    ended: AtomicBool,
}

impl Runtime {
    /// Starts the clock thread.
    ///
    /// # Errors
    ///
    /// If the machine cannot run compiled plugins, or has no thread left.
    pub fn start() -> anyhow::Result<Arc<Self>> {
        let engine = engine()?;
        let clock = Arc::new(Clock::default());
        let started = Instant::now();
        let handle = thread::Builder::new()
            .name("plugin-clock".to_owned())
            .spawn({
                let (engine, clock) = (engine.clone(), clock.clone());
                move || clock.run(&engine, started)
            });
        Ok(Arc::new(Self {
            engine,
            clock,
            thread: handle
                .context("cannot start the plugin clock")?
                .thread()
                .clone(),
            started,
        }))
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Must be called before a call that may last until `deadline_ms` from `now`, an
    /// [uptime](Self::uptime): keeps the clock ticking until then.
    pub(super) fn expect_deadline(&self, now: Duration, deadline_ms: u64) {
        let needed = millis(now).saturating_add(deadline_ms).saturating_add(1);
        if self.clock.awake_until_ms.load(SeqCst) < needed {
            let until = needed.saturating_add(LINGER_MS);
            self.clock.awake_until_ms.fetch_max(until, SeqCst);
            // Sequentially consistent with the clock's store and load in the opposite
            // order: either it sees the new time before it parks, or we see `asleep`.
            if self.clock.asleep.load(SeqCst) {
                self.thread.unpark();
            }
        }
    }

    /// Uptime at a moment.
    pub(super) fn uptime_at(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.started)
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
    }
}

impl Clock {
    fn run(&self, engine: &Engine, started: Instant) {
        let idle = || millis(started.elapsed()) > self.awake_until_ms.load(SeqCst);
        while !self.ended.load(SeqCst) {
            if idle() {
                self.asleep.store(true, SeqCst);
                if idle() && !self.ended.load(SeqCst) {
                    thread::park();
                }
                self.asleep.store(false, SeqCst);
            } else {
                thread::sleep(TICK);
                engine.increment_epoch();
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
