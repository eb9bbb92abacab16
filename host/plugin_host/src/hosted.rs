//! Instances in which sessions live: of one client alone, so that nothing that one client's
//! messages leave in a plugin's memory can be read by those of another.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::IpAddr,
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use tidegate_policy::compiled::FailMode;
use wasmtime::component::ResourceAny;

use super::{
    catalog::Binding,
    configured::{Configured, Purpose},
    failure::Failure,
    host_calls::Facts,
    instance::Instance,
    worker::Worker,
    worlds::{
        Exports,
        proxy_wasm::{self, Wants},
    },
};

/// A session, as its instance knows it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Session {
    /// Of a component.
    Resource(ResourceAny),
    /// Of a module made for Envoy: the number of a context.
    Context(u32),
}

/// Sessions of one client that share an instance: so many connections a trap can cost
/// it, and so many share an instance's memory.
const SESSIONS: usize = 32;
/// Instances without a session that a thread keeps for clients to come back to, of each
/// purpose. More clients than that pay for a new one each time.
const KEPT: usize = 64;

/// An instance, with the sessions of one client in it.
pub(super) struct Hosted {
    instance: Instance,
    of: Arc<Configured>,
    sessions: usize,
    calls: u32,
    /// Whatever was in it is lost.
    failed: bool,
    /// When it was last told that time passes.
    ticked: Instant,
}

/// Whom an instance serves: what it is configured with, and which client.
type Whom = (u64, IpAddr);

/// Before any address.
const LOWEST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// A thread's instances of this kind.
#[derive(Default)]
pub(super) struct Hosts {
    all: BTreeMap<Whom, Weak<RefCell<Hosted>>>,
    /// Those that outlive their sessions, and when they were used last.
    kept: BTreeMap<Whom, (Rc<RefCell<Hosted>>, Instant)>,
}

impl Hosts {
    /// Gives back what nobody needs: `idle` says for how long an instance may be kept.
    pub(super) fn sweep(&mut self, now: Instant, idle: impl Fn(&Configured) -> Duration) {
        self.kept.retain(|_, (hosted, used)| {
            let hosted = &mut *hosted.borrow_mut();
            let idles = now.saturating_duration_since(*used) >= idle(&hosted.of);
            let works = !hosted.of.is_retired() && hosted.instance.wants().anything();
            !hosted.failed && (!idles || works)
        });
        self.all.retain(|_, hosted| hosted.strong_count() > 0);
    }

    /// Is there an instance of this configuration?
    pub(super) fn has(&self, id: u64) -> bool {
        let mut from = self.all.range((id, LOWEST)..);
        from.next().is_some_and(|(key, _)| key.0 == id)
    }

    /// Keeps an instance beyond its sessions.
    fn keep(&mut self, whom: Whom, hosted: &Rc<RefCell<Hosted>>, purpose: Purpose) {
        let now = Instant::now();
        if let Some((known, used)) = self.kept.get_mut(&whom) {
            known.clone_from(hosted);
            *used = now;
            return;
        }
        let same = |kept: &Rc<RefCell<Hosted>>| kept.borrow().of.purpose == purpose;
        let own = || self.kept.iter().filter(|(_, (kept, _))| same(kept));
        if own().count() >= purpose.part_of(KEPT) {
            let oldest = own().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(whom, _)| *whom) {
                self.kept.remove(&oldest);
            }
        }
        self.kept.insert(whom, (hosted.clone(), now));
    }
}

impl Hosted {
    /// What it is configured with.
    pub(super) fn of(&self) -> &Configured {
        &self.of
    }

    /// A session begins.
    pub(super) fn enter(&mut self) {
        self.sessions += 1;
    }

    /// A session ends: tells the plugin.
    pub(super) fn leave(&mut self, session: Session, facts: &Arc<Facts>) {
        self.sessions = self.sessions.saturating_sub(1);
        if self.failed {
            return;
        }
        let version = self.of.version.clone();
        let limit = version.info.limits.call_ms;
        self.instance.prepare(&version.runtime, limit, facts);
        let dropped = self
            .instance
            .ask(|exports, store| match (session, exports) {
                (Session::Resource(session), _) => Some(session.resource_drop(store)),
                (Session::Context(id), Exports::ProxyWasm(exports)) => {
                    Some(proxy_wasm::leave(exports, store, id))
                }
                (Session::Context(_), _) => None,
            });
        self.failed |= dropped.is_err();
    }
}

impl Worker {
    /// The instance for one more session of a client.
    pub(super) fn hosted(
        &mut self,
        configured: &Arc<Configured>,
        client: IpAddr,
    ) -> Result<Rc<RefCell<Hosted>>, Failure> {
        self.hosted_with(configured, client, SESSIONS)
    }

