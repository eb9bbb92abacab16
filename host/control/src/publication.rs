//! A generation on its way to proxy and kernel. It takes as long as they take; meanwhile its
//! owner goes on, and learns the outcome as an event.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use tidegate_contract::Snapshot;
use tidegate_policy::compiled::{Compiled, Generation};

use super::sinks::{KernelStatus, Sinks};

/// What the proxy is given: rule sets, and files of compiled plugins by digest.
#[derive(Clone, Debug)]
pub(super) struct ForProxy {
    pub(super) snapshot: Snapshot,
    pub(super) artifacts: BTreeMap<String, PathBuf>,
}

/// A generation to be put into force.
#[derive(Debug)]
pub struct Publication {
    pub(super) generation: Generation,
    pub(super) compiled: Arc<Compiled>,
    /// It is made of other sources' documents too.
    pub(super) other_sources: bool,
    pub(super) next: Arc<ForProxy>,
    /// What the proxy has now, to go back to.
    pub(super) before: Option<Arc<ForProxy>>,
}

/// What became of a [`Publication`]: the next event of its owner.
#[derive(Debug)]
pub struct Outcome(pub(super) anyhow::Result<InForce>);

/// It is in force.
#[derive(Debug)]
pub(super) struct InForce {
    /// Plugins that the proxy refused, and why.
    pub(super) refused: Vec<(String, String)>,
    pub(super) kernel: KernelStatus,
}

impl Outcome {
    /// It was given up: nothing was flipped.
    pub fn given_up(why: anyhow::Error) -> Self {
        Self(Err(why))
    }
}

impl Publication {
    /// Puts it into force. A generation that fails anywhere is given up everywhere: the one
    /// before stays.
    pub async fn run(self, mut sinks: impl Sinks) -> Outcome {
        Outcome(self.publish(&mut sinks).await)
    }

    async fn publish(self, sinks: &mut impl Sinks) -> anyhow::Result<InForce> {
        let refused = give(&self.next, sinks)
            .await
            .context("hand the generation to the proxy")?;
        let written = sinks
            .publish_kernel(self.generation, self.compiled, self.other_sources)
            .await;
        match written {
            Ok(kernel) => Ok(InForce { refused, kernel }),
            Err(error) => {
                take_back(self.before.as_deref(), sinks).await;
                Err(error.context("write the generation to the kernel"))
            }
        }
    }
}

async fn give(what: &ForProxy, sinks: &mut impl Sinks) -> anyhow::Result<Vec<(String, String)>> {
    let snapshot = what.snapshot.clone();
    sinks.publish_proxy(snapshot, what.artifacts.clone()).await
}

/// Gives the proxy the generation in force again after the kernel refused the next.
async fn take_back(before: Option<&ForProxy>, sinks: &mut impl Sinks) {
    let Some(before) = before else {
        return;
    };
    if let Err(error) = give(before, sinks).await {
        // Harmless: its rule sets are a superset; the next attempt replaces it.
        tracing::warn!(
            error = format!("{error:#}"),
            "the proxy keeps a generation the kernel refused"
        );
    }
}
