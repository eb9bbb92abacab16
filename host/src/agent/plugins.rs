//! Plugin files on their way to control: examined one at a time, out of process.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::{Semaphore, mpsc};

use crate::{
    control::{
        event::{Event, Examination, Request},
        folder::PluginStamp,
        plugins::Candidate,
    },
    plugin_host::{Admitted, PluginStore},
};

/// Examines plugin files and sends what came of it.
#[derive(Clone)]
pub(super) struct Examiner {
    pub(super) store: Arc<PluginStore>,
    pub(super) events: mpsc::Sender<Event>,
    /// Compiling is heavy; traffic needs the CPUs too.
    pub(super) one_at_a_time: Arc<Semaphore>,
}

impl Examiner {
    /// Starts on a request; the answer comes as [`Event::Examined`].
    pub(super) fn start(&self, Request::Examine(path, stamp): Request) {
        let examiner = self.clone();
        tokio::spawn(async move {
            // The semaphore is never closed.
            let _turn = examiner.one_at_a_time.acquire().await;
            let examined = examine(&examiner.store, path, stamp).await;
            // Nobody listens any more when the agent ends.
            let _ = examiner.events.send(examined).await;
        });
    }
}

/// Examines one plugin file.
pub(super) async fn examine(store: &PluginStore, path: PathBuf, stamp: PluginStamp) -> Event {
    let outcome = match store.admit(&path).await {
        Ok(admitted) => Ok(candidate(admitted)),
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
    }
}
