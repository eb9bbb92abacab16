//! One instance of a plugin: configured once, then asked; useless after a failure.

use std::sync::Arc;

use tidegate_contract::{Limits, World};
use wasmtime::{
    ResourceLimiter, Store, Trap, UpdateDeadline, component::Component, component::Linker,
};

use super::{
    answer::{self, DnsDecision, Failure, HttpDecision, shorten},
    bindings::{
        dns_world::{DnsFilter, DnsFilterPre},
        http_world::{HttpFilter, HttpFilterPre},
    },
    deadline::{Deadline, processor_time},
    engine::{Runtime, ticks},
    host_calls::{self, Facts, Shared},
    memory::Held,
    message::{Wanted, method},
};

use tidegate_wire::http::{HttpHead, ResponseHead};

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

/// A component linked to what it was granted, ready to be instantiated.
#[derive(Clone)]
pub(super) enum Linked {
    Http(HttpFilterPre<State>),
    Dns(DnsFilterPre<State>),
}

impl Linked {
    /// Links a component; the types of everything it imports and exports are checked
    /// here.
    pub(super) fn new(
        component: &Component,
        world: World,
        granted: &[String],
    ) -> wasmtime::Result<Self> {
        let mut linker = Linker::new(component.engine());
        host_calls::link(&mut linker, granted)?;
        let pre = linker.instantiate_pre(component)?;
        Ok(match world {
            World::HttpFilter => Self::Http(HttpFilterPre::new(pre)?),
            World::DnsFilter => Self::Dns(DnsFilterPre::new(pre)?),
        })
    }
}

/// What the host keeps beside an instance.
#[derive(Debug)]
pub(super) struct State {
    pub(super) shared: Arc<Shared>,
    pub(super) facts: Arc<Facts>,
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

/// What a plugin said it needs.
#[derive(Clone, Debug)]
pub(super) struct Needs {
    pub(super) headers: Wanted,
    pub(super) responses: bool,
}

/// A live, configured instance.
pub(super) struct Instance {
    store: Store<State>,
    exports: Exports,
    needs: Needs,
    packed: Vec<u8>,
}

enum Exports {
    Http(HttpFilter),
    Dns(DnsFilter),
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
        let (exports, needs) = match configure(linked, &mut store, config) {
            Ok(Ok(configured)) => configured,
            Ok(Err(reason)) => return Err(Failure::NotConfigured(shorten(reason))),
            Err(error) => return Err(classify(&store, &error)),
        };
        shared.totals.instance_made();
        Ok(Self {
            store,
            exports,
            needs,
            packed: Vec::new(),
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

    /// Asks about a request head.
    pub(super) fn http_request(&mut self, head: &HttpHead<'_>) -> Result<HttpDecision, Failure> {
        let Exports::Http(exports) = &self.exports else {
            return Err(Failure::WrongWorld);
        };
        self.needs.headers.pack(head.headers, &mut self.packed);
        let answer = exports.tidegate_filter_http().call_on_request(
            &mut self.store,
            &method(head.method),
            head.path,
            head.authority,
            &self.packed,
        );
        match answer {
            Ok(answer) => answer::http_decision(answer),
            Err(error) => Err(classify(&self.store, &error)),
        }
    }

    /// Asks about a response head.
    pub(super) fn http_response(
        &mut self,
        head: &ResponseHead<'_>,
    ) -> Result<HttpDecision, Failure> {
        let Exports::Http(exports) = &self.exports else {
            return Err(Failure::WrongWorld);
        };
        self.needs.headers.pack(head.headers, &mut self.packed);
        let http = exports.tidegate_filter_http();
        match http.call_on_response(&mut self.store, head.status, &self.packed) {
            Ok(answer) => answer::http_decision(answer),
            Err(error) => Err(classify(&self.store, &error)),
        }
    }

    /// Asks about a query.
    pub(super) fn dns_query(&mut self, name: &str, qtype: u16) -> Result<DnsDecision, Failure> {
        let Exports::Dns(exports) = &self.exports else {
            return Err(Failure::WrongWorld);
        };
        let dns = exports.tidegate_filter_dns();
        match dns.call_on_query(&mut self.store, name, qtype) {
            Ok(answer) => answer::dns_decision(answer),
            Err(error) => Err(classify(&self.store, &error)),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.store.data().shared.totals.instance_dropped();
    }
}

/// The outer error is the machine's, the inner one the plugin's.
type Configured = wasmtime::Result<Result<(Exports, Needs), String>>;

fn configure(linked: &Linked, store: &mut Store<State>, config: &str) -> Configured {
    match linked {
        Linked::Http(pre) => {
            let exports = pre.instantiate(&mut *store)?;
            let answer = exports
                .tidegate_filter_http()
                .call_configure(store, config)?;
            Ok(answer.and_then(|needs| {
                let headers = Wanted::new(&needs)?;
                let responses = needs.responses;
                Ok((Exports::Http(exports), Needs { headers, responses }))
            }))
        }
        Linked::Dns(pre) => {
            let exports = pre.instantiate(&mut *store)?;
            let answer = exports
                .tidegate_filter_dns()
                .call_configure(store, config)?;
            let needs = Needs {
                headers: Wanted::Named(Vec::new()),
                responses: false,
            };
            Ok(answer.map(|()| (Exports::Dns(exports), needs)))
        }
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
