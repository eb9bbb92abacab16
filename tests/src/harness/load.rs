//! Traffic that runs while something happens to the node, and an account of it.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;

use super::{eventually::eventually, place::Place, process::Running, server::connect};

/// curl, asking again and again on one connection.
pub struct Requests {
    curl: Running,
    header: String,
}

/// One line of the account: status and the watched response header, if it had one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// HTTP status; 0 if none came.
    pub status: u16,
    /// Value of the watched header.
    pub mark: String,
}

impl Requests {
    /// Starts `count` requests to `url` (a number is appended to each), noting the
    /// response header `header` of each.
    pub fn start(from: &Place, url: &str, count: u32, header: &str) -> anyhow::Result<Self> {
        let line = format!("%{{stderr}}%{{http_code}} %header{{{header}}}\\n");
        let arguments = [
            "--silent",
            "--noproxy",
            "*",
            "--max-time",
            "10",
            "--output",
            "/dev/null",
            "--write-out",
            &line,
            &format!("{url}[1-{count}]"),
        ];
        // Each account in a file of its own.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let curl = from.spawn(&format!("load-{number}"), "curl", &arguments)?;
        Ok(Self {
            curl,
            header: header.to_owned(),
        })
    }

    /// Outcomes so far.
    pub fn outcomes(&self) -> Vec<Outcome> {
        let text = self.curl.output();
        let lines = text.lines().filter_map(|line| {
            let (status, mark) = line.split_once(' ')?;
            Some(Outcome {
                status: status.parse().ok()?,
                mark: mark.to_owned(),
            })
        });
        lines.collect()
    }

    /// Waits until so many requests are done.
    pub fn wait_for(&mut self, count: usize) -> anyhow::Result<()> {
        eventually(&format!("{count} requests"), || {
            let done = self.outcomes().len();
            if done < count {
                self.curl.check_alive()?;
                bail!("{done} so far");
            }
            Ok(())
        })
    }

    /// Waits until something shows in the watched header of the newest outcome.
    pub fn wait_for_mark(&mut self, mark: &str) -> anyhow::Result<()> {
        eventually(&format!("{}: {mark}", self.header), || {
            let outcomes = self.outcomes();
            let newest = outcomes.last().context("no request so far")?;
            ensure!(newest.mark == mark, "{newest:?}");
            Ok(())
        })
    }

    /// Waits for so many more requests.
    pub fn wait_for_more(&mut self, more: usize) -> anyhow::Result<()> {
        self.wait_for(self.outcomes().len() + more)
    }

    /// Ends it now and returns all outcomes; a request under way is none.
    pub fn end(mut self) -> anyhow::Result<Vec<Outcome>> {
        self.curl.signal(Signal::SIGTERM)?;
        self.curl.wait(Duration::from_secs(10))?;
        Ok(self.outcomes())
    }

    /// Waits for the end and returns all outcomes.
    pub fn finish(mut self) -> anyhow::Result<Vec<Outcome>> {
        self.curl.wait(Duration::from_secs(120))?;
        Ok(self.outcomes())
    }
}

/// One established TCP connection to an echo server, used every few milliseconds.
pub struct Steady {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Account>>,
}

/// What became of a [`Steady`] connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Account {
    /// Round trips made.
    pub rounds: u64,
    /// The slowest of them.
    pub slowest: Duration,
}

impl Steady {
    /// Connects and starts.
    pub fn start(from: &Place, to: impl Into<SocketAddr>) -> anyhow::Result<Self> {
        let mut stream = connect(from, to)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut account = Account::default();
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                let sent = account.rounds.to_be_bytes();
                let mut got = [0; 8];
                stream
                    .write_all(&sent)
                    .context("the connection broke on sending")?;
                stream
                    .read_exact(&mut got)
                    .context("the connection broke on receiving")?;
                ensure!(got == sent, "other bytes came back");
                account.rounds += 1;
                account.slowest = account.slowest.max(start.elapsed());
                std::thread::sleep(Duration::from_millis(3));
            }
            Ok(account)
        });
        Ok(Self { stop, thread })
    }

    /// Ends it. An error means that the connection was lost.
    pub fn finish(self) -> anyhow::Result<Account> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(account) => account,
            Err(_) => bail!("the load thread panicked"),
        }
    }
}

/// Connections, one after the other, each with one request, until it is told to end.
pub struct Visits {
    stop: Arc<AtomicBool>,
    statuses: Arc<Mutex<Vec<u16>>>,
    thread: JoinHandle<()>,
}

impl Visits {
    /// Starts.
    pub fn start(from: &Place, to: impl Into<SocketAddr>, path: &str) -> Self {
        let (from, to) = (from.clone(), to.into());
        let request = format!("GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n");
        let stop = Arc::new(AtomicBool::new(false));
        let statuses = Arc::new(Mutex::new(Vec::new()));
        let (stopped, made) = (Arc::clone(&stop), Arc::clone(&statuses));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // What was lost in whatever way is a status of 0.
                let status = visit(&from, to, &request).unwrap_or(0);
                made.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(status);
            }
        });
        Self {
            stop,
            statuses,
            thread,
        }
    }

    /// Statuses so far, 0 for a connection that brought no answer.
    pub fn statuses(&self) -> Vec<u16> {
        let statuses = self.statuses.lock();
        statuses.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many more visits ended with this status.
    pub fn wait_for_more(&self, more: usize, status: u16) -> anyhow::Result<()> {
        let count = || self.statuses().iter().filter(|s| **s == status).count();
        let before = count();
        eventually(&format!("{more} more visits with {status}"), || {
            let now = count();
            ensure!(now >= before + more, "{} so far", now - before);
            Ok(())
        })
    }

    /// Ends it and returns all statuses.
    pub fn finish(self) -> anyhow::Result<Vec<u16>> {
        self.stop.store(true, Ordering::Relaxed);
        let statuses = Arc::clone(&self.statuses);
        ensure!(self.thread.join().is_ok(), "the visiting thread panicked");
        let statuses = statuses.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(statuses.clone())
    }
}

/// One connection with one request; the status of the answer.
fn visit(from: &Place, to: SocketAddr, request: &str) -> anyhow::Result<u16> {
    let mut stream = connect(from, to)?;
    // A process may take its time to come back on a busy machine.
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).context("no status")?;
    Ok(status.parse()?)
}
