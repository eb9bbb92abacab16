//! Is the proxy alive? The agent's side of its workers' turns, as a count of
//! silent ticks and without a clock: when the machine or the agent itself was stopped,
//! no tick has passed either, and the proxy has its say before the next one.

use std::{collections::BTreeMap, fmt, time::Duration};

use tidegate_contract::{ToAgent, WorkerTurns};

/// Time between two looks.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// A thread that is running or waits for a processor may just be slow: under a plugin that
/// uses what it may use, or on a machine with too much to do. It gets so many times as long.
const BUSY: u32 = 6;

/// What is known of the threads of one proxy.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Silent ticks after which a thread hangs.
    limit: u32,
    /// The thread that talks to the agent.
    control: Thread,
    heard: bool,
    workers: BTreeMap<u32, (WorkerTurns, Thread)>,
    told: Option<Vec<WorkerTurns>>,
}

/// How long a thread has been silent, ticks.
#[derive(Clone, Copy, Debug, Default)]
struct Thread {
    all: u32,
    /// Those of them at which it neither ran nor could run.
    asleep: u32,
}

/// A thread that does not come round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silence {
    /// CPU of the worker; the thread that talks to the agent if `None`.
    worker: Option<u32>,
    ticks: u32,
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = u64::from(self.ticks) * TICK.as_secs();
        match self.worker {
            Some(cpu) => write!(
                f,
                "its worker on CPU {cpu} has done nothing for {seconds} s"
            ),
            None => write!(f, "it has said nothing for {seconds} s"),
        }
    }
}

/// What a look at the proxy came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Well,
    /// For half of the limit by now.
    Silent(Silence),
    /// It will do nothing any more.
    Hung(Silence),
}

impl Pulse {
    /// Of a proxy that has just spoken.
    pub(super) fn new(hung_after: Duration) -> Self {
        let ticks = hung_after.as_secs() / TICK.as_secs();
        Self {
            limit: u32::try_from(ticks).unwrap_or(u32::MAX).max(1),
            control: Thread::default(),
            heard: true,
            workers: BTreeMap::new(),
            told: None,
        }
    }

    /// It said something.
    pub(super) fn heard(&mut self, message: &ToAgent) {
        self.heard = true;
        if let ToAgent::Stats(stats) = message {
            self.told = Some(stats.workers.clone());
        }
    }

    /// A tick has passed. `pid` is the proxy's, `can_run` whether a thread of it runs or
    /// waits for nothing but a processor; `patience` are ticks by which the thread that
    /// talks may be silent longer, because it was given something to do.
    pub(super) fn tick(
        &mut self,
        pid: u32,
        patience: u32,
        can_run: impl Fn(u32) -> bool,
    ) -> Finding {
        let heard = std::mem::take(&mut self.heard);
        self.control.tick(heard, || can_run(pid));
        for told in self.told.take().unwrap_or_default() {
            let known = self.workers.get(&told.cpu);
            let came_round = known.is_none_or(|(last, _)| last.turns != told.turns);
            let mut thread = known.map(|(_, thread)| *thread).unwrap_or_default();
            thread.tick(came_round, || can_run(told.thread));
            self.workers.insert(told.cpu, (told, thread));
        }
        let workers = self.workers.iter();
        let workers = workers.map(|(cpu, (_, thread))| (Some(*cpu), *thread, self.limit));
        let control = (None, self.control, self.limit.saturating_add(patience));
        let mut finding = Finding::Well;
        for (worker, thread, limit) in workers.chain([control]) {
            let silence = Silence {
                worker,
                ticks: thread.all,
            };
            if thread.asleep >= limit || thread.all >= limit.saturating_mul(BUSY) {
                return Finding::Hung(silence);
            }
            if thread.all > limit / 2 {
                finding = Finding::Silent(silence);
            }
        }
        finding
    }
}

impl Thread {
    fn tick(&mut self, came_round: bool, can_run: impl FnOnce() -> bool) {
        if came_round {
            *self = Self::default();
            return;
        }
        self.all += 1;
        if !can_run() {
            self.asleep += 1;
        }
    }
}

