//! What a service address costs at `connect`: a process with the socket hooks on its
//! control group, beside the same program outside of it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    pair::Pair,
    row::{Row, median},
};

const ROUNDS: usize = 15;
/// Connections a round and way.
const CONNECTIONS: usize = 400;
const PORT: u16 = 9000;
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// Argument that turns the bench program into the connecting child.
pub const CHILD: &str = "connect-child";

/// Measures. Needs root.
pub fn run() -> Result<Vec<Row>> {
    let Pair {
        mut world,
        frontend,
        backend,
    } = Pair::new()?;
    world.node.write(
        "services/backend.yaml",
        format!(
            "apiVersion: tidegate.io/v1alpha1\nkind: Service\n\
             metadata: {{name: backend, namespace: bench}}\nspec:\n  addresses: [{SERVICE}]\n  \
             ports: [{{port: {PORT}, protocol: TCP}}]\n  backends: [{{address: {}}}]\n",
            backend.v4
        ),
    )?;
    accept_all(backend.within(|| TcpListener::bind(("0.0.0.0", PORT)))??);
    world.node.start()?;

    let exe = std::env::current_exe()?;
    let hooked = frontend.command(&exe)?;
    // The same namespace, but not the node's control group.
    let mut bare = Command::new("nsenter");
    bare.arg(format!("--net={}", frontend.netns_path().display()))
        .arg(&exe);
    let mut hooked = Connector::start(hooked)?;
    let mut bare = Connector::start(bare)?;
    let direct = SocketAddr::from((backend.v4, PORT));
    let service = SocketAddr::from((SERVICE, PORT));
    let mut rounds = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        rounds[0].push(bare.connect(direct)?);
        rounds[1].push(hooked.connect(direct)?);
        rounds[2].push(hooked.connect(service)?);
    }
    let row = |name, values: &[f64]| Row::new(name, "direct, no hooks", "us", values, &rounds[0]);
    Ok(vec![
        row("TCP connect, not a service (hooks on)", &rounds[1]),
        row("TCP connect through a service address", &rounds[2]),
    ])
}

/// Accepts and closes for as long as the program lives.
fn accept_all(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream);
        }
    });
}

/// The child: for each address on standard input, connects many times and answers with
/// the median in nanoseconds.
pub fn child() -> Result<()> {
    for line in std::io::stdin().lines() {
        let to: SocketAddr = line?.parse()?;
        let mut times = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            let start = Instant::now();
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
            times.push(start.elapsed().as_nanos() as f64);
            drop(stream);
        }
        println!("{}", median(&times));
    }
    Ok(())
}

struct Connector {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Connector {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .arg(CHILD)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self {
            input: child.stdin.take().context("no standard input")?,
            output: BufReader::new(child.stdout.take().context("no standard output")?),
            child,
        })
    }

    /// Median of one round, microseconds.
    fn connect(&mut self, to: SocketAddr) -> Result<f64> {
        writeln!(self.input, "{to}")?;
        let mut line = String::new();
        ensure!(
            self.output.read_line(&mut line)? > 0,
            "the connecting child ended"
        );
        Ok(line.trim().parse::<f64>()? / 1e3)
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
