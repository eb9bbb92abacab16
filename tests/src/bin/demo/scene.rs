//! The world of the demo: `examples/quickstart` on a node with four workloads, real
//! nginx behind the backends and outside, and a real DNS server.

use std::path::PathBuf;

use tidegate_tests::harness::{Place, Running, Workload, World, server, tag::repository};

/// Port of the backends that policy filters request by request.
const HTTP: u16 = 8080;
/// Port of the backends that stays in the kernel.
const PLAIN: u16 = 9000;

/// Everything on stage.
pub(crate) struct Scene {
    /// The world, with the node.
    pub(crate) world: World,
    /// May reach the backends.
    pub(crate) frontend: Workload,
    /// Behind the service address.
    pub(crate) backend: Workload,
    /// May reach nobody.
    pub(crate) stranger: Workload,
    servers: Vec<Running>,
}

impl Scene {
    /// Builds the world, starts servers and the node.
    pub(crate) fn build() -> anyhow::Result<Self> {
        println!(
            "Building a world: a node, four workloads, an outside; nginx and dnsmasq in them."
        );
        let mut world = World::new()?;
        let mut frontend = world.workload("frontend")?;
        let backends = [world.workload("backend-1")?, world.workload("backend-2")?];
        let stranger = world.workload("stranger")?;
        for address in ["192.0.2.53", "198.51.100.10", "198.51.100.20"] {
            world.outside_address(address.parse()?)?;
        }
        frontend.set_resolver("192.0.2.53")?;

        let dir = world.dir();
        let mut servers = vec![
            server::nginx(&world.outside, 80, &dir)?,
            server::dns(
                &world.outside,
                &[
                    ("api.partner.example", "198.51.100.10"),
                    ("evil.example", "198.51.100.20"),
                ],
            )?,
        ];
        for backend in &backends {
            servers.push(server::nginx(backend, HTTP, &dir)?);
            servers.push(server::nginx(backend, PLAIN, &dir)?);
        }

        println!("Starting `tidegate run` with the files of examples/quickstart.");
        world
            .node
            .use_folder(&repository().join("examples/quickstart"))?;
        world
            .node
            .copy(&plugin("bot-filter"), "plugins/bot-filter.wasm")?;
        world.node.start()?;
        let [backend, _] = backends;
        Ok(Self {
            world,
            frontend,
            backend,
            stranger,
            servers,
        })
    }

    /// What is beyond the node's uplink.
    pub(crate) fn outside(&self) -> &Place {
        &self.world.outside
    }

    /// Leaves everything running.
    pub(crate) fn keep(self) -> anyhow::Result<()> {
        self.servers.into_iter().for_each(Running::detach);
        self.world.keep()
    }
}

/// A plugin that `cargo xtask build` made from `examples/`.
pub(crate) fn plugin(name: &str) -> PathBuf {
    repository().join(format!("target/artifacts/examples/{name}.wasm"))
}
