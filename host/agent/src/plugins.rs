//! Plugin files on their way to control: examined one at a time, out of process.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tidegate_control::{
    event::Event,
    plugins::{Candidate, Examination, Request},
};
use tidegate_plugin_host::{Admitted, PluginStore, Refusal};
use tidegate_sources::folder::PluginStamp;
use tokio::sync::{Semaphore, mpsc};

/// How long a file may be compiled while others wait for their turn. One that takes
/// longer begins again in a line of its own.
const SHORT: Duration = Duration::from_secs(10);

/// Examines plugin files and sends what came of it.
#[derive(Clone)]
pub(super) struct Examiner {
    store: Arc<PluginStore>,
    events: mpsc::Sender<Event>,
    /// Compiling is heavy; traffic needs the CPUs too: one at a time of those that are
    /// done soon, and one of the others.
    soon: Arc<Semaphore>,
    late: Arc<Semaphore>,
}

impl Examiner {
    pub(super) fn new(store: Arc<PluginStore>, events: mpsc::Sender<Event>) -> Self {
        Self {
            store,
            events,
            soon: Arc::new(Semaphore::new(1)),
            late: Arc::new(Semaphore::new(1)),
        }
    }

    /// Starts on a request; the answer comes as [`Event::Examined`] or
    /// [`Event::BuiltIn`].
    pub(super) fn start(&self, request: Request) {
        let examiner = self.clone();
        tokio::spawn(async move {
            let event = match request {
                Request::Examine(path, stamp) => {
                    let admitted = examiner.admit(&path).await;
                    event(path, stamp, admitted)
                }
                Request::BuiltIn(name) => built_in(&examiner.store, name).await,
            };
            // Nobody listens any more when the agent ends.
            let _ = examiner.events.send(event).await;
        });
    }

    async fn admit(&self, path: &Path) -> Result<Admitted, Refusal> {
        {
            // The semaphores are never closed.
            let _turn = self.soon.acquire().await;
            match self.store.admit_within(path, SHORT).await {
                Err(Refusal::TakesLong(_)) => {}
                outcome => return outcome,
            }
        }
        let _turn = self.late.acquire().await;
        self.store.admit(path).await
    }
}

/// Does what a request asks for.
pub(super) async fn examine(store: &PluginStore, request: Request) -> Event {
    match request {
        Request::Examine(path, stamp) => {
            let admitted = store.admit(&path).await;
            event(path, stamp, admitted)
        }
        Request::BuiltIn(name) => built_in(store, name).await,
    }
}

async fn built_in(store: &PluginStore, name: String) -> Event {
    let admitted = store.on_demand(&name).await;
    let outcome = admitted
        .map(candidate)
        .map_err(|refusal| refusal.to_string());
    Event::BuiltIn(name, outcome)
}

fn event(path: PathBuf, stamp: PluginStamp, admitted: Result<Admitted, Refusal>) -> Event {
    let outcome = match admitted {
        Ok(admitted) => Ok(candidate(admitted)),
        Err(refusal) if !refusal.is_final() => {
            return Event::NotExamined {
                path,
                stamp,
                reason: refusal.to_string(),
            };
        }
        Err(refusal) => Err(refusal.to_string()),
    };
    Event::Examined(Examination {
        path,
        stamp,
        outcome,
    })
}

/// A plugin ready to be published.
pub(super) fn candidate(admitted: Admitted) -> Candidate {
    Candidate {
        name: admitted.name,
        info: admitted.info,
        artifact: admitted.artifact,
        signer: admitted.signer,
    }
}
