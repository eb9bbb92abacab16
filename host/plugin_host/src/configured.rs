//! A plugin version with a configuration, for one binding: first an attempt, then, if it
//! was accepted, the source of that binding's instances.
//!
//! Nothing here is shared between bindings: not the instances (one could read in its
//! memory what the other's messages left there), not the budgets.

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Index, IndexMut},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::available_parallelism,
    time::{Duration, Instant},
};

use tidegate_contract::{BUILT_IN, Limits, PluginInfo, PluginStats};
use tidegate_policy::compiled::RuleId;

use super::{
    budget::Budgets,
    catalog::retire,
    counters::Counters,
    deadline::processor_time,
    engine::Runtime,
    failure::Failure,
    host_calls::Shared,
    instance::Instance,
    maker::{Job, QUICK_MS},
    memory::Pot,
    worlds::{Linked, Needs},
};

/// How long a message may wait for an instance of a plugin that starts fast.
const PATIENCE: Duration = Duration::from_millis(20);
/// A slow start is followed by a pause of so many times its length, at most [`LONGEST`].
const PAUSE: u32 = 10;
const LONGEST: Duration = Duration::from_secs(30);
/// Pause after a start that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Instances made at once of a plugin that starts slowly: threads would wait for theirs.
const AT_ONCE: usize = 4;

/// A loaded plugin version.
pub(super) struct Version {
    pub(super) name: String,
    pub(super) info: PluginInfo,
    pub(super) linked: Linked,
    pub(super) runtime: Arc<Runtime>,
    pub(super) totals: Arc<Counters>,
    /// Memory of all its instances; nobody else's.
    pub(super) pot: Arc<Pot>,
    /// The same of those that documents in shadow alone ask for.
    pub(super) rehearsed: Arc<Pot>,
}

impl Version {
    /// `name@version`.
    pub(super) fn label(&self) -> String {
        format!("{}@{}", self.name, self.info.version)
    }

    /// Is it part of this program? Then it is policy itself, and takes from no pot.
    pub(super) fn built_in(&self) -> bool {
        BUILT_IN.contains(&self.name.as_str())
    }

    /// Counters of all its bindings.
    pub(super) fn stats(&self) -> PluginStats {
        PluginStats {
            version: self.info.version.clone(),
            digest: self.info.digest.clone(),
            memory_bytes: self.pot.used() + self.rehearsed.used(),
            memory_limit_bytes: self.pot.limit() + self.rehearsed.limit(),
            memory_refused: self.pot.refused() + self.rehearsed.refused(),
            ..self.totals.stats()
        }
    }

    fn shared(&self, purpose: Purpose) -> Arc<Shared> {
        let mut pots = Vec::new();
        if !self.built_in() {
            pots.push(match purpose {
                Purpose::Enforced => self.pot.clone(),
                Purpose::Rehearsed => self.rehearsed.clone(),
            });
            pots.push(self.runtime.memory(purpose).clone());
        }
        Shared::new(self.label(), self.totals.clone(), purpose, pots)
    }
}

/// What a configuration is wanted for. What is rehearsed takes nothing from what is
/// enforced, so it has memory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// By documents in shadow alone.
    Rehearsed,
    Enforced,
}

impl Purpose {
    /// How much of something that is limited to `all` there is for it: what is rehearsed
    /// has its part beside the rest.
    pub(super) fn part_of(self, all: usize) -> usize {
        match self {
            Self::Enforced => all,
            Self::Rehearsed => all / REHEARSED_PART as usize,
        }
    }
}

/// One of something for each purpose, so that neither takes a place from the other.
#[derive(Debug, Default)]
pub(super) struct PerPurpose<T>([T; 2]);

impl<T: Default> PerPurpose<T> {
    /// All there is; nothing is left.
    pub(super) fn take(&mut self) -> [T; 2] {
        std::mem::take(&mut self.0)
    }
}

impl<T> PerPurpose<T> {
    /// Both, what is rehearsed first.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }
}

impl<T> Index<Purpose> for PerPurpose<T> {
    type Output = T;

    fn index(&self, purpose: Purpose) -> &T {
        &self.0[purpose as usize]
    }
}

impl<T> IndexMut<Purpose> for PerPurpose<T> {
    fn index_mut(&mut self, purpose: Purpose) -> &mut T {
        &mut self.0[purpose as usize]
    }
}

