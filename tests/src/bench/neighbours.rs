//! What one workload does to another through the proxy they share: the other's latency
//! beside floods of HTTP/2 frames that lead to nothing, and the proxy's memory beside
//! heads that never end and requests that are never answered.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{pair::Pair, row::Row};
use crate::harness::{Workload, server};

const HTTP: u16 = 8080;
const H2: u16 = 8081;
/// A server that says it speaks HTTP/2, and nothing else.
const SILENT: u16 = 8082;
pub(super) const ROUNDS: usize = 5;
const SLICE: Duration = Duration::from_millis(1_500);
/// Connections of a flood.
const FLOODS: usize = 4;
/// Heads that never end, and their bytes.
const HEADS: (usize, usize) = (1_500, 60_000);
/// Connections with requests that are never answered, and how many each has.
const OPEN: (usize, u32) = (16, 2_046);

const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: backend, namespace: bench}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - toPorts:
    - ports: [{port: "8080", protocol: TCP}, {port: "8081", protocol: TCP}, {port: "8082", protocol: TCP}]
      rules:
        http: [{method: GET, path: "/api/.*"}]
"#;

const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Measures all rows. Needs root and nginx.
pub fn run() -> Result<Vec<Row>> {
    let Pair {
        mut world,
        frontend,
        backend,
    } = Pair::new()?;
    let other = world.workload("other")?;
    world.node.endpoint(&other, "bench", &[("app", "other")])?;
    world.node.write("policies/backend.yaml", POLICY)?;
    let _nginx = server::nginx(&backend, HTTP, &world.dir())?;
    let upstream = Arc::new(AtomicU64::new(0));
    silent(&backend, upstream.clone())?;
    world.node.start()?;

    let mut rows = Vec::new();
    let to = |port| SocketAddr::from((backend.v4, port));
    for flood in Flood::ALL {
        let mut idle = [const { Vec::new() }; 2];
        let mut beside = [const { Vec::new() }; 2];
        for _ in 0..ROUNDS {
            let quiet = latencies(&frontend, to(HTTP))?;
            let noise = Noise::start(&other, to(H2), move |stream, stop| {
                pour(stream, flood, stop);
            })?;
            let noisy = latencies(&frontend, to(HTTP));
            noise.end();
            let noisy = noisy?;
            for (side, measured) in [(&mut idle, quiet), (&mut beside, noisy)] {
                side[0].push(measured.0);
                side[1].push(measured.1);
            }
        }
        for (n, part) in ["p50", "p99"].into_iter().enumerate() {
            let name = format!("{part} beside {FLOODS} connections of {flood:?}");
            rows.push(Row::new(name, "idle neighbour", "us", &beside[n], &idle[n]));
        }
    }
    let proxy = world.node.proxy_pid()?;
    rows.extend(heads(&other, to(HTTP), proxy)?);
    rows.extend(open_requests(&other, to(SILENT), proxy, &upstream)?);
    Ok(rows)
}

