//! The proxy's ear for the agent: one agent at a time, on its own thread. When it
//! leaves, everything is kept for the next one; workers notice nothing.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tidegate_policy::compiled::Generation;

use nix::sys::socket::{SockFlag, accept4};
use tidegate_channel::{Channel, codec, register, sealed};
use tidegate_contract::{
    Delta, L7Record, ListenerInfo, PROTOCOL_VERSION, ProxyStats, Snapshot, ToAgent, ToProxy,
};
use tokio::{
    io::Interest,
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};

use super::{
    judge::Judges,
    places::{Capacity, Resources},
    state::{Plugins, Shared, State},
    tables::Tables,
    worker,
};

/// How long records may wait to be sent together.
const BATCH_DELAY: Duration = Duration::from_millis(20);
/// Most records in one message.
const BATCH: usize = 64;
/// How often counters are sent.
const STATS_INTERVAL: Duration = Duration::from_secs(1);
/// Largest snapshot, bytes.
const MAX_SNAPSHOT: u64 = 256 << 20;
/// Largest compiled plugin, bytes.
const MAX_ARTIFACT: u64 = 256 << 20;
/// How often a draining proxy looks whether it is idle.
const IDLE_POLL: Duration = Duration::from_millis(50);

/// Compiled plugins by digest.
pub type Artifacts = BTreeMap<String, Vec<u8>>;

/// Makes plugins instantiable.
pub trait Loader {
    /// Makes a snapshot's rule sets usable; `artifacts` are those not held yet. What has
    /// to be tried first goes on beside: each binding keeps what it had until
    /// [`Loader::news`]. What is refused already is named with the reason.
    fn prepare(
        &mut self,
        snapshot: &Snapshot,
        artifacts: &Artifacts,
    ) -> (Arc<dyn Plugins>, Vec<(String, String)>);

    /// Waits until something that was tried has an outcome.
    fn news(&self) -> impl Future<Output = ()>;

    /// The same rule sets, with all that was accepted by now.
    fn refresh(&mut self) -> Arc<dyn Plugins>;

    /// Digests of the artifacts in use.
    fn held(&self) -> Vec<String>;
}

/// Why a session with an agent ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The agent left; there will be another.
    AgentGone,
    /// It asked the proxy to end.
    Drained,
}

/// What the proxy holds besides the state of its workers.
pub(super) struct Control<L> {
    loader: L,
    /// Sent ahead of the snapshot that names them.
    artifacts: Artifacts,
    shared: Arc<Shared>,
    tables: Option<Arc<Tables>>,
    listeners: Vec<(ListenerInfo, OwnedFd)>,
    working: bool,
    stop: watch::Sender<bool>,
    resources: Resources,
    judges: Judges,
    judged: mpsc::UnboundedReceiver<ToAgent>,
    /// What this agent published last, and the number of that: what a delta may be for.
    published: Option<(u64, Snapshot)>,
}

impl<L: Loader> Control<L> {
    /// A proxy that knows nothing yet.
    pub(super) fn new(loader: L, resources: Resources) -> Self {
        let (judges, judged) = Judges::new();
        Self {
            judges,
            judged,
            published: None,
            loader,
            artifacts: Artifacts::new(),
            shared: Arc::default(),
            tables: None,
            listeners: Vec::new(),
            working: false,
            stop: watch::Sender::new(false),
            resources,
        }
    }

    /// Serves one agent after the other until one of them asks the proxy to end.
    ///
    /// # Errors
    ///
    /// If the listening socket fails.
    pub(super) async fn run(mut self, listening: OwnedFd) -> io::Result<()> {
        let listening = register(listening)?;
        loop {
            let socket = tokio::select! {
                socket = listening.async_io(Interest::READABLE, accept) => socket?,
                () = self.loader.news() => {
                    self.refresh();
                    continue;
                }
            };
            tracing::info!("an agent has come");
            match self.session(&Channel::new(socket)?).await {
                Ok(End::Drained) => return Ok(()),
                Ok(End::AgentGone) => tracing::info!("the agent has left; everything stays"),
                Err(error) => tracing::warn!(%error, "the agent was sent away"),
            }
        }
    }

