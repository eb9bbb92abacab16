//! The instances of one proxy thread. Calls are synchronous and a thread makes one at
//! a time, so one instance per binding is enough. None is made here: that is the work of
//! [`maker`](super::maker).

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tidegate_policy::compiled::FailMode;

use super::{
    budget::Blocked,
    catalog::Binding,
    configured::{Configured, Purpose},
    deadline::processor_time,
    failure::Failure,
    host_calls::Facts,
    hosted::Hosts,
    instance::Instance,
    share::{CONSPICUOUS, Share},
};

/// Instances a thread keeps of what is enforced, and a part of that beside them of what is
/// rehearsed; of the same purpose, the one used longest ago makes room.
const INSTANCES: usize = 256;
/// Idle time after which an instance is given back: of a configuration that is in use,
/// and of one that is not any more.
const IDLE: Duration = Duration::from_secs(60);
const RETIRED_IDLE: Duration = Duration::from_secs(1);

/// Calls plugins on behalf of one thread. Needs no word about new generations: a
/// [`Binding`] says which version to ask.
#[derive(Default)]
pub struct Worker {
    /// By the id of what they are configured with. Few, so that finding one in a tree
    /// is cheaper than hashing.
    slots: BTreeMap<u64, Slot>,
    /// The part of this thread's time that each may still use.
    shares: BTreeMap<u64, Share>,
    /// Instances of which connections have a part each.
    pub(super) hosts: Hosts,
}

struct Slot {
    instance: Instance,
    of: Weak<Configured>,
    purpose: Purpose,
    calls: u32,
    used: Instant,
}

impl Worker {
    /// Without instances; they are made when first needed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives back instances nobody needs: of configurations out of use, and those that
    /// have been idle for long.
    pub fn sweep(&mut self) {
        let now = Instant::now();
        self.slots.retain(|_, slot| {
            let idle = now.saturating_duration_since(slot.used);
            let retired = slot.of.upgrade().is_none_or(|of| of.is_retired());
            idle < if retired { RETIRED_IDLE } else { IDLE }
        });
        self.hosts.sweep(now, |of| match of.is_retired() {
            true => RETIRED_IDLE,
            false => IDLE,
        });
        let hosts = &self.hosts;
        self.shares
            .retain(|id, _| self.slots.contains_key(id) || hosts.has(*id));
    }

    /// Asks the thread's instance of a binding, within its budgets.
    ///
    /// # Errors
    ///
    /// Why there is no answer; the binding's fail mode is the caller's to apply.
    pub(super) fn call<R>(
        &mut self,
        binding: &Binding,
        facts: &Arc<Facts>,
        ask: impl FnOnce(&mut Instance) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let configured = binding.configured.as_ref().map_err(Clone::clone)?;
        let began = Instant::now();
        self.within_budget(
            configured,
            binding.fail_mode,
            facts,
            true,
            |worker, begin| {
                let slot = worker.slot(configured, began)?;
                slot.calls += 1;
                begin(&mut slot.instance);
                ask(&mut slot.instance)
            },
        )
    }