/// Median and 99th percentile of one client that asks again and again, microseconds.
pub(super) fn latencies(from: &Workload, to: SocketAddr) -> Result<(f64, f64)> {
    let mut stream = server::connect(from, to)?;
    let (mut taken, mut answer) = (Vec::new(), [0; 4_096]);
    let until = Instant::now() + SLICE;
    while Instant::now() < until {
        let began = Instant::now();
        stream.write_all(b"GET /api/x HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let count = stream.read(&mut answer)?;
        ensure!(answer[..count].starts_with(b"HTTP/1.1 200"), "no 200");
        taken.push(began.elapsed().as_secs_f64() * 1e6);
        // A client among others, not one that keeps the proxy busy alone.
        std::thread::sleep(Duration::from_micros(500));
    }
    taken.sort_by(f64::total_cmp);
    let at = |percent: usize| taken[(taken.len() - 1) * percent / 100];
    Ok((at(50), at(99)))
}

/// Frames that the proxy answers or swallows itself.
#[derive(Clone, Copy, Debug)]
enum Flood {
    /// HEADERS of requests that no rule allows.
    Refused,
    /// HEADERS on a stream that was refused.
    MoreHeaders,
    /// Empty DATA on a stream that was refused.
    EmptyData,
    /// `RST_STREAM` of streams that never were.
    IdleReset,
    /// PRIORITY.
    Priority,
}

impl Flood {
    const ALL: [Self; 5] = [
        Self::Refused,
        Self::MoreHeaders,
        Self::EmptyData,
        Self::IdleReset,
        Self::Priority,
    ];

    /// Frames of about a batch, the streams from `first` on.
    fn batch(self, first: u32, out: &mut Vec<u8>) {
        for n in 0..500 {
            let id = first + 2 * n;
            match self {
                Self::Refused => frame(1, 5, id, b"\x82\x86\x84\x01\x01a", out),
                Self::MoreHeaders | Self::EmptyData if first == 1 && n == 0 => {
                    frame(1, 4, 1, b"\x82\x86\x84\x01\x01a", out);
                }
                Self::MoreHeaders => frame(1, 4, 1, b"\x82\x86\x84\x01\x01a", out),
                Self::EmptyData => frame(0, 0, 1, b"", out),
                Self::IdleReset => frame(3, 0, id, &[0, 0, 0, 8], out),
                Self::Priority => frame(2, 0, 1, &[0, 0, 0, 0, 16], out),
            }
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).unwrap_or_default();
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A flood that goes on, on new connections where one was ended.
pub(super) struct Noise(Arc<AtomicBool>, Vec<JoinHandle<()>>);

impl Noise {
    /// `pour` floods one connection until that is ended, or the flag is up.
    pub(super) fn start(
        from: &Workload,
        to: SocketAddr,
        pour: impl Fn(TcpStream, &AtomicBool) + Send + Clone + 'static,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for _ in 0..FLOODS {
            let (stop, first) = (stop.clone(), server::connect(from, to)?);
            // Sockets are made where the thread is.
            let netns = std::fs::File::open(from.netns_path())?;
            let pour = pour.clone();
            threads.push(std::thread::spawn(move || {
                if nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
                    return;
                }
                let mut next = Some(first);
                while !stop.load(Relaxed) {
                    if let Some(stream) = next.take().or_else(|| TcpStream::connect(to).ok()) {
                        pour(stream, &stop);
                    }
                }
            }));
        }
        Ok(Self(stop, threads))
    }

    pub(super) fn end(self) {
        self.0.store(true, Relaxed);
        for thread in self.1 {
            // One that panicked has ended too.
            let _ = thread.join();
        }
    }
}

/// Sends until the connection is ended.
fn pour(mut stream: TcpStream, flood: Flood, stop: &AtomicBool) {
    let mut bytes = GREETING.to_vec();
    let mut first = 1;
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
    let _ = stream.set_read_timeout(Some(Duration::from_micros(1)));
    while !stop.load(Relaxed) {
        flood.batch(first, &mut bytes);
        first += 1_000;
        if stream.write_all(&bytes).is_err() || matches!(stream.read(&mut [0; 65_536]), Ok(0)) {
            return;
        }
        bytes.clear();
    }
}

/// A server that greets, counts what comes and never answers.
fn silent(place: &Workload, received: Arc<AtomicU64>) -> Result<()> {
    server::tcp(place, SILENT, move |mut stream| {
        // SETTINGS_MAX_CONCURRENT_STREAMS 2048.
        stream.write_all(b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\x08\0")?;
        let mut bytes = [0; 65_536];
        loop {
            match stream.read(&mut bytes)? {
                0 => return Ok(()),
                count => received.fetch_add(count as u64, Relaxed),
            };
        }
    })
}

/// Resident memory beside heads that never end, and when they are gone.
fn heads(from: &Workload, to: SocketAddr, proxy: u32) -> Result<Vec<Row>> {
    let before = resident(proxy)?;
    let head = format!("GET /{}", "x".repeat(HEADS.1));
    let mut open = Vec::new();
    for _ in 0..HEADS.0 {
        let mut stream = server::connect(from, to)?;
        // It may be refused meanwhile.
        let _ = stream.write_all(head.as_bytes());
        open.push(stream);
    }
    let during = resident(proxy)?;
    drop(open);
    let what = format!("{} heads of {} bytes", HEADS.0, HEADS.1);
    memory(&what, proxy, before, during)
}

/// Resident memory beside requests that are never answered, all with one long header of
/// the HPACK table, and what upstream got for what was sent.
fn open_requests(
    from: &Workload,
    to: SocketAddr,
    proxy: u32,
    upstream: &AtomicU64,
) -> Result<Vec<Row>> {
    let before = resident(proxy)?;
    upstream.store(0, Relaxed);
    let (mut open, mut sent) = (Vec::new(), 0);
    for _ in 0..OPEN.0 {
        let mut stream = server::connect(from, to)?;
        let mut bytes = GREETING.to_vec();
        // `x: …` goes into the table (RFC 7541 §6.2.1), and is 0xbe from then on.
        let mut block = b"\x82\x86\x04\x06/api/x\x01\x01a\x40\x01x\x7f\x81\x1e".to_vec();
        block.extend_from_slice(&[b'x'; 3_968]);
        frame(1, 5, 1, &block, &mut bytes);
        stream.write_all(&bytes)?;
        sent += bytes.len();
        // More streams may be open once upstream has said so.
        std::thread::sleep(Duration::from_millis(50));
        bytes.clear();
        for n in 1..OPEN.1 {
            let again = b"\x82\x86\x04\x06/api/x\x01\x01a\xbe\xbe\xbe\xbe\xbe\xbe\xbe\xbe";
            frame(1, 5, 2 * n + 1, again, &mut bytes);
        }
        sent += bytes.len();
        let _ = stream.write_all(&bytes);
        open.push(stream);
    }
    // What comes is what there is: it has stopped when it no longer grows.
    let mut came = 0;
    loop {
        std::thread::sleep(Duration::from_millis(300));
        match upstream.load(Relaxed) {
            now if now == came => break,
            now => came = now,
        }
    }
    let during = resident(proxy)?;
    drop(open);
    let what = format!("{} connections with {} open requests each", OPEN.0, OPEN.1);
    let mut rows = memory(&what, proxy, before, during)?;
    rows.push(Row::new(
        format!("bytes to upstream, {what}"),
        "bytes sent",
        "kB",
        &[came as f64 / 1e3],
        &[sent as f64 / 1e3],
    ));
    Ok(rows)
}

/// Rows of memory before, during, and after everything has gone.
fn memory(what: &str, proxy: u32, before: f64, during: f64) -> Result<Vec<Row>> {
    // It is given back within seconds.
    std::thread::sleep(Duration::from_secs(5));
    let after = resident(proxy)?;
    let row = |name, value: f64| Row::new(name, "before", "MB", &[value], &[before]);
    Ok(vec![
        row(format!("resident, {what}"), during),
        row("resident, 5 s after they have gone".to_owned(), after),
    ])
}

/// Resident memory of a process, MB.
fn resident(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let size = line.context("no VmRSS")?.trim().trim_end_matches(" kB");
    Ok(size.parse::<f64>()? * 1_024.0 / 1e6)
}