/// What part of the memory and places for what is enforced there is beside them for what is
/// rehearsed.
pub(super) const REHEARSED_PART: u64 = 4;

/// A configuration on its way: tried once, beside traffic and beside publishing.
pub(super) struct Attempt {
    pub(super) version: Arc<Version>,
    pub(super) purpose: Purpose,
    config: String,
    shared: Arc<Shared>,
    /// Instances started so far; those of an accepted configuration are put to use.
    started: Mutex<Vec<Started>>,
    outcome: OnceLock<Result<Arc<Configured>, Failure>>,
}

impl Attempt {
    /// Asks for a trial.
    pub(super) fn begin(version: &Arc<Version>, config: &str, purpose: Purpose) -> Arc<Self> {
        let attempt = Arc::new(Self {
            version: version.clone(),
            purpose,
            config: config.to_owned(),
            shared: version.shared(purpose),
            started: Mutex::default(),
            outcome: OnceLock::new(),
        });
        let job = Job::Try(Arc::downgrade(&attempt), purpose);
        let board = version.runtime.board();
        board.quick(job, version.built_in());
        attempt
    }

    /// What came of it; `None` while nobody knows.
    pub(super) fn outcome(&self) -> Option<&Result<Arc<Configured>, Failure>> {
        self.outcome.get()
    }

    /// Did it fail for a reason that has nothing to do with it?
    pub(super) fn may_be_tried_again(&self) -> bool {
        matches!(self.outcome(), Some(Err(Failure::NoRoom)))
    }

    /// Starts an instance; with a limit first, so that others need not wait for it.
    pub(super) fn run(&self, quick_ms: Option<u64>) -> Option<Failure> {
        let wanted = match quick_ms {
            Some(_) => 1,
            None => available_parallelism().map_or(1, |n| n.get().min(AT_ONCE)),
        };
        for _ in 0..wanted {
            match start(&self.version, &self.shared, &self.config, quick_ms) {
                Ok((instance, cost)) => self.started().push((instance, cost)),
                Err(failure) => return Some(failure),
            }
        }
        None
    }

    /// The last word: accepted, or refused with a failure.
    pub(super) fn finish(&self, failure: Option<Failure>) {
        let started = std::mem::take(&mut *self.started());
        let outcome = match (failure, started.first()) {
            (None, Some((first, cost))) => Ok(Arc::new(Configured {
                id: next_id(),
                version: self.version.clone(),
                purpose: self.purpose,
                config: self.config.clone(),
                needs: first.needs().clone(),
                shared: self.shared.clone(),
                budgets: Budgets::default(),
                tally: Tally::default(),
                cost_us: AtomicU64::new(micros(*cost)),
                quick: AtomicBool::new(started.len() == 1),
                retired: AtomicBool::new(false),
                united: Mutex::default(),
                spares: Mutex::new(Spares {
                    instances: started.into_iter().map(|(instance, _)| instance).collect(),
                    ..Spares::default()
                }),
                refilled: Condvar::new(),
            })),
            (failure, _) => Err(failure.unwrap_or(Failure::Missing)),
        };
        // Set once: an attempt is run to its end by one thread after the other.
        let _ = self.outcome.set(outcome);
    }

    fn started(&self) -> MutexGuard<'_, Vec<Started>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An instance, and the processor time its start took.
type Started = (Instance, Duration);

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Never used twice in a process.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

fn start(
    version: &Version,
    shared: &Arc<Shared>,
    config: &str,
    quick_ms: Option<u64>,
) -> Result<Started, Failure> {
    let before = processor_time();
    let own = &version.info.limits;
    let limits = Limits {
        configure_ms: quick_ms.map_or(own.configure_ms, |ms| ms.min(own.configure_ms)),
        ..*own
    };
    let instance = Instance::start(&version.linked, shared, &limits, &version.runtime, config)?;
    Ok((instance, processor_time().saturating_sub(before)))
}

/// What one binding's calls came to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) calls: AtomicU64,
    pub(super) failures: AtomicU64,
    /// Messages refused without asking: suspended peer, share used up.
    pub(super) held_back: AtomicU64,
}

