//! Kernel events and proxy records on their way to the flow store.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::time::{ClockId, clock_gettime};
use tidegate_contract::{L7Record, ToAgent};
use tidegate_control::view::View;
use tidegate_datapath::EventStream;
use tidegate_ebpf_shared::event::Event as KernelEvent;
use tidegate_observe::{assemble::Assembler, directory::LearnedNames, store::FlowStore};
use tokio::sync::watch;

/// How long records may wait for the first generation.
const NAMES: Duration = Duration::from_secs(5);

/// Names what kernel and proxy report, and keeps it.
#[derive(Clone)]
pub(super) struct Recorder {
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) learned: Arc<Mutex<LearnedNames>>,
    pub(super) store: Arc<FlowStore>,
    /// Denied packets pass and are only reported.
    pub(super) audit: bool,
}

impl Recorder {
    /// Reads kernel events for ever. The ring buffers are the bounded queue: when this
    /// is too slow the kernel drops events and counts them.
    pub(super) async fn follow(self, mut events: EventStream) -> std::io::Result<()> {
        self.names_known().await;
        loop {
            let first = events.next().await?;
            self.kernel(std::iter::once(first).chain(std::iter::from_fn(|| events.try_next())));
            // Other tasks of this thread have their turn between bursts.
            tokio::task::yield_now().await;
        }
    }

    /// Waits until there are names: what happened while no agent ran waits in the ring
    /// buffers, and should not come out as bare numbers. Not for ever: a node without a
    /// generation has no names to wait for.
    async fn names_known(&self) {
        let mut view = self.view.clone();
        let known = view.wait_for(|view| view.generation.is_some());
        // Without them records are still better than none.
        let _ = tokio::time::timeout(NAMES, known).await;
    }

    /// Takes in what the proxy says about traffic.
    pub(super) fn proxy(&self, message: ToAgent) {
        match message {
            ToAgent::Records { records, lost } => {
                self.store.lost("proxy", lost);
                self.l7(&records);
            }
            ToAgent::Learned { name, addresses } => {
                let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
                learned.learn(Instant::now(), &name, &addresses);
            }
            // Answers to the supervisor's own messages.
            ToAgent::Hello { .. }
            | ToAgent::Published { .. }
            | ToAgent::Whole { .. }
            | ToAgent::Judged { .. }
            | ToAgent::Stats(_) => {}
        }
    }

    fn kernel(&self, events: impl Iterator<Item = KernelEvent>) {
        self.assemble(|assembler, store| {
            // Bounded, so that names and clock are never older than a burst.
            for event in events.take(4_096) {
                if let Some(record) = assembler.kernel(&event) {
                    store.push(record);
                }
            }
        });
    }

    fn l7(&self, records: &[L7Record]) {
        self.assemble(|assembler, store| {
            for record in records {
                store.push(assembler.l7(record));
            }
        });
    }

    fn assemble(&self, each: impl FnOnce(&Assembler<'_>, &FlowStore)) {
        let directory = self.view.borrow().directory.clone();
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        let assembler = Assembler {
            directory: &directory,
            learned: &learned,
            monotonic_to_wall_ns: monotonic_to_wall_ns(),
            audit: self.audit,
        };
        each(&assembler, &self.store);
    }
}

/// What to add to the kernel's clock for wall-clock time, nanoseconds.
fn monotonic_to_wall_ns() -> u64 {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(wall.saturating_sub(monotonic).as_nanos()).unwrap_or(u64::MAX)
}
