//! What a filter does without a message: ticks, and queues that something was put into.

use std::time::{Duration, Instant};

use wasmtime::Store;

use super::{Exports, call, exchange, host};
use crate::{
    instance::{Instance, State},
    worlds,
};
use tidegate_proxy_wasm::ROOT;

/// Shortest time between ticks: more often, a filter would do nothing else.
const SHORTEST: Duration = Duration::from_millis(10);
/// How often queues are looked into by those that want to hear of them.
const LOOK: Duration = Duration::from_millis(20);

/// What an instance wants to be called for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    /// Time between ticks.
    tick: Option<Duration>,
    /// It wants to hear of queues.
    queues: bool,
    /// Those with something in them.
    ready: Vec<u32>,
}

impl Wants {
    /// Is there anything?
    pub(crate) fn anything(&self) -> bool {
        self.tick.is_some() || self.queues
    }

    /// Must it be called now, having ticked last then?
    pub(crate) fn is_due(&self, ticked: Instant, now: Instant) -> bool {
        !self.ready.is_empty() || self.ticks(ticked, now)
    }

    /// Is a tick due?
    pub(crate) fn ticks(&self, ticked: Instant, now: Instant) -> bool {
        self.tick.is_some_and(|tick| now >= ticked + tick)
    }

    /// How long until the next look at it.
    pub(crate) fn next(&self, ticked: Instant, now: Instant) -> Option<Duration> {
        let tick = self
            .tick
            .map(|tick| (ticked + tick).saturating_duration_since(now));
        let look = self.queues.then_some(LOOK);
        tick.into_iter().chain(look).min()
    }
}

impl Instance {
    /// What it wants to be called for; nothing, if it is of another kind.
    pub(crate) fn wants(&mut self) -> Wants {
        let wants = self.ask(|exports, store| match exports {
            worlds::Exports::ProxyWasm(exports) => Some(Ok(wants(exports, store))),
            _ => None,
        });
        wants.unwrap_or_default()
    }
}

fn wants(exports: &Exports, store: &mut Store<State>) -> Wants {
    let (tick, queues, ready) = host::vm(store, |vm| {
        (vm.tick_ms(), vm.has_queues(), vm.ready_queues())
    });
    let tick = tick.filter(|_| exports.tick.is_some());
    let hears = exports.queue_ready.is_some();
    Wants {
        tick: tick.map(|ms| Duration::from_millis(ms.into()).max(SHORTEST)),
        queues: queues && hears,
        ready: if hears { ready } else { Vec::new() },
    }
}

/// Calls it for all that is due.
pub(crate) fn run(
    exports: &Exports,
    store: &mut Store<State>,
    wants: &Wants,
    tick: bool,
) -> wasmtime::Result<()> {
    if tick {
        host::enter(store, ROOT);
        call(&exports.tick, store, ROOT)?;
    }
    for queue in &wants.ready {
        host::enter(store, ROOT);
        call(&exports.queue_ready, store, (ROOT, *queue))?;
    }
    exchange::end_done(exports, store)
}
