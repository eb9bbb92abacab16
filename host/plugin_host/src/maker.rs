//! Makes and configures instances, on threads that serve no traffic.
//!
//! Three threads. The quick one tries new configurations for a few milliseconds and
//! replaces instances of plugins known to start fast, what is enforced before what is only
//! rehearsed; what takes longer goes to the slow one of its purpose, which stands behind
//! traffic for a processor and does not start the same binding again before ten times the
//! time it took has passed. So neither a plugin that configures for long nor one that fails
//! after each start holds up anybody else's, and nothing in shadow what is enforced.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    configured::{Attempt, Configured, PerPurpose, Purpose},
    failure::Failure,
};

/// Processor time the quick thread gives a start, milliseconds.
pub(super) const QUICK_MS: u64 = 5;
/// How far the slow thread stands behind traffic (setpriority(2)).
const NICENESS: i32 = 10;

/// Something to start.
pub(super) enum Job {
    /// A configuration nobody knows yet.
    Try(Weak<Attempt>, Purpose),
    /// One more instance of a configuration in use.
    Refill(Weak<Configured>, Purpose),
}

impl Job {
    fn purpose(&self) -> Purpose {
        let (Self::Try(_, purpose) | Self::Refill(_, purpose)) = self;
        *purpose
    }
}

/// What is to be done, and news of what was.
#[derive(Default)]
pub(super) struct Board {
    work: Mutex<Work>,
    wake: Condvar,
    /// Attempts that ended.
    done: Mutex<u64>,
    told: Condvar,
    /// The same news for those who wait without a thread.
    pub(super) news: tokio::sync::Notify,
}

#[derive(Default)]
struct Work {
    quick: PerPurpose<VecDeque<Job>>,
    /// With the moment before which it must not be started.
    slow: PerPurpose<Vec<(Instant, Job)>>,
    ended: bool,
}

impl Board {
    /// Starts its threads.
    ///
    /// # Errors
    ///
    /// If the machine has no thread left.
    pub(super) fn start() -> anyhow::Result<Arc<Self>> {
        let board = Arc::new(Self::default());
        let runs: [(&str, fn(&Self)); 3] = [
            ("plugin-quick", Self::run_quick),
            ("plugin-slow", |board| board.run_slow(Purpose::Enforced)),
            ("plugin-shadow", |board| board.run_slow(Purpose::Rehearsed)),
        ];
        for (name, run) in runs {
            let board = board.clone();
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || run(&board))
                .context("cannot start a thread that prepares plugins")?;
        }
        Ok(board)
    }

    /// Ends the threads, after what they are at.
    pub(super) fn end(&self) {
        self.work().ended = true;
        self.wake.notify_all();
    }

    /// Asks for a job that is expected to be short. `first`: before all others of its
    /// purpose.
    pub(super) fn quick(&self, job: Job, first: bool) {
        let mut work = self.work();
        let quick = &mut work.quick[job.purpose()];
        if first {
            quick.push_front(job);
        } else {
            quick.push_back(job);
        }
        drop(work);
        self.wake.notify_all();
    }

    /// Asks for a job that may be long, not before `due`.
    pub(super) fn slow(&self, job: Job, due: Instant) {
        self.work().slow[job.purpose()].push((due, job));
        self.wake.notify_all();
    }

    /// An attempt ended.
    fn tell(&self) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.told.notify_all();
        self.news.notify_one();
    }

    /// Waits until `ready`, but not longer than `limit`. True if it is.
    pub(super) fn wait(&self, limit: Duration, ready: impl Fn() -> bool) -> bool {
        let until = Instant::now() + limit;
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        while !ready() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.told.wait_timeout(done, left);
            done = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn run_quick(&self) {
        loop {
            let mut work = self.work();
            let job = loop {
                if work.ended {
                    return;
                }
                let job = work.quick[Purpose::Enforced].pop_front();
                match job.or_else(|| work.quick[Purpose::Rehearsed].pop_front()) {
                    Some(job) => break job,
                    None => work = self.sleep(work, None),
                }
            };
            drop(work);
            self.work_on(&job, Some(QUICK_MS));
        }
    }

    fn run_slow(&self, purpose: Purpose) {
        // SAFETY: takes numbers only; 0 is the calling thread.
        let slower = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
        if let Err(error) = nix::errno::Errno::result(slower) {
            tracing::warn!(%error, "plugins are prepared at the priority of traffic");
        }
        loop {
            let mut work = self.work();
            let job = loop {
                if work.ended {
                    return;
                }
                let now = Instant::now();
                let next = work.slow[purpose].iter().enumerate();
                let next = next.min_by_key(|(_, (due, _))| *due);
                match next.map(|(index, (due, _))| (index, *due)) {
                    Some((index, due)) if due <= now => {
                        break work.slow[purpose].swap_remove(index).1;
                    }
                    Some((_, due)) => work = self.sleep(work, Some(due - now)),
                    None => work = self.sleep(work, None),
                }
            };
            drop(work);
            self.work_on(&job, None);
        }
    }

    /// `quick_ms`: hand over to the slow thread what takes longer.
    fn work_on(&self, job: &Job, quick_ms: Option<u64>) {
        match job {
            Job::Try(attempt, purpose) => {
                let Some(attempt) = attempt.upgrade() else {
                    return;
                };
                match attempt.run(quick_ms) {
                    Some(Failure::Deadline) if quick_ms.is_some() => {
                        let job = Job::Try(Arc::downgrade(&attempt), *purpose);
                        self.slow(job, Instant::now());
                    }
                    failure => {
                        attempt.finish(failure);
                        self.tell();
                    }
                }
            }
            Job::Refill(configured, _) => {
                if let Some(configured) = configured.upgrade() {
                    configured.refill(quick_ms);
                }
            }
        }
    }

    fn sleep<'w>(
        &self,
        work: MutexGuard<'w, Work>,
        limit: Option<Duration>,
    ) -> MutexGuard<'w, Work> {
        match limit {
            None => self.wake.wait(work).unwrap_or_else(PoisonError::into_inner),
            Some(limit) => {
                let waited = self.wake.wait_timeout(work, limit);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").finish_non_exhaustive()
    }
}
