//! The agent's side: finds or starts the proxy, keeps its listeners, starts it again
//! when it dies, and brings it up to date each time.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, SystemTime},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{
            self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt,
            listen, sockopt::PeerCredentials,
        },
    },
    unistd::Pid,
};
use tidegate_contract::{
    Judgement, ListenerInfo, PROTOCOL_VERSION, Question, Snapshot, ToAgent, ToProxy,
};
use tidegate_ebpf_shared::{limits::MAX_CPUS, steer::class};
use tokio::{
    process::{Child, Command},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    channel::{Channel, MAX_DESCRIPTORS},
    listener,
    pulse::{self, Finding, Pulse},
    sealed,
    tables::TABLES,
};

/// File name of the socket in the run directory.
const SOCKET: &str = "proxy.sock";
/// Most workers: their listeners and the tables must fit one message.
const MAX_WORKERS: u32 = ((MAX_DESCRIPTORS - TABLES) / class::COUNT as usize) as u32;
/// How long a living proxy may take to answer a greeting.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A proxy that lived shorter than this died of its start: the next one waits.
const SHORT_LIFE: Duration = Duration::from_secs(5);
/// Shortest and longest wait before another start, after the first, which is at once.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Questions that may wait for the proxy.
const QUESTIONS: usize = 16;
/// Seconds the proxy may take, besides, to put a generation into use.
const BUSY_TICKS: u32 = 15;
/// How long a proxy that was killed may take to be gone.
const DYING: Duration = Duration::from_secs(5);
/// Compiled plugins sent in one message ahead of a generation.
const ARTIFACTS_AT_ONCE: usize = 64;
/// Messages of the proxy that may wait for the agent; then the proxy's socket fills, and
/// it drops and counts.
const EVENTS: usize = 1_024;

/// How to run the proxy.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// Directory of the socket; exists.
    pub run_dir: PathBuf,
    /// The program; `proxy` is its first argument.
    pub exe: PathBuf,
    /// User and group it becomes.
    pub user: (u32, u32),
    /// Worker threads; as many as CPUs if `None`.
    pub workers: Option<u32>,
    /// Connections each worker serves at once.
    pub connections_per_cpu: u32,
    /// Memory of each worker for bytes on their way, MiB.
    pub memory_per_cpu_mib: u32,
    /// Without a sign of life for so long it is replaced; at least 1 s.
    pub hung_after: Duration,
    /// Memory of all dropped-in plugins together, bytes; `None`: the usual.
    pub plugin_memory_bytes: Option<u64>,
    /// Arguments for its log.
    pub log: (bool, String),
}

/// The tables handed to the proxy, in the order of `ToProxy::Hello`.
#[derive(Debug)]
pub struct ProxyMaps {
    /// `FLOWS`.
    pub flows: OwnedFd,
    /// `FQDN`.
    pub fqdn: OwnedFd,
    /// `STEERED`.
    pub steered: OwnedFd,
    /// `STEER_BY_TUPLE`.
    pub steer_by_tuple: OwnedFd,
}

/// The proxy, as the agent sees it now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyStatus {
    /// Process id; 0 while there is none.
    pub pid: u32,
    /// When it greeted.
    pub since: Option<SystemTime>,
    /// Starts since this supervisor began; 0 if it only took one over.
    pub starts: u64,
    /// Times it was ended because it hung.
    pub hung: u64,
    /// A generation is in use, and connections are accepted.
    pub serving: bool,
    /// What shows no sign of life at present.
    pub silence: Option<String>,
    /// Why there is none, if so.
    pub problem: Option<String>,
}

/// What a publication came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Generation in use now.
    pub generation: u32,
    /// Plugins refused so far, and why; bindings keep what they accepted last.
    pub refused: Vec<(String, String)>,
}

/// A snapshot and where the compiled plugins it names are.
#[derive(Debug)]
struct Publication {
    snapshot: Snapshot,
    artifacts: BTreeMap<String, PathBuf>,
}

type Reply = oneshot::Sender<io::Result<Published>>;

