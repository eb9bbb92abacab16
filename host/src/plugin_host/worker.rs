//! The instances of one proxy thread. Calls are synchronous and a thread makes one at
//! a time, so one instance per plugin and configuration is enough.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Instant,
};

use tidegate_wire::http::{HttpHead, ResponseHead};

use super::{
    answer::{DnsDecision, Failure, HttpDecision},
    catalog::{Binding, Configured},
    host_calls::Facts,
    instance::Instance,
};

/// Instances a thread keeps; the one used longest ago makes room.
const INSTANCES: usize = 256;
/// Calls after which an instance is replaced, so that a slow leak stays harmless.
const CALLS: u32 = 100_000;

/// Calls plugins on behalf of one thread. Needs no word about new generations: a
/// [`Binding`] says which version to ask.
#[derive(Default)]
pub struct Worker {
    /// By the id of what they are configured with. Few, so that finding one in a tree
    /// is cheaper than hashing.
    slots: BTreeMap<u64, Slot>,
    /// Counts calls, to tell which slot was used longest ago.
    clock: u64,
}

struct Slot {
    instance: Instance,
    of: Weak<Configured>,
    calls: u32,
    used: u64,
}

impl Worker {
    /// Without instances; they are made when first needed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks about a request head.
    ///
    /// # Errors
    ///
    /// Why there is no answer; the binding's fail mode is the caller's to apply.
    pub fn http_request(
        &mut self,
        binding: &Binding,
        head: &HttpHead<'_>,
        facts: &Arc<Facts>,
    ) -> Result<HttpDecision, Failure> {
        self.call(binding, facts, |instance| instance.http_request(head))
    }

    /// Asks about a final response head.
    ///
    /// # Errors
    ///
    /// As [`Self::http_request`].
    pub fn http_response(
        &mut self,
        binding: &Binding,
        head: &ResponseHead<'_>,
        facts: &Arc<Facts>,
    ) -> Result<HttpDecision, Failure> {
        self.call(binding, facts, |instance| instance.http_response(head))
    }

    /// Asks about a query: its first name, lower case with final dot, and QTYPE.
    ///
    /// # Errors
    ///
    /// As [`Self::http_request`].
    pub fn dns_query(
        &mut self,
        binding: &Binding,
        name: &str,
        qtype: u16,
        facts: &Arc<Facts>,
    ) -> Result<DnsDecision, Failure> {
        self.call(binding, facts, |instance| instance.dns_query(name, qtype))
    }

    fn call<R>(
        &mut self,
        binding: &Binding,
        facts: &Arc<Facts>,
        ask: impl FnOnce(&mut Instance) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let configured = binding.configured.as_ref().map_err(Clone::clone)?;
        let version = &configured.version;
        let runtime = &version.runtime;
        if version.budget.suspended(|| runtime.uptime()).is_some() {
            return Err(Failure::Suspended);
        }
        let began = Instant::now();
        let answer = self.slot(configured).and_then(|slot| {
            slot.calls += 1;
            let instance = &mut slot.instance;
            instance.prepare(runtime, version.call_ms(), facts);
            ask(instance)
        });
        let took = began.elapsed();
        version.shared.counters.called(took, answer.as_ref().err());
        if let Err(failure) = &answer {
            // An instance that failed may be in any state, and one that trapped cannot
            // be entered again.
            self.slots.remove(&configured.id);
            let plugin = version.shared.label.as_str();
            tracing::debug!(plugin, %failure, "a plugin call failed");
            if let Some(length) = version.budget.failed(runtime.uptime()) {
                let seconds = length.as_secs();
                tracing::warn!(plugin, %failure, seconds, "plugin suspended after too many failures");
            }
        }
        answer
    }

    /// The instance for a configuration, made if there is none.
    fn slot(&mut self, configured: &Arc<Configured>) -> Result<&mut Slot, Failure> {
        self.clock += 1;
        let worn = |slot: &Slot| slot.calls >= CALLS;
        if self.slots.get(&configured.id).is_none_or(worn) {
            self.slots.remove(&configured.id);
            self.make_room();
            let slot = Slot {
                instance: configured.version.start(&configured.config)?,
                of: Arc::downgrade(configured),
                calls: 0,
                used: 0,
            };
            self.slots.insert(configured.id, slot);
        }
        match self.slots.get_mut(&configured.id) {
            Some(slot) => {
                slot.used = self.clock;
                Ok(slot)
            }
            None => Err(Failure::Missing),
        }
    }

    /// Drops instances of versions and configurations no longer in use, and if that is
    /// not enough, the one used longest ago.
    fn make_room(&mut self) {
        self.slots.retain(|_, slot| slot.of.strong_count() > 0);
        if self.slots.len() >= INSTANCES {
            let oldest = self.slots.iter().min_by_key(|(_, slot)| slot.used);
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.slots.remove(&id);
            }
        }
    }
}
