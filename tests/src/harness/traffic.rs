//! curl, and what it says about a request.

use std::{
    fs,
    net::IpAddr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{bail, ensure};

use super::place::Place;

/// What curl is asked to tell of a transfer. One by one: all of it (`%{json}`) contains the
/// versions of its libraries, for which one of them looks up this machine's own name, and
/// where no hosts file has that, a place without DNS is silent for ten seconds.
const FACTS: [&str; 6] = [
    "exitcode",
    "http_code",
    "remote_ip",
    "remote_port",
    "local_port",
    "errormsg",
];

/// A request to make with curl.
#[derive(Clone, Debug)]
pub struct Curl {
    url: String,
    arguments: Vec<String>,
    seconds: u32,
}

/// What came of a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// curl's exit code: 0 done, 7 refused, 28 timed out, 52 and 56 connection lost.
    pub exit: i64,
    /// HTTP status; 0 without an answer.
    pub status: u64,
    /// Header lines of the answer.
    pub headers: String,
    /// Body.
    pub body: String,
    /// Address the socket says it is connected to.
    pub remote: Option<IpAddr>,
    /// Port the socket says it is connected to.
    pub remote_port: u64,
    /// Port of the client.
    pub local_port: u64,
    /// What curl says went wrong.
    pub error: String,
}

impl Curl {
    /// A GET, given up after 5 s.
    pub fn get(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            arguments: Vec::new(),
            seconds: 5,
        }
    }

    /// More options of curl.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Another method.
    #[must_use]
    pub fn method(self, method: &str) -> Self {
        self.with(&["--request", method])
    }

    /// A header line.
    #[must_use]
    pub fn header(self, line: &str) -> Self {
        self.with(&["--header", line])
    }

    /// Give up after this many seconds.
    #[must_use]
    pub fn give_up_after(mut self, seconds: u32) -> Self {
        self.seconds = seconds;
        self
    }

    /// Makes the request. An `Err` means that curl could not be run; a failed request
    /// is an [`Answer`].
    pub fn from(&self, place: &Place) -> anyhow::Result<Answer> {
        let [head, body] = ["head", "body"].map(|part| scratch_file(place, part));
        let mut command = place.command("curl")?;
        command
            .args(["--silent", "--show-error", "--globoff", "--noproxy", "*"])
            .args([
                "--max-time",
                &self.seconds.to_string(),
                "--write-out",
                &FACTS.map(|fact| format!("%{{{fact}}}")).join("\n"),
            ])
            .arg("--dump-header")
            .arg(&head)
            .arg("--output")
            .arg(&body)
            .args(&self.arguments)
            .arg(&self.url);
        let limit = std::time::Duration::from_secs(u64::from(self.seconds) + 10);
        let output = super::place::run_to_end(command, limit)?;
        let take = |file: &PathBuf| {
            let bytes = fs::read(file).unwrap_or_default();
            // Without an answer curl writes no file.
            let _ = fs::remove_file(file);
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let facts = String::from_utf8_lossy(&output.stdout);
        let facts: Vec<&str> = facts.splitn(FACTS.len(), '\n').collect();
        let [exit, status, remote, remote_port, local_port, error] = facts[..] else {
            bail!("curl: {}", String::from_utf8_lossy(&output.stderr));
        };
        let number = |fact: &str| fact.parse().unwrap_or(0);
        Ok(Answer {
            exit: exit.parse().unwrap_or(-1),
            status: number(status),
            headers: take(&head),
            body: take(&body),
            remote: remote.parse().ok(),
            remote_port: number(remote_port),
            local_port: number(local_port),
            error: error.to_owned(),
        })
    }

    /// Makes the request and checks the status.
    pub fn expect(&self, place: &Place, status: u64) -> anyhow::Result<Answer> {
        let answer = self.from(place)?;
        ensure!(
            answer.status == status,
            "{} from {}: expected {status}, got {answer:?}",
            self.url,
            place.name()
        );
        Ok(answer)
    }

    /// Makes the request and checks that no connection came about: packets dropped.
    pub fn expect_dropped(&self, place: &Place) -> anyhow::Result<()> {
        const TIMED_OUT: i64 = 28;
        let answer = self.clone().give_up_after(1).from(place)?;
        ensure!(
            answer.exit == TIMED_OUT && answer.status == 0 && answer.local_port == 0,
            "{} from {}: expected silence, got {answer:?}",
            self.url,
            place.name()
        );
        Ok(())
    }
}

impl Answer {
    /// Value of a response header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// A file name in the world's folder that nobody else uses.
fn scratch_file(place: &Place, part: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    place.dir().join(format!("curl-{number}-{part}"))
}