    fn hosted_with(
        &mut self,
        configured: &Arc<Configured>,
        client: IpAddr,
        sessions: usize,
    ) -> Result<Rc<RefCell<Hosted>>, Failure> {
        let most = configured.version.info.limits.calls_per_instance;
        let whom = (configured.id, client);
        let all = &mut self.hosts.all;
        let known = all.get(&whom).and_then(|hosted| hosted.upgrade());
        let known = known.filter(|hosted| {
            let hosted = hosted.borrow();
            !hosted.failed && hosted.sessions < sessions && hosted.calls < most
        });
        if let Some(known) = known {
            return Ok(known);
        }
        all.retain(|_, hosted| hosted.strong_count() > 0);
        // What it had is not kept beside what it gets.
        self.hosts.kept.remove(&whom);
        let hosted = Rc::new(RefCell::new(Hosted {
            instance: configured.take()?,
            of: configured.clone(),
            sessions: 0,
            calls: 0,
            failed: false,
            ticked: Instant::now(),
        }));
        self.hosts.all.insert(whom, Rc::downgrade(&hosted));
        Ok(hosted)
    }

    /// As [`Self::hosted`]; it stays when its sessions are over, for the client's next one.
    pub(super) fn hosted_for_long(
        &mut self,
        configured: &Arc<Configured>,
        client: IpAddr,
    ) -> Result<Rc<RefCell<Hosted>>, Failure> {
        let hosted = self.hosted(configured, client)?;
        self.hosts
            .keep((configured.id, client), &hosted, configured.purpose);
        Ok(hosted)
    }

    /// The instance of all clients, for filters whose contract has it so.
    pub(super) fn hosted_for_all(
        &mut self,
        configured: &Arc<Configured>,
    ) -> Result<Rc<RefCell<Hosted>>, Failure> {
        let hosted = self.hosted_with(configured, LOWEST, usize::MAX)?;
        self.hosts
            .keep((configured.id, LOWEST), &hosted, configured.purpose);
        Ok(hosted)
    }

    /// Calls filters that want to be called without a message, as far as that is due; how
    /// long until the next look, if any of them wants to be.
    pub fn tick(&mut self) -> Option<Duration> {
        let kept: Vec<_> = self
            .hosts
            .kept
            .values()
            .map(|(kept, _)| kept.clone())
            .collect();
        let facts = Arc::new(Facts::default());
        let next = kept.into_iter().filter_map(|hosted| {
            let hosted = &mut *hosted.borrow_mut();
            let wants = Some(hosted.instance.wants()).filter(Wants::anything)?;
            let now = Instant::now();
            if hosted.failed {
                return None;
            }
            if wants.is_due(hosted.ticked, now) {
                let tick = wants.ticks(hosted.ticked, now);
                if tick {
                    hosted.ticked = now;
                }
                let (configured, instance) = (hosted.of.clone(), &mut hosted.instance);
                let done =
                    self.within_budget(&configured, FailMode::Closed, &facts, true, |_, begin| {
                        begin(instance);
                        instance.ask(|exports, store| match exports {
                            Exports::ProxyWasm(exports) => {
                                Some(proxy_wasm::run(exports, store, &wants, tick))
                            }
                            _ => None,
                        })
                    });
                hosted.failed |= done.is_err_and(|failure| failure.is_of_call());
            }
            wants.next(hosted.ticked, now)
        });
        next.min()
    }

    /// Calls an instance that serves sessions, within its binding's budgets.
    pub(super) fn call_in<R>(
        &mut self,
        hosted: &Rc<RefCell<Hosted>>,
        binding: &Binding,
        facts: &Arc<Facts>,
        ask: impl FnOnce(&mut Instance) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        self.call_in_turn(hosted, binding, facts, true, ask)
    }

    /// The same; without `shares` for a caller that has waited for [`Self::has_share`].
    pub(super) fn call_in_turn<R>(
        &mut self,
        hosted: &Rc<RefCell<Hosted>>,
        binding: &Binding,
        facts: &Arc<Facts>,
        shares: bool,
        ask: impl FnOnce(&mut Instance) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let hosted = &mut *hosted.borrow_mut();
        if hosted.failed {
            return Err(Failure::Trapped(
                "while it served another message".to_owned(),
            ));
        }
        let configured = hosted.of.clone();
        let instance = &mut hosted.instance;
        hosted.calls = hosted.calls.saturating_add(1);
        let answer =
            self.within_budget(&configured, binding.fail_mode, facts, shares, |_, begin| {
                begin(instance);
                ask(instance)
            });
        if let Err(failure) = &answer {
            hosted.failed |= failure.is_of_call();
        }
        answer
    }
}
