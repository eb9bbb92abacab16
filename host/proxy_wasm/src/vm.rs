//! The host's side of one instance.

use std::{collections::BTreeMap, sync::Arc};

use crate::{Attributes, Common, Exchange, attributes::Names, common::Change};

/// Number of the context of the plugin itself.
pub const ROOT: u32 = 1;

/// Severities of log lines (`proxy_log_level_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// 0
    Trace,
    /// 1
    Debug,
    /// 2
    Info,
    /// 3
    Warn,
    /// 4
    Error,
    /// 5
    Critical,
}

impl Level {
    pub(crate) fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Trace,
            1 => Self::Debug,
            2 => Self::Info,
            3 => Self::Warn,
            4 => Self::Error,
            5 => Self::Critical,
            _ => return None,
        })
    }
}

/// What only the world outside can do.
pub trait Outside {
    /// Writes a log line.
    fn log(&mut self, level: Level, message: &[u8]);

    /// Lines below this level go nowhere.
    fn log_level(&self) -> Level;

    /// Nanoseconds since 1970.
    fn now_ns(&self) -> u64;

    /// Nanoseconds of a clock that never goes back.
    fn monotonic_ns(&self) -> u64;

    /// Fills with random bytes.
    fn random(&mut self, out: &mut [u8]);

    /// A metric changed.
    fn metric(&mut self, change: Change);

    /// Nobody sent what is decided now: somebody asks what would become of it, and nothing is
    /// to be remembered of it.
    fn is_imagined(&self) -> bool;
}

/// Most bytes of messages, answers and properties that are kept for the exchanges of one
/// instance, beside its own memory.
pub(crate) const HELD: usize = 32 << 20;

/// What a binding gives its filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Name of the plugin.
    pub name: String,
    /// Which of several filters in one module is meant.
    pub root_id: String,
    /// Of the plugin.
    pub plugin: Vec<u8>,
    /// Of the instance.
    pub vm: Vec<u8>,
}

/// The host's side of one instance: its contexts and what they may do now.
#[derive(Debug)]
pub struct Vm {
    pub(crate) names: Names,
    pub(crate) configuration: Configuration,
    pub(crate) common: Arc<Common>,
    pub(crate) exchanges: BTreeMap<u32, Exchange>,
    next: u32,
    pub(crate) current: u32,
    pub(crate) effective: Option<u32>,
    /// Its configurations can be read.
    pub(crate) configuring: bool,
    /// Milliseconds between ticks; 0 for none.
    pub(crate) tick_ms: u32,
    /// Queues it wants to hear of.
    pub(crate) queues: Vec<u32>,
    /// Contexts that said they are done after all.
    pub(crate) done: Vec<u32>,
    /// What was last counted of all exchanges, bytes.
    held: usize,
}

impl Vm {
    /// Of an instance that is about to start.
    pub fn new(configuration: Configuration, common: Arc<Common>) -> Self {
        Self {
            names: Names {
                plugin: configuration.name.clone(),
                root_id: configuration.root_id.clone(),
                vm_id: String::new(),
            },
            configuration,
            common,
            exchanges: BTreeMap::new(),
            next: ROOT + 1,
            current: ROOT,
            effective: None,
            configuring: true,
            tick_ms: 0,
            queues: Vec::new(),
            done: Vec::new(),
            held: 0,
        }
    }

    /// Lengths of the configurations: of the instance, and of the plugin.
    pub fn configuration_lengths(&self) -> (usize, usize) {
        (self.configuration.vm.len(), self.configuration.plugin.len())
    }

    /// It is configured.
    pub fn configured(&mut self) {
        self.configuring = false;
    }

    /// The guest is about to be called for a context.
    pub fn enter(&mut self, context: u32) {
        self.current = context;
        self.effective = None;
    }

    /// A context for an exchange; its number.
    pub fn begin(&mut self, attributes: Attributes) -> u32 {
        let mut id = self.next;
        // After four thousand million of them numbers come again.
        while id <= ROOT || self.exchanges.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        self.next = id.wrapping_add(1);
        self.exchanges.insert(id, Exchange::new(attributes));
        id
    }

    /// An exchange under way.
    pub fn exchange(&mut self, id: u32) -> Option<&mut Exchange> {
        self.exchanges.get_mut(&id)
    }

    /// The filter goes on with a context after its exchange is over. Of its messages nothing is
    /// kept.
    pub fn linger(&mut self, id: u32) {
        if let Some(exchange) = self.exchanges.get_mut(&id) {
            exchange.let_go();
            exchange.lingers = true;
        }
        self.weigh(id);
    }

    /// Counts what is kept of an exchange outside of the instance's memory. False if that of
    /// all of them is more than [`HELD`].
    pub fn weigh(&mut self, id: u32) -> bool {
        if let Some(exchange) = self.exchanges.get_mut(&id) {
            let now = exchange.weight();
            self.held = self.held - std::mem::replace(&mut exchange.weighed, now) + now;
        }
        self.held <= HELD
    }

    /// Forgets an exchange.
    pub fn end(&mut self, id: u32) {
        if let Some(exchange) = self.exchanges.remove(&id) {
            self.held -= exchange.weighed;
        }
        self.done.retain(|done| *done != id);
    }

    /// Contexts under way.
    pub fn open_exchanges(&self) -> usize {
        self.exchanges.len()
    }

    /// Contexts that were gone on with, and are done by now.
    pub fn take_done(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.done)
    }

    /// Milliseconds between ticks, if it wants any.
    pub fn tick_ms(&self) -> Option<u32> {
        (self.tick_ms > 0).then_some(self.tick_ms)
    }

    /// Queues with something in them that it wants to hear of.
    pub fn ready_queues(&self) -> Vec<u32> {
        let waiting = |queue: &u32| self.common.is_waiting(*queue);
        self.queues.iter().copied().filter(waiting).collect()
    }

    /// Whether it wants to hear of any queue.
    pub fn has_queues(&self) -> bool {
        !self.queues.is_empty()
    }

    /// The context that calls are about.
    pub(crate) fn context(&self) -> u32 {
        self.effective.unwrap_or(self.current)
    }

    /// The exchange that calls are about.
    pub(crate) fn here(&mut self) -> Option<&mut Exchange> {
        let context = self.context();
        self.exchanges.get_mut(&context)
    }
}
