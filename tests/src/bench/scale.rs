//! What one changed document costs, by the size of the node: time until it is in force in
//! the kernel, and the agent's processor time; and what the agent uses when nothing happens.
//! The nodes of all sizes run at the same time, and their rounds take turns.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tidegate_bpf::{map::Map, pin};
use tidegate_ebpf_shared::{LAYOUT_VERSION, maps::map};

use super::{cpu, row::Row};
use crate::harness::{World, eventually::within};

/// Endpoints and services, from the smallest size, which is the baseline of the others.
const SIZES: [(usize, usize); 3] = [(10, 10), (100, 1_000), (1_000, 10_000)];
/// Endpoints that a policy selects together.
const REPLICAS: usize = 10;
const BACKENDS: usize = 2;
const ROUNDS: usize = 25;
/// How long an idle agent is watched.
const IDLE: Duration = Duration::from_secs(5);
/// How long the first generation may take, its programs included.
const START: Duration = Duration::from_secs(120);
/// A change that is not in force by then never is.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two changes, so that the work of one is not counted with the next.
const PAUSE: Duration = Duration::from_millis(300);

/// Measures all rows. Needs root.
pub fn run() -> Result<Vec<Row>> {
    let mut nodes = Vec::new();
    for (endpoints, services) in SIZES {
        nodes.push(Node::start(endpoints, services)?);
    }
    let mut rows = Vec::new();
    for change in Change::ALL {
        // By size: milliseconds until in force, and of processor time.
        let mut taken: Vec<[Vec<f64>; 2]> = vec![Default::default(); nodes.len()];
        for round in 0..ROUNDS {
            for (node, taken) in nodes.iter().zip(&mut taken) {
                let (time, work) = node.make(change, round)?;
                taken[0].push(time);
                taken[1].push(work);
            }
        }
        for (n, what) in ["until in force", "agent's CPU"].into_iter().enumerate() {
            for (node, of) in nodes.iter().zip(&taken).skip(1) {
                let name = format!("{change:?}, {}: {what}", node.size());
                rows.push(Row::new(name, nodes[0].size(), "ms", &of[n], &taken[0][n]));
            }
        }
        for (node, of) in nodes.iter().zip(&taken) {
            let name = format!("{change:?}, {}: until in force, p99", node.size());
            let (slowest, goal) = ([percentile(&of[0], 99)], [50.0]);
            rows.push(Row::new(name, "goal", "ms", &slowest, &goal));
        }
    }
    let idle = nodes.iter().map(Node::idle).collect::<Result<Vec<_>>>()?;
    let idle_smallest = idle[0];
    for (node, idle) in nodes.iter().zip(&idle).skip(1) {
        let name = format!("idle agent, {}", node.size());
        rows.push(Row::new(
            name,
            nodes[0].size(),
            "%",
            &[*idle],
            &[idle_smallest],
        ));
    }
    Ok(rows)
}

fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) * percent / 100]
}

/// What somebody changes.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// A port in the policy of [`REPLICAS`] endpoints.
    Policy,
    /// A backend's port of one service.
    Service,
    /// A label of one endpoint that no policy asks for.
    Endpoint,
}

impl Change {
    const ALL: [Self; 3] = [Self::Policy, Self::Service, Self::Endpoint];
}

/// A node with so much on it.
struct Node {
    world: World,
    endpoints: usize,
    services: usize,
    generation: Map<u32, u32>,
}

impl Node {
    fn start(endpoints: usize, services: usize) -> Result<Self> {
        let mut world = World::new()?;
        let node = &world.node;
        let devices: Vec<String> = (0..endpoints)
            .flat_map(|n| {
                [
                    format!("link add w{n} type veth peer name p{n}"),
                    format!("link set w{n} up"),
                ]
            })
            .collect();
        node.place().configure(&devices)?;
        for first in (0..endpoints).step_by(REPLICAS) {
            let last = endpoints.min(first + REPLICAS);
            let all: String = (first..last).map(|n| endpoint(n, "0")).collect();
            let group = first / REPLICAS;
            node.write(&format!("endpoints/g{group}.yaml"), all)?;
            node.write(&format!("policies/g{group}.yaml"), policy(group, 80))?;
        }
        for first in (0..services).step_by(500) {
            let last = services.min(first + 500);
            let all: String = (first..last).map(|n| service(n, 80)).collect();
            node.write(&format!("services/s{first}.yaml"), all)?;
        }
        node.write("endpoints/changed.yaml", changed_endpoint(0))?;
        node.write("services/changed.yaml", service(services, 80))?;
        world.node.start_agent()?;
        // The kernel waits some milliseconds for each program it attaches.
        within(START, "every program is attached", || {
            let status = world.node.status()?;
            ensure!(status["generation"].as_u64() > Some(0), "no generation yet");
            let attached = status["datapath"]["attachments"]
                .as_array()
                .map_or(0, Vec::len);
            ensure!(attached > 2 * endpoints, "{attached} programs are attached");
            Ok(())
        })?;
        let maps = world.node.bpffs().join(format!("v{LAYOUT_VERSION}/maps"));
        let generation = pin::open(&maps.join(map::GENERATION)).context("open the generation")?;
        Ok(Self {
            world,
            endpoints,
            services,
            generation: Map::new(generation)?,
        })
    }

