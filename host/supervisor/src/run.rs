//! The task that serves one proxy after the other: hands over what is published and asked,
//! hears what it tells, and notices that it died or hangs.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tidegate_channel::{MAX_DESCRIPTORS, codec, sealed};
use tidegate_contract::{Delta, Judgement, ToAgent, ToProxy};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    Asked, ProxyStatus, Publication, Published, Reply,
    keeper::{Keeper, Session},
    pulse::{self, Finding, Pulse},
};

/// A proxy that lived shorter than this died of its start: the next one waits.
const SHORT_LIFE: Duration = Duration::from_secs(5);
/// Shortest and longest wait before another start, after the first, which is at once.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Seconds the proxy may take, besides, to put a generation into use.
const BUSY_TICKS: u32 = 15;
/// Compiled plugins sent in one message ahead of a generation.
const ARTIFACTS_AT_ONCE: usize = 64;

/// The running supervisor.
pub(crate) struct Run {
    pub(crate) keeper: Keeper,
    pub(crate) publish: mpsc::Receiver<(Publication, Reply)>,
    pub(crate) asked: mpsc::Receiver<Asked>,
    /// Who waits for which answer of this proxy.
    pub(crate) judging: BTreeMap<u64, oneshot::Sender<Judgement>>,
    pub(crate) last_question: u64,
    pub(crate) drain: mpsc::Receiver<Duration>,
    pub(crate) events: mpsc::Sender<ToAgent>,
    pub(crate) status: watch::Sender<ProxyStatus>,
    pub(crate) latest: Option<Arc<Publication>>,
    /// Who waits for the answer to `latest`.
    pub(crate) pending: Option<Reply>,
    pub(crate) hung: u64,
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
    pub(crate) async fn run(mut self, first: Session) {
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
                        if let ToAgent::Whole { sequence } = message {
                            if session.brought.as_ref().is_some_and(|(of, _)| *of == sequence) {
                                session.brought = None;
                                if let Some(broken) = self.hand_over(&mut session).await {
                                    return broken.end(session);
                                }
                            }
                            continue;
                        }
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
                    let _ = session.proxy.send_plain(&ToProxy::Drain { deadline_ms }, &[]).await;
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
            // A greeting is only an answer; see `Keeper::greet`. The other one is dealt with
            // where the session is.
            ToAgent::Hello { .. } | ToAgent::Whole { .. } => {}
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
        let mut packed = match pack(&publication, session) {
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
        session.published += 1;
        let message = ToProxy::Publish {
            sequence: session.published,
            base: session.brought.as_ref().map(|(sequence, _)| *sequence),
            artifacts: digests.clone(),
        };
        session.proxy.send(&message, &attached).await?;
        session.brought = Some((session.published, publication.clone()));
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

/// Packs a publication, as what is different from the one before if this proxy has that.
/// Code that cannot be read costs its plugin, which the proxy then
/// refuses by name, and not the generation.
fn pack(publication: &Publication, session: &Session) -> io::Result<Packed> {
    let held = &session.artifacts;
    let snapshot = match &session.brought {
        Some((_, before)) => {
            let delta = Delta::between(&before.snapshot, &publication.snapshot);
            codec::encode(&delta)?
        }
        None => codec::encode(&publication.snapshot)?,
    };
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
