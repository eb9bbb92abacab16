//! The functions a module calls, tied to its memory, its limits and the world outside.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tidegate_proxy_wasm::{
    Answer, Change, Level, MetricKind, Outside, Vm,
    abi::{FUNCTIONS, Function, Kind, Status},
};
use wasmtime::{Caller, FuncType, Linker, Store, Val, ValType};

use super::{ALLOCATE, MEMORY, Place};
use crate::{instance::State, worlds::imports::log};

/// Most parameters a function has.
const PARAMETERS: usize = 12;

/// The host's side of a guest.
pub(crate) struct Guest {
    pub(super) vm: Vm,
    /// Its memory, from its first call on.
    place: Option<Place>,
    /// It is making room for an answer, and gets no other meanwhile.
    allocating: bool,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Guest").field(&self.vm).finish()
    }
}

impl Guest {
    pub(super) fn new(vm: Vm) -> Self {
        Self {
            vm,
            place: None,
            allocating: false,
        }
    }
}

/// The guest is about to be called for a context.
pub(super) fn enter(store: &mut Store<State>, context: u32) {
    vm(store, |vm| vm.enter(context));
}

/// Does something with the host's side of a guest; nothing, if it is of another kind.
pub(super) fn vm<R: Default>(store: &mut Store<State>, work: impl FnOnce(&mut Vm) -> R) -> R {
    let guest = store.data_mut().guest.as_mut();
    guest.map_or_else(R::default, |guest| work(&mut guest.vm))
}

/// Offers every function of the contract.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    for function in FUNCTIONS {
        let parameters = function.parameters().iter().map(|kind| match kind {
            Kind::Word => ValType::I32,
            Kind::Long => ValType::I64,
        });
        let results = function.answers().then_some(ValType::I32);
        let kind = FuncType::new(linker.engine(), parameters, results);
        for module in function.modules() {
            let function = *function;
            linker.func_new(
                module,
                function.name(),
                kind.clone(),
                move |caller, arguments, results| serve(function, caller, arguments, results),
            )?;
        }
    }
    Ok(())
}

/// Serves one call.
fn serve(
    function: Function,
    mut caller: Caller<'_, State>,
    arguments: &[Val],
    results: &mut [Val],
) -> wasmtime::Result<()> {
    let (memory, _) = place(&mut caller)?;
    let mut numbers = [0; PARAMETERS];
    for (number, argument) in numbers.iter_mut().zip(arguments) {
        *number = match argument {
            Val::I32(word) => u64::from(word.cast_unsigned()),
            Val::I64(long) => long.cast_unsigned(),
            // The linker has compared the types.
            _ => 0,
        };
    }
    let (bytes, state) = memory.data_and_store_mut(&mut caller);
    let Some(mut guest) = state.guest.take() else {
        return Err(missing());
    };
    let answer = guest.vm.call(
        function,
        &numbers[..arguments.len()],
        bytes,
        &mut World(state),
    );
    state.guest = Some(guest);
    let number = match answer {
        Answer::Number(number) => number,
        Answer::Give {
            bytes,
            at,
            length_at,
        } => give(&mut caller, &bytes, at, length_at)? as u32,
        Answer::Exit(code) => {
            let why = format!("it ended itself (`proc_exit`) with {code}");
            return Err(wasmtime::Error::msg(why));
        }
    };
    if let Some(result) = results.first_mut() {
        *result = Val::I32(number.cast_signed());
    }
    Ok(())
}

fn missing() -> wasmtime::Error {
    wasmtime::Error::msg("it calls before it has memory")
}

/// The guest's memory, and where it makes room.
fn place(caller: &mut Caller<'_, State>) -> wasmtime::Result<Place> {
    let guest = caller.data().guest.as_ref().ok_or_else(missing)?;
    if let Some(place) = &guest.place {
        return Ok(place.clone());
    }
    let memory = caller
        .get_export(MEMORY)
        .and_then(|export| export.into_memory());
    let memory = memory.ok_or_else(missing)?;
    let mut allocate = None;
    for name in ALLOCATE {
        if allocate.is_none()
            && let Some(export) = caller.get_export(name)
            && let Some(function) = export.into_func()
        {
            allocate = Some(function.typed(&*caller)?);
        }
    }
    let place = (memory, allocate);
    if let Some(guest) = &mut caller.data_mut().guest {
        guest.place = Some(place.clone());
    }
    Ok(place)
}

/// Hands bytes over, in memory that the guest makes for them.
fn give(
    caller: &mut Caller<'_, State>,
    bytes: &[u8],
    at: u32,
    length_at: u32,
) -> wasmtime::Result<Status> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let (memory, allocate) = place(caller)?;
    let mut address = 0;
    if length > 0 {
        let Some(allocate) = allocate else {
            return Ok(Status::InternalFailure);
        };
        match &mut caller.data_mut().guest {
            Some(guest) if !guest.allocating => guest.allocating = true,
            _ => return Ok(Status::InternalFailure),
        }
        let made = allocate.call(&mut *caller, length);
        if let Some(guest) = &mut caller.data_mut().guest {
            guest.allocating = false;
        }
        address = made?;
        let written = memory.write(&mut *caller, address as usize, bytes);
        if address == 0 || written.is_err() {
            return Ok(Status::InvalidMemoryAccess);
        }
    }
    for (place, number) in [(at, address), (length_at, length)] {
        if memory
            .write(&mut *caller, place as usize, &number.to_le_bytes())
            .is_err()
        {
            return Ok(Status::InvalidMemoryAccess);
        }
    }
    Ok(Status::Ok)
}

/// The world outside, as an instance's limits let it be seen.
struct World<'s>(&'s mut State);

impl Outside for World<'_> {
    fn log(&mut self, level: Level, message: &[u8]) {
        let level = match level {
            Level::Trace | Level::Debug => log::Level::Debug,
            Level::Info => log::Level::Info,
            Level::Warn => log::Level::Warn,
            Level::Error | Level::Critical => log::Level::Error,
        };
        // No longer than a line: the rest would be copied to be cut off.
        let message = &message[..message.len().min(crate::host_calls::LINE)];
        let message = String::from_utf8_lossy(message).into_owned();
        log::Host::write(self.0, level, message);
    }

    fn log_level(&self) -> Level {
        if tracing::enabled!(tracing::Level::DEBUG) {
            Level::Debug
        } else if tracing::enabled!(tracing::Level::INFO) {
            Level::Info
        } else if tracing::enabled!(tracing::Level::WARN) {
            Level::Warn
        } else {
            Level::Error
        }
    }

    fn now_ns(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        // A clock set before 1970 reads as 0.
        now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
    }

    fn monotonic_ns(&self) -> u64 {
        static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let began = BEGAN.get_or_init(Instant::now);
        u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn random(&mut self, out: &mut [u8]) {
        // A kernel without randomness this late is none that starts processes.
        if let Err(error) = getrandom::fill(out) {
            tracing::error!(%error, "no random bytes for a plugin");
        }
    }

    fn metric(&mut self, change: Change) {
        let shared = &self.0.shared;
        let Change { name, kind, by } = change;
        match kind {
            MetricKind::Counter => shared.totals.change(shared.purpose, name, by),
            MetricKind::Gauge => shared.totals.change(shared.purpose, name, by),
            MetricKind::Histogram => {
                let sum = format!("{name}_sum");
                shared.totals.change(shared.purpose, sum, by);
                shared
                    .totals
                    .change(shared.purpose, format!("{name}_count"), 1);
            }
        }
    }

    fn is_imagined(&self) -> bool {
        self.0.facts.imagined
    }
}