/// A configuration that was accepted, and the binding's instances that no thread has
/// taken yet.
pub(super) struct Configured {
    pub(super) id: u64,
    pub(super) version: Arc<Version>,
    pub(super) purpose: Purpose,
    pub(super) config: String,
    pub(super) needs: Needs,
    pub(super) shared: Arc<Shared>,
    pub(super) budgets: Budgets,
    pub(super) tally: Tally,
    /// Processor time of the last start.
    cost_us: AtomicU64,
    /// It starts fast enough for a message to wait for it.
    quick: AtomicBool,
    retired: AtomicBool,
    /// The same version with its rules and those of others; see `Binding::with_rules`.
    pub(super) united: Mutex<PerPurpose<BTreeMap<String, Arc<Attempt>>>>,
    spares: Mutex<Spares>,
    refilled: Condvar,
}

#[derive(Default)]
struct Spares {
    instances: Vec<Instance>,
    /// One is being made.
    asked: bool,
    /// No start before this.
    not_before: Option<Instant>,
}

impl Configured {
    /// An instance for the calling thread. Never makes one here: if none is at hand
    /// and none can be had in a moment, the message must do without.
    ///
    /// # Errors
    ///
    /// [`Failure::Restarting`].
    pub(super) fn take(self: &Arc<Self>) -> Result<Instance, Failure> {
        let until = Instant::now() + PATIENCE;
        let mut spares = self.spares();
        loop {
            if let Some(instance) = spares.instances.pop() {
                if spares.instances.is_empty() && !self.is_retired() {
                    self.ask(&mut spares);
                }
                return Ok(instance);
            }
            self.ask(&mut spares);
            let left = until.saturating_duration_since(Instant::now());
            let paused = spares.not_before.is_some_and(|due| due > until);
            if left.is_zero() || paused || !self.quick.load(Relaxed) {
                return Err(Failure::Restarting);
            }
            let waited = self.refilled.wait_timeout(spares, left);
            spares = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn ask(self: &Arc<Self>, spares: &mut Spares) {
        if std::mem::replace(&mut spares.asked, true) {
            return;
        }
        let job = Job::Refill(Arc::downgrade(self), self.purpose);
        let board = self.version.runtime.board();
        match spares.not_before.filter(|due| *due > Instant::now()) {
            None if self.quick.load(Relaxed) => board.quick(job, true),
            due => board.slow(job, due.unwrap_or_else(Instant::now)),
        }
    }

    /// Makes an instance.
    pub(super) fn refill(self: &Arc<Self>, quick_ms: Option<u64>) {
        let began = Instant::now();
        let made = start(&self.version, &self.shared, &self.config, quick_ms);
        let took = began.elapsed();
        let mut spares = self.spares();
        spares.asked = false;
        match made {
            Ok((instance, cost)) => {
                spares.instances.push(instance);
                self.cost_us.store(micros(cost), Relaxed);
                if quick_ms.is_none() {
                    let quick = took < Duration::from_millis(QUICK_MS);
                    self.quick.store(quick, Relaxed);
                    let pause = (took * PAUSE).min(LONGEST);
                    spares.not_before = (!quick).then(|| Instant::now() + pause);
                }
            }
            // Not as fast as it was: the slow thread gives it the time it may have.
            Err(Failure::Deadline) if quick_ms.is_some() => {
                self.quick.store(false, Relaxed);
                self.ask(&mut spares);
            }
            Err(failure) => {
                let plugin = self.shared.label.as_str();
                tracing::warn!(plugin, %failure, "a plugin could not be started again");
                let pause = (took * PAUSE).clamp(AFTER_FAILURE, LONGEST);
                spares.not_before = Some(Instant::now() + pause);
            }
        }
        drop(spares);
        self.refilled.notify_all();
    }

    /// What an instance costs, whoever makes it.
    pub(super) fn cost(&self) -> Duration {
        Duration::from_micros(self.cost_us.load(Relaxed))
    }

    /// It is not part of the generation any more: gives back what no thread has taken.
    pub(super) fn retire(&self) {
        self.retired.store(true, Relaxed);
        let unused = std::mem::take(&mut self.spares().instances);
        drop(unused);
        let mut united = self.united.lock().unwrap_or_else(PoisonError::into_inner);
        united
            .take()
            .iter()
            .for_each(|united| retire(united.values()));
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    fn spares(&self) -> MutexGuard<'_, Spares> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Version").field(&self.info).finish()
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("version", &self.version)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Configured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configured")
            .field("id", &self.id)
            .field("plugin", &self.shared.label)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// One binding: the plugin and the rules that its decisions are attributed to, which
/// stay the same whatever its configuration.
pub(super) type Place = (String, Vec<RuleId>);