/// A question, and who waits for the answer.
type Asked = (Question, oneshot::Sender<Judgement>);

/// Keeps a proxy running. Dropping it leaves the proxy alone: that is the promise.
#[derive(Debug)]
pub struct ProxySupervisor {
    publications: mpsc::Sender<(Publication, Reply)>,
    questions: mpsc::Sender<Asked>,
    drains: mpsc::Sender<Duration>,
    listeners: Arc<Vec<(ListenerInfo, OwnedFd)>>,
    status: watch::Receiver<ProxyStatus>,
    task: JoinHandle<()>,
}

impl Drop for ProxySupervisor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ProxySupervisor {
    /// Takes over a living proxy or starts one, and keeps one running from now on. The
    /// second value is what the proxy tells, `Published` and `Hello` excepted.
    ///
    /// # Errors
    ///
    /// If neither works the first time.
    pub async fn start(
        options: ProxyOptions,
        maps: ProxyMaps,
    ) -> io::Result<(Self, mpsc::Receiver<ToAgent>)> {
        let mut keeper = Keeper {
            options,
            maps,
            listeners: None,
            starts: 0,
            child: None,
        };
        let session = keeper.session().await?;
        let listeners = keeper.listeners.clone().unwrap_or_default();
        let (publications, publish) = mpsc::channel(1);
        let (drains, drain) = mpsc::channel(1);
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let (events, receive) = mpsc::channel(EVENTS);
        let (told, status) = watch::channel(ProxyStatus::default());
        let run = Run {
            keeper,
            publish,
            asked,
            judging: BTreeMap::new(),
            last_question: 0,
            drain,
            events,
            status: told,
            latest: None,
            pending: None,
            hung: 0,
        };
        let supervisor = Self {
            publications,
            questions,
            drains,
            listeners,
            status,
            task: tokio::spawn(run.run(session)),
        };
        Ok((supervisor, receive))
    }