    fn size(&self) -> String {
        format!("{} endpoints, {} services", self.endpoints, self.services)
    }

    fn generation(&self) -> Result<u32> {
        Ok(self.generation.get(&0)?.unwrap_or_default())
    }

    /// Makes a change: milliseconds until it is in force, and of the agent's time.
    fn make(&self, change: Change, round: usize) -> Result<(f64, f64)> {
        let port = if round.is_multiple_of(2) { 81 } else { 80 };
        let (file, text) = match change {
            Change::Policy => ("policies/g0.yaml", policy(0, port)),
            Change::Service => ("services/changed.yaml", service(self.services, port)),
            Change::Endpoint => ("endpoints/changed.yaml", changed_endpoint(round + 1)),
        };
        let agent = [self.world.node.agent()?.pid()];
        std::thread::sleep(PAUSE);
        let (before, worked) = (self.generation()?, cpu::time(&agent)?);
        let began = Instant::now();
        self.world.node.write(file, text)?;
        while self.generation()? == before {
            if began.elapsed() > PATIENCE {
                let status = self.world.node.text(&["status"])?;
                bail!("{change:?} is not in force, {}:\n{status}", self.size());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let time = began.elapsed();
        std::thread::sleep(PAUSE);
        let work = cpu::time(&agent)? - worked;
        Ok((time.as_secs_f64() * 1e3, work as f64 / 1e6))
    }

    /// What the agent uses while nothing happens, percent of a core.
    fn idle(&self) -> Result<f64> {
        let agent = [self.world.node.agent()?.pid()];
        std::thread::sleep(Duration::from_secs(1));
        let before = cpu::time(&agent)?;
        std::thread::sleep(IDLE);
        let used = cpu::time(&agent)? - before;
        Ok(used as f64 / IDLE.as_nanos() as f64 * 100.0)
    }
}

/// An endpoint on device `wN`.
fn endpoint(n: usize, version: &str) -> String {
    let (high, low, group) = (n / 250, n % 250 + 1, n / REPLICAS);
    format!(
        "---\napiVersion: tidegate.io/v1alpha1\nkind: Endpoint\nmetadata:\n  name: w{n}\n  \
         namespace: bench\n  labels: {{app: g{group}, version: \"{version}\"}}\nspec:\n  \
         interface: w{n}\n  addresses: [10.90.{high}.{low}]\n"
    )
}

/// One that no policy asks for, with another label each time.
fn changed_endpoint(round: usize) -> String {
    format!(
        "apiVersion: tidegate.io/v1alpha1\nkind: Endpoint\nmetadata:\n  name: changed\n  \
         namespace: bench\n  labels: {{app: changed, round: r{round}}}\nspec:\n  \
         interface: changed0\n  addresses: [10.91.0.1]\n"
    )
}

/// Who may talk to a group: itself, on two ports.
fn policy(group: usize, port: u16) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: g{group}, \
         namespace: bench}}\nspec:\n  endpointSelector: {{matchLabels: {{app: g{group}}}}}\n  \
         ingress:\n  - fromEndpoints: [{{matchLabels: {{app: g{group}}}}}]\n    toPorts:\n    \
         - ports: [{{port: \"{port}\", protocol: TCP}}, {{port: \"443\", protocol: TCP}}]\n"
    )
}

/// A service with backends outside.
fn service(n: usize, port: u16) -> String {
    let (high, low) = (n / 250, n % 250 + 1);
    let mut text = format!(
        "---\napiVersion: tidegate.io/v1alpha1\nkind: Service\nmetadata:\n  name: s{n}\n  \
         namespace: bench\nspec:\n  addresses: [10.96.{high}.{low}]\n  ports:\n  - {{port: 80, \
         protocol: TCP}}\n  backends:\n"
    );
    for backend in 0..BACKENDS {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  - {{address: 10.1{backend}0.{high}.{low}, port: {port}}}"
        );
    }
    text
}
