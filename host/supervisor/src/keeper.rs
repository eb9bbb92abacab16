//! Finds a living proxy or starts one, and greets it.

use std::{
    collections::BTreeSet,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
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
use tidegate_channel::{Channel, MAX_DESCRIPTORS, listener};
use tidegate_contract::{ListenerInfo, PROTOCOL_VERSION, TABLES, ToAgent, ToProxy};
use tidegate_ebpf_shared::{limits::MAX_CPUS, steer::class};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::{ProxyMaps, ProxyOptions, Publication};

/// File name of the socket in the run directory.
pub(crate) const SOCKET: &str = "proxy.sock";
/// Most workers: their listeners and the tables must fit one message.
const MAX_WORKERS: u32 = ((MAX_DESCRIPTORS - TABLES.len()) / class::COUNT as usize) as u32;
/// How long a living proxy may take to answer a greeting.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the streams of a proxy of another version may take to end.
const RETIRING: Duration = Duration::from_secs(600);
/// How long a proxy that was killed may take to be gone.
const DYING: Duration = Duration::from_secs(5);

/// A proxy that has greeted.
pub(crate) struct Session {
    pub(crate) proxy: Channel,
    pub(crate) pid: u32,
    /// Digests it holds.
    pub(crate) artifacts: BTreeSet<String>,
    /// How often something was published to it in this session.
    pub(crate) published: u64,
    /// What it was given last, and the number of that.
    pub(crate) brought: Option<(u64, Arc<Publication>)>,
}

/// What came of a greeting.
enum Greeted {
    /// Its process id, and the artifacts it holds.
    Met(u32, BTreeSet<String>),
    /// It speaks the protocol of another version. Its listeners are ours now.
    OfOther { protocol: u32, pid: u32 },
}

/// Why there is no session.
enum Unmet {
    /// The proxy hung, or is of another version, and makes room.
    Ended(io::Error),
    Failed(io::Error),
}

impl From<io::Error> for Unmet {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Finds and starts proxies.
pub(crate) struct Keeper {
    pub(crate) options: ProxyOptions,
    pub(crate) maps: ProxyMaps,
    pub(crate) listeners: Option<Arc<Vec<(ListenerInfo, OwnedFd)>>>,
    pub(crate) starts: u64,
    pub(crate) child: Option<Child>,
}

impl Keeper {
    /// A proxy that has greeted: the living one if there is one, else a new one. One that
    /// hangs is ended and replaced.
    pub(crate) async fn session(&mut self) -> io::Result<Session> {
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
        let (socket, found) = match dial(&path) {
            Ok(socket) => (socket, true),
            Err(_) => {
                self.spawn(&path)?;
                (dial(&path)?, false)
            }
        };
        let behind = process_behind(&socket);
        let proxy = Channel::new(socket)?;
        let patience = HELLO_TIMEOUT.min(self.options.hung_after);
        match timeout(patience, self.greet(&proxy)).await {
            Ok(Ok(Greeted::Met(pid, artifacts))) => Ok(Session {
                proxy,
                pid,
                artifacts,
                published: 0,
                brought: None,
            }),
            Ok(Ok(Greeted::OfOther { protocol, pid })) => {
                let error = protocol_error(&format!("protocol {protocol}"));
                tracing::warn!(pid, %error, "a proxy of another version is replaced");
                self.retire(&proxy).await;
                Err(Unmet::Ended(error))
            }
            Ok(Err(error)) => match behind {
                // It speaks our protocol and takes none of what it is given, as tables of
                // another layout: beside the next one it would answer at the same listeners.
                Some(pid) if found => {
                    tracing::error!(pid, %error, "the proxy sends us away and is replaced");
                    self.end(proxy, pid).await;
                    Err(Unmet::Ended(error))
                }
                _ => Err(Unmet::Failed(error)),
            },
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

    /// Leaves a proxy to its streams, until they end or their time is up. Who is not accepted
    /// yet waits at the listeners for the next one.
    async fn retire(&self, proxy: &Channel) {
        let deadline_ms = u64::try_from(RETIRING.as_millis()).unwrap_or(u64::MAX);
        if let Err(error) = proxy.send_plain(&ToProxy::Drain { deadline_ms }, &[]).await {
            tracing::warn!(%error, "it cannot be told");
        }
        // The next one has a socket of its own.
        let _ = std::fs::remove_file(self.options.run_dir.join(SOCKET));
    }

    /// Kills a proxy that hangs, and waits until it is gone. One that the kernel cannot end
    /// (asleep in a device) is left behind, without its socket and without flows: the next
    /// one has its listeners.
    pub(crate) async fn end(&mut self, proxy: Channel, pid: u32) {
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
            .args([
                "--http2-header-list-bytes",
                &self.options.http2_header_list_bytes.to_string(),
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
    async fn greet(&mut self, proxy: &Channel) -> io::Result<Greeted> {
        loop {
            let offered = self.listeners.clone().unwrap_or_default();
            let mut attached: Vec<_> = self.maps.values().map(AsFd::as_fd).collect();
            attached.extend(offered.iter().map(|(_, socket)| socket.as_fd()));
            let hello = ToProxy::Hello {
                protocol: PROTOCOL_VERSION,
                tables: self.maps.keys().map(ToString::to_string).collect(),
                listeners: offered.iter().map(|(info, _)| *info).collect(),
            };
            proxy.send_plain(&hello, &attached).await?;
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
            if !listeners.is_empty() && self.listeners.is_none() {
                self.listeners = Some(Arc::new(listeners.into_iter().zip(attached).collect()));
            }
            if protocol != PROTOCOL_VERSION {
                return Ok(Greeted::OfOther { protocol, pid });
            }
            if self.listeners.is_some() {
                return Ok(Greeted::Met(pid, artifacts.into_iter().collect()));
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

pub(crate) async fn next(proxy: &Channel) -> io::Result<(ToAgent, Vec<OwnedFd>)> {
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
pub(crate) fn dial(path: &Path) -> io::Result<OwnedFd> {
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

/// CPUs of this machine.
pub(crate) fn cpus() -> u32 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_CONF)
        .ok()
        .flatten()
        .and_then(|count| u32::try_from(count).ok())
        .unwrap_or(1)
        .clamp(1, MAX_CPUS)
}
