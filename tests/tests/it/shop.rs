//! The world most promises are tested in: a frontend that may reach two backends, a
//! stranger that may not, real nginx everywhere.

use std::io::Read;

use anyhow::Result;
use tidegate_tests::harness::{Running, Workload, World, server};

/// Backend port that policy filters request by request (`/api/` only).
pub(crate) const HTTP: u16 = 8080;
/// Backend port with HTTP/2 that policy filters likewise.
pub(crate) const H2: u16 = 8081;
/// Backend port that policy opens to the frontend, decided in the kernel.
pub(crate) const PLAIN: u16 = 9000;
/// Echo ports of the backend, TCP and UDP, open to the frontend in the kernel.
pub(crate) const ECHO: u16 = 7000;

/// Port for a peer of the test's own, which [`Shop::with_peer`] filters as [`HTTP`].
pub(crate) const PEER: u16 = 8082;

/// What the frontend may do with the backends.
pub(crate) const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: backend, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts:
    - ports:
      - {port: "8080", protocol: TCP}
      - {port: "8081", protocol: TCP}
      rules:
        http:
        - {path: "/api/.*"}
    - ports:
      - {port: "9000", protocol: TCP}
      - {port: "7000", protocol: ANY}
"#;

/// A policy of the shop about the workloads of an app; `sections` are what stands below
/// its `endpointSelector`.
pub(crate) fn policy(name: &str, app: &str, sections: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  endpointSelector: {{matchLabels: {{app: {app}}}}}
{}",
        sections.trim_start_matches('\n')
    )
}

/// The world, its node not started yet.
pub(crate) struct Shop {
    pub(crate) world: World,
    pub(crate) frontend: Workload,
    pub(crate) backend: Workload,
    pub(crate) other: Workload,
    pub(crate) stranger: Workload,
    _servers: Vec<Running>,
}

impl Shop {
    /// Workloads, servers and endpoint files; no policy.
    pub(crate) fn open() -> Result<Self> {
        let mut world = World::new()?;
        let frontend = world.workload("frontend")?;
        let backend = world.workload("backend-1")?;
        let other = world.workload("backend-2")?;
        let stranger = world.workload("stranger")?;
        let mut servers = Vec::new();
        for place in [&backend, &other] {
            servers.push(server::nginx(place, HTTP, &world.dir())?);
            servers.push(server::nginx(place, PLAIN, &world.dir())?);
            server::tcp_echo(place, ECHO)?;
            server::udp_echo(place, ECHO)?;
        }
        for (workload, app) in [
            (&frontend, "frontend"),
            (&backend, "backend"),
            (&other, "backend"),
            (&stranger, "stranger"),
        ] {
            world.node.endpoint(workload, "shop", &[("app", app)])?;
        }
        Ok(Self {
            world,
            frontend,
            backend,
            other,
            stranger,
            _servers: servers,
        })
    }

    /// With [`POLICY`] in force on a running node.
    pub(crate) fn running() -> Result<Self> {
        let mut shop = Self::open()?;
        shop.world.node.write("policies/backend.yaml", POLICY)?;
        shop.world.node.start()?;
        Ok(shop)
    }

    /// With an echo server that speaks just enough HTTP on [`PEER`], open for `/api/`.
    pub(crate) fn with_peer() -> Result<Self> {
        let mut shop = Self::open()?;
        server::http_echo(&shop.backend, PEER)?;
        let policy = POLICY.replace("8081", &PEER.to_string());
        shop.world.node.write("policies/backend.yaml", policy)?;
        shop.world.node.start()?;
        Ok(shop)
    }

    /// URL at the first backend.
    pub(crate) fn url(&self, port: u16, path: &str) -> String {
        format!("http://{}:{port}{path}", self.backend.v4)
    }

    /// URL at the first backend's IPv6 address.
    pub(crate) fn url6(&self, port: u16, path: &str) -> String {
        format!("http://[{}]:{port}{path}", self.backend.v6)
    }
}

/// Promises that share a world, one after the other: each is a function of this file
/// that takes the world, and is named where it fails. What one leaves behind (records,
/// connections, documents) the next one must bear or undo.
macro_rules! together {
    ($world:expr; $($promise:ident),+ $(,)?) => {{
        $(anyhow::Context::context($promise($world), stringify!($promise))?;)+
        Ok(())
    }};
}
pub(crate) use together;

/// Reads a response head to its empty line.
pub(crate) fn read_head(stream: &mut impl Read) -> Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head)?)
}
