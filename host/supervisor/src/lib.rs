//! The agent's side: finds or starts the proxy, keeps its listeners, starts it again
//! when it dies, and brings it up to date each time.

mod keeper;
mod pulse;
mod run;

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tidegate_channel::Channel;
use tidegate_contract::{
    Generation, Judgement, ListenerInfo, Question, Snapshot, ToAgent, ToProxy,
};
use tidegate_ebpf_shared::steer::class;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use self::{
    keeper::{HELLO_TIMEOUT, Keeper, SOCKET, cpus, dial},
    run::Run,
};

/// Questions that may wait for the proxy.
const QUESTIONS: usize = 16;
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
    /// Longest header list of HTTP/2 either way, bytes.
    pub http2_header_list_bytes: u32,
    /// Without a sign of life for so long it is replaced; at least 1 s.
    pub hung_after: Duration,
    /// Memory of all dropped-in plugins together, bytes; `None`: the usual.
    pub plugin_memory_bytes: Option<u64>,
    /// Arguments for its log.
    pub log: (bool, String),
}

/// The tables handed to the proxy, by name: those of [`tidegate_contract::TABLES`].
pub type ProxyMaps = BTreeMap<&'static str, OwnedFd>;

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
    pub generation: Generation,
    /// Plugins refused so far, and why; bindings keep what they accepted last.
    pub refused: Vec<(String, String)>,
}

/// A snapshot and where the compiled plugins it names are.
#[derive(Debug)]
pub(crate) struct Publication {
    pub(crate) snapshot: Snapshot,
    pub(crate) artifacts: BTreeMap<String, PathBuf>,
}

pub(crate) type Reply = oneshot::Sender<io::Result<Published>>;

/// A question, and who waits for the answer.
pub(crate) type Asked = (Question, oneshot::Sender<Judgement>);

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
            proxy
                .send_plain(&ToProxy::Drain { deadline_ms }, &[])
                .await?;
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
