//! What a stranger's plugin does to those who are not bound to it: the latency of a tenant
//! whose requests only rules of policies judge, beside another whose plugin spins, hoards,
//! traps or answers too much, on the same threads.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    neighbours::{Noise, ROUNDS, latencies},
    pair::Pair,
    row::Row,
};
use crate::harness::{Workload, server, tag::repository};

const HTTP: u16 = 8080;
/// What a plugin may take for a call, by default.
const DEADLINE: Duration = Duration::from_millis(10);

/// A guest, and the path at which it misbehaves.
const GUESTS: [(&str, &str, &str); 5] = [
    ("spin", "/busy", "spins just under its deadline"),
    ("spin", "/spin", "spins for ever"),
    ("hoard", "/hoard", "hoards memory"),
    ("trap", "/trap", "traps"),
    ("lie", "/flood", "answers with 4 MiB"),
];

/// Measures all rows. Needs root and nginx.
pub fn run() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (guest, path, what) in GUESTS {
        let mut pair = Pair::new()?;
        let world = &mut pair.world;
        let bound = world.workload("bound")?;
        let stranger = world.workload("stranger")?;
        world.node.endpoint(&bound, "bench", &[("app", "bound")])?;
        world
            .node
            .endpoint(&stranger, "bench", &[("app", "stranger")])?;
        for app in ["backend", "bound"] {
            let file = format!("policies/{app}.yaml");
            world.node.write(&file, policy(app))?;
        }
        world.node.copy(
            &repository().join(format!("target/artifacts/guests/{guest}.wasm")),
            &format!("plugins/{guest}.wasm"),
        )?;
        world.node.write("policies/binding.yaml", binding(guest))?;
        let _clean = server::nginx(&pair.backend, HTTP, &world.dir())?;
        let folder = world.dir().join("bound");
        std::fs::create_dir(&folder)?;
        let _bound = server::nginx(&bound, HTTP, &folder)?;
        world.node.start()?;

        let target = SocketAddr::from((bound.v4, HTTP));
        let path = match path {
            "/busy" => busy(&stranger, target)?,
            other => other.to_owned(),
        };
        let mut idle = [const { Vec::new() }; 2];
        let mut beside = [const { Vec::new() }; 2];
        for _ in 0..ROUNDS {
            let clean = SocketAddr::from((pair.backend.v4, HTTP));
            let quiet = latencies(&pair.frontend, clean)?;
            let path = path.clone();
            let noise = Noise::start(&stranger, target, move |stream, stop| {
                ask_on(stream, &path, stop);
            })?;
            let noisy = latencies(&pair.frontend, clean);
            noise.end();
            let noisy = noisy?;
            for (side, measured) in [(&mut idle, quiet), (&mut beside, noisy)] {
                side[0].push(measured.0);
                side[1].push(measured.1);
            }
        }
        for (n, part) in ["p50", "p99"].into_iter().enumerate() {
            let name = format!("{part} of a tenant beside a plugin that {what}");
            rows.push(Row::new(
                name,
                "nobody beside it",
                "us",
                &beside[n],
                &idle[n],
            ));
        }
    }
    Ok(rows)
}

fn policy(app: &str) -> String {
    format!(
        r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {app}, namespace: bench}}
spec:
  endpointSelector: {{matchLabels: {{app: {app}}}}}
  ingress:
  - toPorts:
    - ports: [{{port: "{HTTP}", protocol: TCP}}]
      rules:
        http: [{{method: GET}}]
"#
    )
}

fn binding(plugin: &str) -> String {
    format!(
        r#"
apiVersion: tidegate.io/v1alpha1
kind: PluginBinding
metadata: {{name: bound, namespace: bench}}
spec:
  endpointSelector: {{matchLabels: {{app: bound}}}}
  direction: ingress
  toPorts: [{HTTP}]
  plugin: {plugin}
"#
    )
}

/// The path at which the guest spins for about four fifths of its deadline on this machine.
fn busy(from: &Workload, to: SocketAddr) -> Result<String> {
    let mut stream = server::connect(from, to)?;
    let mut taken = |path: &str| -> Result<Duration> {
        let began = Instant::now();
        ensure!(ask(&mut stream, path)?, "the connection ended");
        Ok(began.elapsed())
    };
    taken("/busy/1")?;
    let mut rounds = 1;
    // Doubling finds about where it is; what else the request takes is left out.
    let nothing = taken("/busy/0")?;
    while taken(&format!("/busy/{rounds}"))?.saturating_sub(nothing) < DEADLINE * 2 / 5 {
        rounds *= 2;
        ensure!(rounds < 1 << 30, "it does not spin");
    }
    Ok(format!("/busy/{}", rounds * 3 / 2))
}

/// Asks again and again until the connection ends, or the flag is up.
fn ask_on(mut stream: TcpStream, path: &str, stop: &AtomicBool) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    while !stop.load(Relaxed) && matches!(ask(&mut stream, path), Ok(true)) {}
}

/// Asks once; says whether something was answered.
fn ask(stream: &mut TcpStream, path: &str) -> Result<bool> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.write_all(request.as_bytes()).context("ask")?;
    let mut answer = [0; 4_096];
    Ok(stream.read(&mut answer)? > 0)
}