    /// Lets `run` call an instance of its choice, which it has made ready by `begin`. `shares`
    /// has it refused when the binding's share of the thread is used up.
    ///
    /// # Errors
    ///
    /// As [`Self::call`].
    pub(super) fn within_budget<R>(
        &mut self,
        configured: &Arc<Configured>,
        fail_mode: FailMode,
        facts: &Arc<Facts>,
        shares: bool,
        run: impl FnOnce(&mut Self, &mut dyn FnMut(&mut Instance)) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let version = &configured.version;
        let runtime = &version.runtime;
        let limits = &version.info.limits;
        let peer = facts.source.ip().to_canonical();
        let began = Instant::now();
        let share = self
            .shares
            .entry(configured.id)
            .or_insert_with(|| Share::new(began));
        let blocked = match configured.budgets.blocked(peer, || runtime.uptime()) {
            // Each message is tried: a suspension would let others of the peer pass too.
            Some(Blocked::Suspended) if fail_mode == FailMode::Open => None,
            Some(Blocked::Suspended) => Some(Failure::Suspended),
            Some(Blocked::TooLong) => Some(Failure::OverShare),
            None => None,
        };
        // A built-in matcher is policy itself, and quick.
        let may = share.may(began, limits.share_percent);
        let over = shares && !version.built_in() && !may;
        if let Some(failure) = blocked.or(over.then_some(Failure::OverShare)) {
            configured.tally.held_back.fetch_add(1, Relaxed);
            return Err(failure);
        }
        let mut before = None;
        let measured = share.measured();
        let answer = run(self, &mut |instance| {
            before = measured.then(processor_time);
            instance.prepare(runtime, limits.call_ms, facts);
        });
        let took = began.elapsed();
        let call = match (before, &answer) {
            (Some(before), _) => processor_time().saturating_sub(before).min(took),
            (None, Err(Failure::Deadline)) => Duration::from_millis(limits.call_ms),
            // On a busy machine a thread may wait for a processor in the middle of a call,
            // which is no fault of the plugin's. The next calls are measured.
            (None, _) => took.min(CONSPICUOUS),
        };
        if let Some(share) = self.shares.get_mut(&configured.id) {
            share.used(call);
        }
        // Whoever makes a plugin fail also pays for the instance that takes its place.
        let cost = match &answer {
            Err(failure) if failure.is_of_call() => configured.cost(),
            _ => Duration::ZERO,
        };
        let used = call + cost;
        version.totals.called(took, answer.as_ref().err());
        configured.tally.calls.fetch_add(1, Relaxed);
        if !version.built_in() {
            configured.budgets.took(peer, used, || runtime.uptime());
        }
        if let Err(failure) = &answer {
            self.failed(configured, peer, failure);
        }
        answer
    }

    /// Has a binding some of its share left? Who need not be answered at once waits until it
    /// has.
    pub(super) fn has_share(&mut self, configured: &Configured) -> bool {
        let now = Instant::now();
        let percent = configured.version.info.limits.share_percent;
        let share = self.shares.get_mut(&configured.id);
        configured.version.built_in() || share.is_none_or(|share| share.may(now, percent))
    }

    fn failed(&mut self, configured: &Configured, peer: IpAddr, failure: &Failure) {
        // An instance that failed may be in any state, and one that trapped cannot
        // be entered again.
        self.slots.remove(&configured.id);
        configured.tally.failures.fetch_add(1, Relaxed);
        let plugin = configured.shared.label.as_str();
        tracing::debug!(plugin, %peer, %failure, "a plugin call failed");
        let now = configured.version.runtime.uptime();
        if failure.is_of_call()
            && let Some(length) = configured.budgets.failed(peer, now)
        {
            let seconds = length.as_secs();
            tracing::warn!(plugin, %peer, %failure, seconds, "a peer made a plugin fail too often; its messages are refused for a while");
        }
    }

    /// The instance for a configuration, taken from the spare ones if there is none.
    fn slot(&mut self, configured: &Arc<Configured>, now: Instant) -> Result<&mut Slot, Failure> {
        let most = configured.version.info.limits.calls_per_instance;
        let worn = |slot: &Slot| slot.calls >= most;
        if self.slots.get(&configured.id).is_none_or(worn) {
            self.slots.remove(&configured.id);
            self.make_room(configured.purpose);
            let slot = Slot {
                instance: configured.take()?,
                of: Arc::downgrade(configured),
                purpose: configured.purpose,
                calls: 0,
                used: now,
            };
            self.slots.insert(configured.id, slot);
        }
        match self.slots.get_mut(&configured.id) {
            Some(slot) => {
                slot.used = now;
                Ok(slot)
            }
            None => Err(Failure::Missing),
        }
    }

    /// Drops instances of versions and configurations no longer in use, and if that is
    /// not enough, the one used longest ago of those that serve the same purpose.
    fn make_room(&mut self, purpose: Purpose) {
        self.slots.retain(|_, slot| slot.of.strong_count() > 0);
        let own = || {
            self.slots
                .iter()
                .filter(|(_, slot)| slot.purpose == purpose)
        };
        if own().count() >= purpose.part_of(INSTANCES) {
            let oldest = own().min_by_key(|(_, slot)| slot.used);
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.slots.remove(&id);
            }
        }
    }
}
