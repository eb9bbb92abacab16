//! How long after a plugin file is complete its new version answers, and what that costs
//! the requests on the way.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{pair::Pair, row::median};
use crate::harness::{server, tag::repository};

/// Swaps measured after the first, which compiles.
const SWAPS: usize = 10;
/// A swap that takes longer than this is a failure.
const LIMIT: Duration = Duration::from_secs(10);

const POLICY: &str = r#"
apiVersion: tidegate.io/v1alpha1
kind: PluginBinding
metadata: {name: bots, namespace: bench}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  direction: ingress
  toPorts: [8080]
  plugin: bot-filter
  config: {deny: [badbot]}
"#;

/// Outcome of the measurement.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Swaps {
    /// From the rename of a version never seen before to its first answer, milliseconds.
    pub cold_ms: f64,
    /// Median of the same for versions compiled before, milliseconds.
    pub cached_ms: f64,
    /// The slowest of those.
    pub cached_worst_ms: f64,
    /// Requests sent meanwhile.
    pub requests: u64,
    /// Requests that failed.
    pub failed: u64,
    /// The slowest request, milliseconds.
    pub slowest_request_ms: f64,
}

/// Measures. Needs root and nginx.
pub fn run() -> Result<Swaps> {
    let Pair {
        mut world,
        frontend,
        backend,
    } = Pair::new()?;
    let _nginx = server::nginx(&backend, 8080, &world.dir())?;
    let version = |name: &str| repository().join("target/artifacts/examples").join(name);
    let versions = [version("bot-filter.wasm"), version("bot-filter-v2.wasm")];
    world.node.copy(&versions[0], "plugins/bot-filter.wasm")?;
    world.node.write("policies/bots.yaml", POLICY)?;
    world.node.start()?;

    let mut client = Client::new(server::connect(&frontend, (backend.v4, 8080))?);
    let mut cold_ms = 0.0;
    let mut cached = Vec::new();
    for swap in 0..=SWAPS {
        let second = swap % 2 == 0;
        world
            .node
            .copy(&versions[usize::from(second)], "plugins/bot-filter.wasm")?;
        let renamed = Instant::now();
        while client.ask()? != second {
            ensure!(
                renamed.elapsed() < LIMIT,
                "swap {swap} did not happen within {LIMIT:?}"
            );
        }
        let ms = renamed.elapsed().as_secs_f64() * 1e3;
        if swap == 0 {
            cold_ms = ms;
        } else {
            cached.push(ms);
        }
    }
    Ok(Swaps {
        cold_ms,
        cached_ms: median(&cached),
        cached_worst_ms: cached.iter().copied().fold(0.0, f64::max),
        requests: client.requests,
        failed: client.failed,
        slowest_request_ms: client.slowest.as_secs_f64() * 1e3,
    })
}

/// One keep-alive connection.
struct Client {
    stream: TcpStream,
    requests: u64,
    failed: u64,
    slowest: Duration,
}

impl Client {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            requests: 0,
            failed: 0,
            slowest: Duration::ZERO,
        }
    }

    /// One request; was it the second version that answered?
    fn ask(&mut self) -> Result<bool> {
        let start = Instant::now();
        self.stream
            .write_all(b"GET /x HTTP/1.1\r\nHost: bench\r\n\r\n")?;
        let head = self.answer()?;
        self.requests += 1;
        self.slowest = self.slowest.max(start.elapsed());
        if !head.starts_with("HTTP/1.1 200") {
            self.failed += 1;
        }
        Ok(head
            .to_ascii_lowercase()
            .contains("\r\nx-bot-filter: v2\r\n"))
    }

    /// Reads a whole answer; returns its head.
    fn answer(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let n = self.stream.read(&mut piece)?;
            if n == 0 {
                bail!("the connection ended after {} requests", self.requests);
            }
            bytes.extend_from_slice(&piece[..n]);
            let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8(bytes[..end + 4].to_vec())?;
            let length = head
                .lines()
                .find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length")
                        .then(|| value.trim().parse::<usize>())
                })
                .context("an answer without content-length")??;
            let mut rest = end + 4 + length - bytes.len();
            while rest > 0 {
                let n = self.stream.read(&mut piece[..rest.min(4096)])?;
                ensure!(n > 0, "the answer broke off");
                rest -= n;
            }
            return Ok(head);
        }
    }
}