/// Does a thread run, or wait for nothing but a processor (state `R` of `proc(5)`)? One
/// that cannot be looked at does not.
pub(super) fn can_run(pid: u32, thread: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/stat"));
    // The name before it is in parentheses and may hold anything.
    stat.is_ok_and(|stat| {
        let rest = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
        rest.is_some_and(|rest| rest.starts_with('R'))
    })
}

#[cfg(test)]
mod tests {
    use tidegate_contract::ProxyStats;

    use super::*;

    const PID: u32 = 100;

    fn stats(turns: [u64; 2]) -> ToAgent {
        let workers = turns.into_iter().zip(0..);
        ToAgent::Stats(ProxyStats {
            workers: workers
                .map(|(turns, cpu)| WorkerTurns {
                    cpu,
                    thread: PID + 1 + cpu,
                    turns,
                })
                .collect(),
            ..ProxyStats::default()
        })
    }

    fn hung(finding: Finding) -> bool {
        matches!(finding, Finding::Hung(_))
    }

    #[test]
    fn who_says_nothing_hangs() {
        let mut pulse = Pulse::new(Duration::from_secs(4));
        pulse.heard(&stats([1, 1]));
        let findings: Vec<_> = (0..5).map(|_| pulse.tick(PID, 0, |_| false)).collect();
        assert_eq!(findings[..3], [Finding::Well; 3]);
        assert!(matches!(findings[3], Finding::Silent(_)), "{findings:?}");
        let Finding::Hung(silence) = findings[4] else {
            panic!("{findings:?}");
        };
        assert_eq!(silence.to_string(), "it has said nothing for 4 s");
        // It may take its time for what it was given to do.
        let mut pulse = Pulse::new(Duration::from_secs(4));
        assert!(!(0..8).any(|_| hung(pulse.tick(PID, 5, |_| false))));
    }

    #[test]
    fn one_thread_that_hangs_is_enough() {
        let mut pulse = Pulse::new(Duration::from_secs(3));
        let mut findings = Vec::new();
        for tick in 0..4 {
            pulse.heard(&stats([tick, 7]));
            findings.push(pulse.tick(PID, 0, |thread| thread != PID + 2));
        }
        let Finding::Hung(silence) = findings[3] else {
            panic!("{findings:?}");
        };
        let said = "its worker on CPU 1 has done nothing for 3 s";
        assert_eq!(silence.to_string(), said);
        assert!(!findings[..3].iter().any(|finding| hung(*finding)));
    }

    #[test]
    fn who_is_only_slow_does_not_hang() {
        // Running all the time, under a plugin or for want of a processor, and then back.
        let mut pulse = Pulse::new(Duration::from_secs(3));
        for tick in 0..60 {
            pulse.heard(&stats([tick, tick / 15]));
            assert!(!hung(pulse.tick(PID, 0, |_| true)), "tick {tick}");
        }
        // For ever is too long.
        let more = (60..80).any(|tick| {
            pulse.heard(&stats([tick, 4]));
            hung(pulse.tick(PID, 0, |_| true))
        });
        assert!(more);
    }

    #[test]
    fn numbers_that_did_not_come_say_nothing_of_workers() {
        let mut pulse = Pulse::new(Duration::from_secs(2));
        pulse.heard(&stats([1, 1]));
        for _ in 0..10 {
            pulse.heard(&ToAgent::Records {
                records: Vec::new(),
                lost: 0,
            });
            assert_eq!(pulse.tick(PID, 0, |_| false), Finding::Well);
        }
    }

    #[test]
    fn a_running_thread_is_told_from_a_sleeping_one() {
        let own = nix::unistd::gettid().as_raw().unsigned_abs();
        assert!(can_run(std::process::id(), own));
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (say, said) = std::sync::mpsc::channel();
        let sleeper = std::thread::spawn(move || {
            say.send(nix::unistd::gettid().as_raw().unsigned_abs())
                .unwrap();
            let _ = stopped.recv();
        });
        let sleeping = said.recv().unwrap();
        let falls_asleep = (0..1_000).any(|_| {
            std::thread::yield_now();
            !can_run(std::process::id(), sleeping)
        });
        assert!(falls_asleep);
        drop(stop);
        sleeper.join().unwrap();
    }
}