    /// Serves one agent until it leaves.
    async fn session(&mut self, agent: &Channel) -> io::Result<End> {
        let shared = self.shared.clone();
        let mut stats = tokio::time::interval(STATS_INTERVAL);
        stats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut greeted = false;
        // An agent that left half-way through sends everything again.
        self.artifacts.clear();
        self.published = None;
        loop {
            tokio::select! {
                message = agent.receive() => {
                    let (message, attached) = match message {
                        Ok(Some(message)) => message,
                        Ok(None) => return Ok(End::AgentGone),
                        // It left before it had read all that it was told.
                        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                            return Ok(End::AgentGone);
                        }
                        Err(error) => return Err(error),
                    };
                    if let ToProxy::Drain { deadline_ms } = message {
                        self.drain(Duration::from_millis(deadline_ms)).await;
                        self.send_waiting(agent);
                        return Ok(End::Drained);
                    }
                    self.handle(agent, message, attached).await?;
                    greeted = true;
                }
                Some(answer) = self.judged.recv(), if greeted => {
                    agent.send(&answer, &[]).await?;
                }
                () = shared.records.wake.notified(), if greeted => {
                    tokio::time::sleep(BATCH_DELAY).await;
                    self.send_waiting(agent);
                }
                () = self.loader.news() => {
                    self.refresh();
                    if greeted {
                        self.send_stats(agent);
                    }
                }
                _ = stats.tick(), if greeted => {
                    self.send_waiting(agent);
                    self.send_stats(agent);
                }
            }
        }
    }

    async fn handle(
        &mut self,
        agent: &Channel,
        message: ToProxy,
        attached: Vec<OwnedFd>,
    ) -> io::Result<()> {
        match message {
            ToProxy::Hello {
                protocol,
                tables,
                listeners,
            } => {
                self.hello(agent, protocol, &tables, listeners, attached)
                    .await
            }
            ToProxy::Artifacts { artifacts } => self.take_artifacts(artifacts, attached),
            ToProxy::Publish {
                sequence,
                base,
                artifacts,
            } => {
                self.publish(agent, (sequence, base), artifacts, attached)
                    .await
            }
            ToProxy::Judge { id, question } => {
                self.judges.ask(id, *question, self.shared.latest());
                Ok(())
            }
            // Ends the session; handled there.
            ToProxy::Drain { .. } => Ok(()),
        }
    }

    async fn hello(
        &mut self,
        agent: &Channel,
        protocol: u32,
        tables: &[String],
        listeners: Vec<ListenerInfo>,
        mut attached: Vec<OwnedFd>,
    ) -> io::Result<()> {
        if protocol == PROTOCOL_VERSION {
            if attached.len() != tables.len() + listeners.len() {
                return Err(invalid("a greeting without the descriptors it names"));
            }
            let sockets = attached.split_off(tables.len());
            let tables = tables.iter().map(String::as_str).zip(attached).collect();
            self.take_tables(Arc::new(Tables::open(tables)?));
            let known = self.answer(agent).await?;
            if known == 0 {
                self.listeners = listeners.into_iter().zip(sockets).collect();
            }
            Ok(())
        } else {
            // The answer names our version; what follows is for the agent to decide.
            self.answer(agent).await.map(drop)
        }
    }

    /// Answers a greeting with what is here already; returns the number of listeners.
    async fn answer(&self, agent: &Channel) -> io::Result<usize> {
        let sockets: Vec<_> = self
            .listeners
            .iter()
            .map(|(_, socket)| socket.as_fd())
            .collect();
        let hello = ToAgent::Hello {
            protocol: PROTOCOL_VERSION,
            generation: self.generation(),
            pid: std::process::id(),
            listeners: self.listeners.iter().map(|(info, _)| *info).collect(),
            artifacts: self.loader.held(),
        };
        agent.send_plain(&hello, &sockets).await?;
        Ok(sockets.len())
    }

    fn take_tables(&mut self, tables: Arc<Tables>) {
        if let Some(state) = self.shared.latest() {
            self.shared.publish(state.with_tables(tables.clone()));
        }
        self.tables = Some(tables);
    }

    async fn publish(
        &mut self,
        agent: &Channel,
        (sequence, base): (u64, Option<u64>),
        digests: Vec<String>,
        attached: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let tables = self
            .tables
            .clone()
            .ok_or_else(|| invalid("a snapshot before a greeting"))?;
        let mut attached = attached.into_iter();
        let snapshot = attached
            .next()
            .ok_or_else(|| invalid("no snapshot attached"))?;
        let bytes = sealed::read(&sealed::check(snapshot, MAX_SNAPSHOT)?)?;
        self.take_artifacts(digests, attached.collect())?;
        let Some(snapshot) = self.read(base, &bytes)? else {
            return agent.send(&ToAgent::Whole { sequence }, &[]).await;
        };
        let artifacts = std::mem::take(&mut self.artifacts);
        let generation = snapshot.generation;
        let (plugins, refused) = self.loader.prepare(&snapshot, &artifacts);
        let before = self.shared.latest();
        self.shared
            .publish(State::new(&snapshot, plugins, tables, before.as_deref()));
        self.published = Some((sequence, snapshot));
        self.start_workers()?;
        let published = ToAgent::Published {
            generation,
            refused,
        };
        agent.send(&published, &[]).await?;
        // Whoever asks for the status sees this generation, not that of a second ago.
        self.send_stats(agent);
        Ok(())
    }

    /// The snapshot of these bytes, whole or as what is different from that of number
    /// `base`; `None` if it is for another than what is here.
    fn read(&mut self, base: Option<u64>, bytes: &[u8]) -> io::Result<Option<Snapshot>> {
        let Some(base) = base else {
            return codec::decode(bytes).map(Some);
        };
        let delta: Delta = codec::decode(bytes)?;
        let Some((_, mut snapshot)) = self.published.take().filter(|(of, _)| *of == base) else {
            return Ok(None);
        };
        match delta.apply(&mut snapshot) {
            Ok(()) => Ok(Some(snapshot)),
            Err(misfit) => {
                tracing::warn!(%misfit, "a delta does not fit, the whole is asked for");
                Ok(None)
            }
        }
    }

    /// Keeps compiled plugins for the snapshot that follows.
    fn take_artifacts(&mut self, digests: Vec<String>, attached: Vec<OwnedFd>) -> io::Result<()> {
        if attached.len() != digests.len() {
            return Err(invalid("artifacts without the descriptors they name"));
        }
        for (digest, artifact) in digests.into_iter().zip(attached) {
            let artifact = sealed::check(artifact, MAX_ARTIFACT)?;
            self.artifacts.insert(digest, sealed::read(&artifact)?);
        }
        Ok(())
    }

    /// Puts to use what was accepted meanwhile.
    fn refresh(&mut self) {
        let plugins = self.loader.refresh();
        if let Some(state) = self.shared.latest() {
            self.shared.publish(state.with_plugins(plugins));
        }
    }

    /// Starts one worker per CPU, once there are listeners and something to decide with.
    fn start_workers(&mut self) -> io::Result<()> {
        if self.working || self.listeners.is_empty() {
            return Ok(());
        }
        let mut of_cpu: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for (info, socket) in &self.listeners {
            of_cpu
                .entry(info.cpu)
                .or_default()
                .push((*info, socket.try_clone()?));
        }
        let capacity = Capacity::of(self.resources, of_cpu.len())?;
        let limit = &self.shared.records.counters.connection_limit;
        limit.store(capacity.total(of_cpu.len()), Relaxed);
        for (cpu, listeners) in of_cpu {
            let shared = self.shared.clone();
            worker::spawn(cpu, listeners, shared, capacity, self.stop.subscribe())?;
        }
        self.working = true;
        Ok(())
    }

    /// Stops accepting, and waits until nothing is open or the time is up.
    async fn drain(&self, deadline: Duration) {
        self.stop.send_replace(true);
        let until = Instant::now() + deadline;
        let connections = &self.shared.records.counters.connections;
        while connections.load(Relaxed) > 0 && Instant::now() < until {
            tokio::time::sleep(IDLE_POLL).await;
        }
        tracing::info!(open = connections.load(Relaxed), "drained");
    }

    fn generation(&self) -> Generation {
        self.shared
            .latest()
            .map_or(Generation(0), |state| state.generation)
    }

    /// Sends what waits, as far as the socket takes it.
    fn send_waiting(&self, agent: &Channel) {
        let waiting = self.shared.records.take();
        for learned in waiting.learned {
            let message = ToAgent::Learned {
                name: learned.name,
                addresses: learned.addresses,
            };
            if agent.try_send(&message).is_err() {
                break;
            }
        }
        let mut lost = waiting.lost;
        let mut unsent = 0;
        let mut records = waiting.records.into_iter();
        while records.len() > 0 {
            let batch = records.by_ref().take(BATCH).collect();
            unsent += send_records(agent, batch, &mut lost);
        }
        self.shared.records.not_sent(unsent, lost);
    }

    fn send_stats(&self, agent: &Channel) {
        let mut stats = ProxyStats {
            generation: self.generation(),
            workers: self.shared.turns.read(),
            ..self.shared.records.counters.stats()
        };
        if let Some(state) = self.shared.latest() {
            stats.plugins = state.plugins.stats();
            stats.bindings = state.plugins.bindings();
        }
        // Sent again in a second; a socket that is full now says enough.
        let _ = agent.try_send(&ToAgent::Stats(stats));
    }
}

/// Sends records. Returns how many could not be sent; `lost` is told with the first
/// message that gets through, then 0.
fn send_records(agent: &Channel, records: Vec<L7Record>, lost: &mut u64) -> u64 {
    let count = records.len();
    let message = ToAgent::Records {
        records,
        lost: *lost,
    };
    match agent.try_send(&message) {
        Ok(()) => {
            *lost = 0;
            0
        }
        Err(_) => count as u64,
    }
}

fn accept(listening: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = accept4(listening.as_raw_fd(), flags)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