    /// Puts a generation into use. While the proxy is down this waits for the next one;
    /// a generation once accepted is brought to every proxy that follows.
    ///
    /// # Errors
    ///
    /// If an artifact cannot be read, or the snapshot cannot be sent.
    pub async fn publish(
        &self,
        snapshot: Snapshot,
        artifacts: BTreeMap<String, PathBuf>,
    ) -> io::Result<Published> {
        let (reply, answer) = oneshot::channel();
        let publication = Publication {
            snapshot,
            artifacts,
        };
        let gone = || io::Error::other("the proxy's supervisor has ended");
        self.publications
            .send((publication, reply))
            .await
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Asks what would be decided about a message.
    ///
    /// # Errors
    ///
    /// If there is no proxy, or it dies over the question.
    pub async fn judge(&self, question: Question) -> io::Result<Judgement> {
        if self.status.borrow().pid == 0 {
            return Err(io::Error::other("there is no proxy to ask"));
        }
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the proxy ended before it answered");
        self.questions
            .send((question, reply))
            .await
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// Ends a proxy that no agent tends any more, with `deadline` for its open
    /// connections. Fine if there is none.
    ///
    /// # Errors
    ///
    /// If the proxy cannot be told.
    pub async fn stop(run_dir: &Path, deadline: Duration) -> io::Result<()> {
        let path = run_dir.join(SOCKET);
        if let Ok(socket) = dial(&path) {
            let proxy = Channel::new(socket)?;
            let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
            proxy.send(&ToProxy::Drain { deadline_ms }, &[]).await?;
            // It closes the socket when it is done; one that hangs is left behind.
            let gone = async { while let Ok(Some(_)) = proxy.receive::<ToAgent>().await {} };
            let _ = timeout(deadline + HELLO_TIMEOUT, gone).await;
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Asks the proxy to end: no new connections, and until the deadline for the open
    /// ones. It is not started again.
    pub async fn drain(&self, deadline: Duration) {
        // If the task has ended there is nobody to ask.
        let _ = self.drains.send(deadline).await;
    }

    /// The listeners, one per class and CPU; with fewer workers than CPUs, several CPUs
    /// share one. The agent keeps them, so they outlive every proxy.
    pub fn listeners(&self) -> Vec<(ListenerInfo, BorrowedFd<'_>)> {
        spread(&self.listeners, cpus())
    }

    /// The proxy as it is now; the receiver tells changes.
    pub fn status(&self) -> watch::Receiver<ProxyStatus> {
        self.status.clone()
    }
}

/// Gives every CPU a listener of each class.
fn spread(listeners: &[(ListenerInfo, OwnedFd)], cpus: u32) -> Vec<(ListenerInfo, BorrowedFd<'_>)> {
    let mut places = Vec::new();
    for class in 0..class::COUNT {
        let of_class: Vec<_> = listeners
            .iter()
            .filter(|(info, _)| info.class == class)
            .collect();
        for cpu in 0..cpus {
            let own = of_class.iter().find(|(info, _)| info.cpu == cpu);
            let shared = of_class.get(cpu as usize % of_class.len().max(1));
            if let Some((_, socket)) = own.or(shared) {
                places.push((ListenerInfo { class, cpu }, socket.as_fd()));
            }
        }
    }
    places
}

/// CPUs of this machine.
fn cpus() -> u32 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_CONF)
        .ok()
        .flatten()
        .and_then(|count| u32::try_from(count).ok())
        .unwrap_or(1)
        .clamp(1, MAX_CPUS)
}

/// A proxy that has greeted.
struct Session {
    proxy: Channel,
    pid: u32,
    /// Digests it holds.
    artifacts: BTreeSet<String>,
}

/// Why there is no session.
enum Unmet {
    /// The proxy hung, and was ended.
    Ended(io::Error),
    Failed(io::Error),
}

impl From<io::Error> for Unmet {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Finds and starts proxies.
struct Keeper {
    options: ProxyOptions,
    maps: ProxyMaps,
    listeners: Option<Arc<Vec<(ListenerInfo, OwnedFd)>>>,
    starts: u64,
    child: Option<Child>,
}

impl Keeper {
    /// A proxy that has greeted: the living one if there is one, else a new one. One that
    /// hangs is ended and replaced.
    async fn session(&mut self) -> io::Result<Session> {
        match self.meet().await {
            Err(Unmet::Ended(_)) => self.meet().await,
            met => met,
        }
        .map_err(|unmet| match unmet {
            Unmet::Ended(error) | Unmet::Failed(error) => error,
        })
    }

    async fn meet(&mut self) -> Result<Session, Unmet> {
        let path = self.options.run_dir.join(SOCKET);
        let socket = match dial(&path) {
            Ok(socket) => socket,
            Err(_) => {
                self.spawn(&path)?;
                dial(&path)?
            }
        };
        let behind = process_behind(&socket);
        let proxy = Channel::new(socket)?;
        let patience = HELLO_TIMEOUT.min(self.options.hung_after);
        match timeout(patience, self.greet(&proxy)).await {
            Ok(greeted) => {
                let (pid, artifacts) = greeted?;
                Ok(Session {
                    proxy,
                    pid,
                    artifacts,
                })
            }
            Err(_) => {
                // It is not worth waiting for, whoever started it.
                let seconds = patience.as_secs();
                let silence = format!("the proxy did not answer within {seconds} s");
                let error = io::Error::new(io::ErrorKind::TimedOut, silence);
                let Some(pid) = behind else {
                    return Err(Unmet::Failed(error));
                };
                tracing::error!(pid, %error, "the proxy hangs and is replaced");
                self.end(proxy, pid).await;
                Err(Unmet::Ended(error))
            }
        }
    }

    /// Kills a proxy that hangs, and waits until it is gone. One that the kernel cannot end
    /// (asleep in a device) is left behind, without its socket and without flows: the next
    /// one has its listeners.
    async fn end(&mut self, proxy: Channel, pid: u32) {
        let killed = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        // Its end of the socket is closed when it is gone.
        let gone = async { while let Ok(Some(_)) = proxy.receive::<ToAgent>().await {} };
        if killed.is_err() || timeout(DYING, gone).await.is_err() {
            tracing::error!(pid, ?killed, "the proxy that hangs does not end");
            let _ = std::fs::remove_file(self.options.run_dir.join(SOCKET));
        }
        if let Some(child) = &mut self.child {
            // Takes its exit status, so that no zombie is left.
            let _ = timeout(DYING, child.wait()).await;
        }
    }

    /// Starts a proxy that listens on a new socket at `path`.
    fn spawn(&mut self, path: &Path) -> io::Result<()> {
        let listening = listen_at(path)?;
        let (json, level) = &self.options.log;
        let mut command = Command::new(&self.options.exe);
        command
            .arg("proxy")
            .args(["--uid", &self.options.user.0.to_string()])
            .args(["--gid", &self.options.user.1.to_string()])
            .args([
                "--connections-per-cpu",
                &self.options.connections_per_cpu.to_string(),
            ])
            .args([
                "--memory-per-cpu-mib",
                &self.options.memory_per_cpu_mib.to_string(),
            ])
            .args(["--log-level", level])
            .stdin(Stdio::from(listening))
            .stdout(Stdio::null())
            .current_dir("/")
            .kill_on_drop(false);
        if *json {
            command.arg("--log-json");
        }
        if let Some(bytes) = self.options.plugin_memory_bytes {
            command.args(["--plugin-memory-bytes", &bytes.to_string()]);
        }
        let child = command.spawn()?;
        tracing::info!(pid = child.id(), "the proxy was started");
        self.child = Some(child);
        self.starts += 1;
        Ok(())
    }

    /// Exchanges greetings; afterwards both sides have the same listeners.
    async fn greet(&mut self, proxy: &Channel) -> io::Result<(u32, BTreeSet<String>)> {
        loop {
            let offered = self.listeners.clone().unwrap_or_default();
            let mut attached = vec![
                self.maps.flows.as_fd(),
                self.maps.fqdn.as_fd(),
                self.maps.steered.as_fd(),
                self.maps.steer_by_tuple.as_fd(),
            ];
            attached.extend(offered.iter().map(|(_, socket)| socket.as_fd()));
            let hello = ToProxy::Hello {
                protocol: PROTOCOL_VERSION,
                listeners: offered.iter().map(|(info, _)| *info).collect(),
            };
            proxy.send(&hello, &attached).await?;
            // Counters and records of a proxy greeted before may come in between.
            let (protocol, pid, listeners, artifacts, attached) = loop {
                if let (
                    ToAgent::Hello {
                        protocol,
                        pid,
                        listeners,
                        artifacts,
                        ..
                    },
                    attached,
                ) = next(proxy).await?
                {
                    break (protocol, pid, listeners, artifacts, attached);
                }
            };
            if protocol != PROTOCOL_VERSION {
                return Err(protocol_error(&format!("protocol {protocol}")));
            }
            if !listeners.is_empty() && self.listeners.is_none() {
                self.listeners = Some(Arc::new(listeners.into_iter().zip(attached).collect()));
            }
            if self.listeners.is_some() {
                return Ok((pid, artifacts.into_iter().collect()));
            }
            // Neither side has any yet: make them, and greet again with them.
            self.listeners = Some(Arc::new(self.make_listeners()?));
        }
    }

    fn make_listeners(&self) -> io::Result<Vec<(ListenerInfo, OwnedFd)>> {
        let workers = self
            .options
            .workers
            .unwrap_or_else(cpus)
            .clamp(1, cpus().min(MAX_WORKERS));
        let mut listeners = Vec::new();
        for class in 0..class::COUNT {
            for cpu in 0..workers {
                let info = ListenerInfo { class, cpu };
                match listener::create(info) {
                    Ok(listener) => listeners.push((info, listener)),
                    // A kernel without IPv6 has nothing to steer there.
                    Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(listeners)
    }
}

/// The running supervisor.
struct Run {
    keeper: Keeper,
    publish: mpsc::Receiver<(Publication, Reply)>,
    asked: mpsc::Receiver<Asked>,
    /// Who waits for which answer of this proxy.
    judging: BTreeMap<u64, oneshot::Sender<Judgement>>,
    last_question: u64,
    drain: mpsc::Receiver<Duration>,
    events: mpsc::Sender<ToAgent>,
    status: watch::Sender<ProxyStatus>,
    latest: Option<Arc<Publication>>,
    /// Who waits for the answer to `latest`.
    pending: Option<Reply>,
    hung: u64,
}

/// Why a session ended.
enum End {
    /// The proxy is gone.
    Died,
    /// It hangs, and is to be ended.
    Hung(Session),
    /// It was asked to end, or nobody needs it any more.
    Wanted,
}

/// Why something could not be handed to the proxy.
enum Broken {
    Died,
    Hung,
}

impl Broken {
    fn end(self, session: Session) -> End {
        match self {
            Self::Died => End::Died,
            Self::Hung => End::Hung(session),
        }
    }
}

impl Run {
    async fn run(mut self, first: Session) {
        let mut session = Some(first);
        let mut pause = Duration::ZERO;
        loop {
            let begun = tokio::time::Instant::now();
            let end = match session.take() {
                Some(session) => self.serve(session).await,
                None => match self.keeper.session().await {
                    Ok(session) => self.serve(session).await,
                    Err(error) => {
                        tracing::error!(%error, "the proxy cannot be started");
                        self.status
                            .send_modify(|s| s.problem = Some(error.to_string()));
                        End::Died
                    }
                },
            };
            self.gone();
            match end {
                End::Wanted => return,
                End::Hung(session) => self.keeper.end(session.proxy, session.pid).await,
                End::Died => {}
            }
            if begun.elapsed() < SHORT_LIFE {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).clamp(BACK_OFF.0, BACK_OFF.1);
            } else {
                pause = Duration::ZERO;
            }
        }
    }

    /// There is no proxy.
    fn gone(&mut self) {
        // Whoever waits for an answer of this one learns that it is gone.
        self.judging.clear();
        self.status.send_modify(|s| {
            s.pid = 0;
            s.serving = false;
            s.silence = None;
        });
    }

    /// Serves one proxy until it is gone.
    async fn serve(&mut self, mut session: Session) -> End {
        self.status.send_replace(ProxyStatus {
            pid: session.pid,
            since: Some(SystemTime::now()),
            starts: self.keeper.starts,
            hung: self.hung,
            serving: false,
            silence: None,
            problem: None,
        });
        if self.latest.is_some()
            && let Some(broken) = self.hand_over(&mut session).await
        {
            return broken.end(session);
        }
        let mut pulse = Pulse::new(self.keeper.options.hung_after);
        let mut looks = interval(pulse::TICK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {
                    if self.hangs(&session, &mut pulse) {
                        return End::Hung(session);
                    }
                }
                message = session.proxy.receive() => match message {
                    Ok(Some((message, _))) => {
                        pulse.heard(&message);
                        self.forget_refused(&mut session, &message);
                        self.heard(message).await;
                    }
                    gone => {
                        let error = gone.err().map(|error| error.to_string());
                        tracing::warn!(pid = session.pid, error, "the proxy is gone");
                        return End::Died;
                    }
                },
                command = self.publish.recv(), if self.pending.is_none() => {
                    let Some((publication, reply)) = command else {
                        return End::Wanted;
                    };
                    self.latest = Some(Arc::new(publication));
                    self.pending = Some(reply);
                    if let Some(broken) = self.hand_over(&mut session).await {
                        return broken.end(session);
                    }
                }
                Some((question, reply)) = self.asked.recv() => {
                    self.judging.retain(|_, reply| !reply.is_closed());
                    self.last_question += 1;
                    self.judging.insert(self.last_question, reply);
                    let question = ToProxy::Judge {
                        id: self.last_question,
                        question: Box::new(question),
                    };
                    match session.proxy.try_send(&question) {
                        // Too long for a message, or it has not read those before: whoever
                        // asked is told, and the proxy's pulse is taken elsewhere.
                        Err(error) if matches!(
                            error.kind(),
                            io::ErrorKind::InvalidInput | io::ErrorKind::WouldBlock
                        ) => {
                            self.judging.remove(&self.last_question);
                        }
                        Err(_) => return End::Died,
                        Ok(()) => {}
                    }
                }
                Some(deadline) = self.drain.recv() => {
                    let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
                    let _ = session.proxy.send(&ToProxy::Drain { deadline_ms }, &[]).await;
                    while let Ok(Some((message, _))) = session.proxy.receive().await {
                        self.heard(message).await;
                    }
                    return End::Wanted;
                }
            }
        }
    }

    /// Looks for signs of life, and tells what it finds. True if there are none any more.
    fn hangs(&mut self, session: &Session, pulse: &mut Pulse) -> bool {
        // It is busy with what it was given, and does not talk meanwhile.
        let patience = if self.pending.is_some() {
            BUSY_TICKS
        } else {
            0
        };
        let pid = session.pid;
        let finding = pulse.tick(pid, patience, |thread| pulse::can_run(pid, thread));
        let (silence, hung) = match finding {
            Finding::Well => (None, false),
            Finding::Silent(silence) => (Some(silence.to_string()), false),
            Finding::Hung(silence) => (Some(silence.to_string()), true),
        };
        if self.status.borrow().silence != silence {
            match &silence {
                Some(silence) => tracing::warn!(pid, "the proxy hangs: {silence}"),
                None => tracing::info!(pid, "the proxy is back"),
            }
            self.status.send_modify(|s| s.silence = silence.clone());
        }
        if let (true, Some(silence)) = (hung, silence) {
            self.note_hung(pid, &silence);
        }
        hung
    }

    fn note_hung(&mut self, pid: u32, silence: &str) {
        self.hung += 1;
        tracing::error!(pid, "the proxy hangs and is replaced: {silence}");
        self.status.send_modify(|s| {
            s.hung = self.hung;
            s.problem = Some(format!("it hung, {silence}, and was ended"));
        });
    }

    /// Sends the latest publication; why the session ends, if it does.
    async fn hand_over(&mut self, session: &mut Session) -> Option<Broken> {
        let patience = self.keeper.options.hung_after;
        match timeout(patience, self.bring(session)).await {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(Broken::Died),
            Err(_) => {
                let silence = format!("it has read nothing for {} s", patience.as_secs());
                self.note_hung(session.pid, &silence);
                Some(Broken::Hung)
            }
        }
    }

    /// The proxy keeps no code it refused: sent again, it must be attached again.
    fn forget_refused(&self, session: &mut Session, message: &ToAgent) {
        let (ToAgent::Published { refused, .. }, Some(publication)) = (message, &self.latest)
        else {
            return;
        };
        for (plugin, _) in refused {
            if let Some(info) = publication.snapshot.plugins.get(plugin) {
                session.artifacts.remove(&info.artifact);
            }
        }
    }

    async fn heard(&mut self, message: ToAgent) {
        match message {
            ToAgent::Published {
                generation,
                refused,
            } => {
                self.status.send_modify(|status| status.serving = true);
                if let Some(reply) = self.pending.take() {
                    // Whoever asked may have stopped waiting.
                    let _ = reply.send(Ok(Published {
                        generation,
                        refused,
                    }));
                }
            }
            ToAgent::Judged { id, judgement } => {
                if let Some(reply) = self.judging.remove(&id) {
                    // Whoever asked may have stopped waiting.
                    let _ = reply.send(judgement);
                }
            }
            // A greeting is only an answer; see `Keeper::greet`.
            ToAgent::Hello { .. } => {}
            event => {
                // The agent has stopped listening; the proxy need not know.
                let _ = self.events.send(event).await;
            }
        }
    }

    /// Sends the latest publication. An error means that the proxy is gone; a
    /// publication that cannot be sent is answered as such and forgotten.
    async fn bring(&mut self, session: &mut Session) -> io::Result<()> {
        let Some(publication) = self.latest.clone() else {
            return Ok(());
        };
        let mut packed = match pack(&publication, &session.artifacts) {
            Ok(packed) => packed,
            Err(error) => {
                self.latest = None;
                tracing::error!(%error, "a generation cannot be handed to the proxy");
                if let Some(reply) = self.pending.take() {
                    let _ = reply.send(Err(error));
                }
                return Ok(());
            }
        };
        // The snapshot needs one descriptor; what else has no room goes ahead.
        while packed.artifacts.len() >= MAX_DESCRIPTORS {
            let ahead: Vec<_> = packed.artifacts.drain(..ARTIFACTS_AT_ONCE).collect();
            let artifacts = ahead.iter().map(|(digest, _)| digest.clone()).collect();
            let attached: Vec<_> = ahead.iter().map(|(_, code)| code.as_fd()).collect();
            let message = ToProxy::Artifacts { artifacts };
            session.proxy.send(&message, &attached).await?;
            session
                .artifacts
                .extend(ahead.into_iter().map(|(digest, _)| digest));
        }
        let code = packed.artifacts.iter().map(|(_, code)| code.as_fd());
        let attached: Vec<_> = std::iter::once(packed.snapshot.as_fd())
            .chain(code)
            .collect();
        let digests: Vec<_> = packed.artifacts.iter().map(|(d, _)| d.clone()).collect();
        let artifacts = digests.clone();
        session
            .proxy
            .send(&ToProxy::Publish { artifacts }, &attached)
            .await?;
        session.artifacts.extend(digests);
        let named: BTreeSet<_> = publication.snapshot.artifacts().collect();
        session.artifacts.retain(|digest| named.contains(digest));
        Ok(())
    }
}

/// What a publication is made of, as descriptors.
struct Packed {
    snapshot: OwnedFd,
    /// Compiled plugins not held yet, by digest.
    artifacts: Vec<(String, OwnedFd)>,
}

/// Packs a publication. Code that cannot be read costs its plugin, which the proxy then
/// refuses by name, and not the generation.
fn pack(publication: &Publication, held: &BTreeSet<String>) -> io::Result<Packed> {
    let snapshot = serde_json::to_vec(&publication.snapshot)?;
    let snapshot = sealed::seal("tidegate-snapshot", &snapshot)?;
    let wanted: BTreeSet<_> = (publication.snapshot.artifacts())
        .filter(|digest| !held.contains(*digest))
        .collect();
    let mut artifacts = Vec::new();
    for digest in wanted {
        let path = publication.artifacts.get(digest);
        let code = match path.map(std::fs::read) {
            Some(Ok(code)) => sealed::seal("tidegate-plugin", &code)?,
            missing => {
                let error = missing.and_then(Result::err).map(|error| error.to_string());
                tracing::error!(digest, ?path, error, "compiled code of a plugin is gone");
                continue;
            }
        };
        artifacts.push((digest.clone(), code));
    }
    Ok(Packed {
        snapshot,
        artifacts,
    })
}

async fn next(proxy: &Channel) -> io::Result<(ToAgent, Vec<OwnedFd>)> {
    proxy
        .receive()
        .await?
        .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the proxy hung up"))
}

/// The process that listens at the other end: a proxy, which says so itself with its
/// arguments. `None` if it is none, as of a version that left the listening to the agent.
fn process_behind(socket: &OwnedFd) -> Option<u32> {
    let credentials = getsockopt(socket, PeerCredentials).ok()?;
    let pid = u32::try_from(credentials.pid()).ok()?;
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let is_proxy = arguments.split(|byte| *byte == 0).nth(1) == Some(b"proxy");
    (is_proxy && pid != std::process::id()).then_some(pid)
}

/// Connects to a living proxy.
fn dial(path: &Path) -> io::Result<OwnedFd> {
    let socket = unix_socket()?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

/// A listening socket at `path` that only root may connect to.
fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = unix_socket()?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    // Nobody can connect before `listen`.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listen(&socket, Backlog::new(8)?)?;
    Ok(socket)
}

fn unix_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket::socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        flags,
        None,
    )?)
}

fn protocol_error(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("agent and proxy disagree: {what}"),
    )
}
