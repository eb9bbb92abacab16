//! Signs of life: every worker counts its turns, and the agent is told the counts. A
//! worker that no longer comes round to counting serves nobody either.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tidegate_contract::WorkerTurns;

/// How often a worker counts: more often than the agent is told.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);

/// The turns of all workers.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<Vec<Worker>>);

#[derive(Debug)]
struct Worker {
    cpu: u32,
    thread: u32,
    count: Arc<AtomicU64>,
}

/// What one worker counts with.
#[derive(Debug)]
pub(super) struct Counter(Arc<AtomicU64>);

impl Turns {
    /// A counter for the calling thread, the worker of a CPU.
    pub(super) fn enrol(&self, cpu: u32) -> Counter {
        let count = Arc::new(AtomicU64::new(0));
        self.workers().push(Worker {
            cpu,
            thread: nix::unistd::gettid().as_raw().unsigned_abs(),
            count: count.clone(),
        });
        Counter(count)
    }

    /// As the agent is told.
    pub(super) fn read(&self) -> Vec<WorkerTurns> {
        let workers = self.workers();
        let read = |worker: &Worker| WorkerTurns {
            cpu: worker.cpu,
            thread: worker.thread,
            turns: worker.count.load(Relaxed),
        };
        workers.iter().map(read).collect()
    }

    fn workers(&self) -> std::sync::MutexGuard<'_, Vec<Worker>> {
        // Pushing to a vector does not leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counter {
    /// A turn has come.
    pub(super) fn turn(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}
