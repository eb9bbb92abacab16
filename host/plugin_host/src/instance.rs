//! One instance of a plugin: configured once, then asked; useless after a failure.

use std::sync::Arc;

use tidegate_contract::Limits;
use wasmtime::{ResourceLimiter, Store, Trap, UpdateDeadline};

use super::{
    deadline::{Deadline, processor_time},
    engine::{Runtime, ticks},
    failure::{Failure, shorten},
    host_calls::{Facts, Shared},
    memory::Held,
    worlds::{Exports, Linked, Needs, proxy_wasm::Guest},
};

/// Bytes a plugin may hand to the host in one call.
const HANDOVER: usize = 1 << 20;
/// Ticks the clock goes on beyond the deadline of a call it has looked at: between the
/// look and the moment its next deadline is set, the thread may have to wait its turn.
const OVERDUE: u64 = 60_000;
/// Elements of one table of an instance.
const TABLE_ELEMENTS: usize = 20_000;
/// Tables of one instance, and core instances it may be made of: a component from
/// another language's tools has one per library and adapter.
const TABLES: usize = 64;
const PARTS: usize = 256;

/// What the host keeps beside an instance.
#[derive(Debug)]
pub(super) struct State {
    pub(super) shared: Arc<Shared>,
    pub(super) facts: Arc<Facts>,
    /// Of a module made for Envoy: what the host keeps of it.
    pub(super) guest: Option<Box<Guest>>,
    memory: Memory,
    deadline: Deadline,
}

#[derive(Debug)]
struct Memory {
    limit: u64,
    held: Held,
    /// Growth was refused: what happens next is most likely for lack of memory.
    exhausted: bool,
    /// It was refused because others have it.
    no_room: bool,
}

/// A live, configured instance.
pub(super) struct Instance {
    store: Store<State>,
    exports: Exports,
    needs: Needs,
}

impl Instance {
    /// Instantiates and configures.
    ///
    /// # Errors
    ///
    /// [`Failure::NotConfigured`] with the plugin's own words if it refused; else what
    /// went wrong.
    pub(super) fn start(
        linked: &Linked,
        shared: &Arc<Shared>,
        limits: &Limits,
        runtime: &Arc<Runtime>,
        config: &str,
    ) -> Result<Self, Failure> {
        let state = State {
            shared: shared.clone(),
            facts: Arc::default(),
            guest: None,
            memory: Memory {
                limit: limits.memory_bytes,
                held: Held::new(shared.pots.clone()),
                exhausted: false,
                no_room: false,
            },
            deadline: Deadline::default(),
        };
        let mut store = Store::new(runtime.engine(), state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(HANDOVER);
        let clock = runtime.clone();
        store.epoch_deadline_callback(move |mut store| {
            let next = store.data_mut().deadline.look(processor_time());
            let ticks = ticks(next.ok_or(Trap::Interrupt)?);
            clock.expect_deadline(ticks.saturating_add(OVERDUE));
            Ok(UpdateDeadline::Continue(ticks))
        });
        set_deadline(&mut store, runtime, limits.configure_ms);
        let (exports, needs) = match linked.configure(&mut store, config) {
            Ok(Ok(configured)) => configured,
            Ok(Err(reason)) => return Err(Failure::NotConfigured(shorten(reason))),
            Err(error) => return Err(classify(&store, &error)),
        };
        shared.totals.instance_made();
        Ok(Self {
            store,
            exports,
            needs,
        })
    }

    /// What it needs to see.
    pub(super) fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Gets ready for a call that may last `call_ms`.
    pub(super) fn prepare(&mut self, runtime: &Runtime, call_ms: u64, facts: &Arc<Facts>) {
        set_deadline(&mut self.store, runtime, call_ms);
        let current = &mut self.store.data_mut().facts;
        if !Arc::ptr_eq(current, facts) {
            current.clone_from(facts);
        }
    }

    /// Asks what it exports; `None` if it is of another world.
    pub(super) fn ask<R>(
        &mut self,
        ask: impl FnOnce(&mut Exports, &mut Store<State>) -> Option<wasmtime::Result<R>>,
    ) -> Result<R, Failure> {
        let answer = ask(&mut self.exports, &mut self.store).ok_or(Failure::WrongWorld)?;
        answer.map_err(|error| classify(&self.store, &error))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.store.data().shared.totals.instance_dropped();
    }
}

fn set_deadline(store: &mut Store<State>, runtime: &Runtime, limit_ms: u64) {
    let deadline = Deadline::new(limit_ms);
    let first_ms = deadline.first_look_ms();
    store.data_mut().deadline = deadline;
    // One more, because the current tick is already under way.
    let ticks = ticks(first_ms).saturating_add(1);
    store.set_epoch_deadline(ticks);
    runtime.expect_deadline(ticks);
}

fn classify(store: &Store<State>, error: &wasmtime::Error) -> Failure {
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => Failure::Deadline,
        _ if store.data().memory.no_room => Failure::NoRoom,
        _ if store.data().memory.exhausted => Failure::OutOfMemory,
        Some(trap) => Failure::Trapped(trap.to_string()),
        // Without a trap code: an answer that cannot be read, or was too long.
        None => Failure::Trapped(shorten(error.root_cause().to_string())),
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let (Ok(current), Ok(desired)) = (u64::try_from(current), u64::try_from(desired)) else {
            return Ok(false);
        };
        if desired > self.limit {
            self.exhausted = true;
            return Ok(false);
        }
        let room = self.held.grow(desired.saturating_sub(current));
        self.no_room |= !room;
        Ok(room)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS)
    }

    fn instances(&self) -> usize {
        PARTS
    }

    fn tables(&self) -> usize {
        TABLES
    }

    /// One: the limit is per memory, and compilers make one.
    fn memories(&self) -> usize {
        1
    }
}
