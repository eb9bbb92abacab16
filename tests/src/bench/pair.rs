//! The world of most benches: a frontend and a backend, each a workload of the node,
//! and nobody else.

use anyhow::Result;

use crate::harness::{Workload, World};

/// Two workloads of the namespace `bench`, labelled `app: frontend` and `app: backend`.
pub(super) struct Pair {
    /// The world around them, its node not started yet.
    pub(super) world: World,
    /// Where the load comes from.
    pub(super) frontend: Workload,
    /// Where it goes.
    pub(super) backend: Workload,
}

impl Pair {
    /// Makes the world and declares both.
    pub(super) fn new() -> Result<Self> {
        let mut world = World::new()?;
        let mut declared = |app: &str| -> Result<Workload> {
            let workload = world.workload(app)?;
            world.node.endpoint(&workload, "bench", &[("app", app)])?;
            Ok(workload)
        };
        let frontend = declared("frontend")?;
        let backend = declared("backend")?;
        Ok(Self {
            world,
            frontend,
            backend,
        })
    }
}
