//! A relay between a scripted client and a scripted upstream on loopback.

mod bodies;
mod grpc;
mod h1;
mod h2;
mod options;
mod records;
mod watchdog;

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use tidegate_contract::L7Summary;
use tidegate_policy::http_options::HttpOptions;
use tidegate_wire::http::{HeaderEdit, HttpHead, ResponseHead};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::LocalOptions,
};

use super::{
    Inspector,
    buffer::Buffer,
    h1 as http1, serve,
    watchdog::{Activity, Client, TICK},
};
use crate::{
    decide::{
        Attribution,
        exchange::Filters,
        http::{Decision, Denial, Verdict},
    },
    leg::Leg,
};

/// Decides by the first path segment, and keeps every record as one line.
pub(super) struct Rules {
    upstream: SocketAddr,
    pub(super) options: Cell<HttpOptions>,
    /// From now on nothing is allowed.
    pub(super) closed: Cell<bool>,
    pub(super) records: RefCell<Vec<String>>,
}

impl Rules {
    pub(super) fn new(upstream: SocketAddr) -> Self {
        Self {
            upstream,
            options: Cell::default(),
            closed: Cell::default(),
            records: RefCell::default(),
        }
    }

    /// With a listener that is upstream.
    async fn with_upstream() -> (Rc<Self>, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let rules = Self::new(listener.local_addr().expect("address"));
        (Rc::new(rules), listener)
    }
}

impl Inspector for Rules {
    async fn connect_upstream(&self) -> io::Result<Leg> {
        TcpStream::connect(self.upstream).await.map(Leg::from)
    }

    fn options(&self) -> HttpOptions {
        self.options.get()
    }

    fn decide_request(&self, head: &HttpHead<'_>) -> Decision {
        let segment = head.path.split(['/', '?']).nth(1).unwrap_or_default();
        Decision {
            verdict: match segment {
                _ if self.closed.get() => Verdict::Deny(Denial::default()),
                "denied" => Verdict::Deny(Denial::default()),
                "edited" => Verdict::Edit(HeaderEdit {
                    set: vec![("x-by".into(), "plugin".into())],
                    remove: vec!["x-secret".into()],
                }),
                "reserved" => Verdict::Edit(HeaderEdit {
                    set: vec![("content-length".into(), "0".into())],
                    remove: vec![],
                }),
                _ => Verdict::Allow,
            },
            attribution: Attribution::default(),
            sees_response: segment == "response",
            filters: match segment {
                "seen" => bodies::filters(head),
                _ => Filters::default(),
            },
        }
    }

    fn decide_response(&self, attribution: Attribution, head: &ResponseHead<'_>) -> Decision {
        Decision {
            verdict: match head.status {
                200 => Verdict::Edit(HeaderEdit {
                    set: vec![("x-seen".into(), "yes".into())],
                    remove: vec!["server".into()],
                }),
                500 => Verdict::Deny(Denial::text(502, "hidden\r\n")),
                _ => Verdict::Allow,
            },
            attribution,
            sees_response: false,
            filters: Filters::default(),
        }
    }

    fn record(&self, attribution: Attribution, allowed: bool, summary: L7Summary) {
        let L7Summary::Http {
            version,
            method,
            url,
            status,
            grpc,
            ..
        } = summary
        else {
            panic!("not an HTTP record: {summary:?}");
        };
        let verdict = if allowed { "allowed" } else { "refused" };
        let mut line = format!("{version} {method} {url} {status} {verdict}");
        if let Some(call) = grpc {
            line.push_str(&format!(" {}/{}", call.service, call.method));
            if let Some(status) = call.status {
                line.push_str(&format!("={status}"));
            }
        }
        if let Some(error) = attribution.error {
            line.push_str(&format!(" ({error})"));
        }
        self.records.borrow_mut().push(line);
    }
}

/// The two ends of a relay, in the hands of a test.
struct Ends {
    client: TcpStream,
    upstream: Upstream,
    rules: Rc<Rules>,
}

/// The server's end; the relay connects to it when it first needs to.
struct Upstream {
    listener: TcpListener,
    stream: Option<TcpStream>,
}

impl Upstream {
    async fn stream(&mut self) -> &mut TcpStream {
        if self.stream.is_none() {
            let (stream, _) = self.listener.accept().await.expect("accept");
            self.stream = Some(stream);
        }
        self.stream.as_mut().expect("just set")
    }

    /// Asserts that exactly these bytes come next.
    async fn expect(&mut self, bytes: &str) {
        expect(self.stream().await, "upstream", bytes).await;
    }

    async fn send(&mut self, bytes: &str) {
        self.stream()
            .await
            .write_all(bytes.as_bytes())
            .await
            .expect("send");
    }

    /// Fails, as a server that crashed.
    async fn reset(&mut self) {
        self.stream().await.set_zero_linger().expect("linger");
        self.stream = None;
    }

    /// Asserts that nothing more comes, whatever the manner of the end.
    async fn expect_end(&mut self) {
        let mut rest = Vec::new();
        let end = self.stream().await.read_to_end(&mut rest);
        let end = tokio::time::timeout(Duration::from_secs(5), end).await;
        assert!(end.is_ok(), "upstream's connection stays open");
        assert_eq!(String::from_utf8_lossy(&rest), "", "bytes before the end");
    }

    /// Asserts that the relay never connected.
    async fn expect_untouched(&self) {
        let waited = tokio::time::timeout(Duration::from_millis(20), self.listener.accept());
        assert!(self.stream.is_none() && waited.await.is_err(), "connected");
    }
}

impl Ends {
    async fn send(&mut self, bytes: &str) {
        self.client.write_all(bytes.as_bytes()).await.expect("send");
    }

    async fn expect(&mut self, bytes: &str) {
        expect(&mut self.client, "client", bytes).await;
    }

    /// Asserts that the relay closes the client's connection now.
    async fn expect_close(&mut self) {
        let mut rest = Vec::new();
        let end = self.client.read_to_end(&mut rest);
        let end = tokio::time::timeout(Duration::from_secs(5), end).await;
        assert!(end.is_ok(), "connection stays open");
        assert_eq!(String::from_utf8_lossy(&rest), "", "bytes before the close");
    }

    /// Asserts what was recorded, in order.
    fn expect_records(&self, expected: &[&str]) {
        assert_eq!(*self.rules.records.borrow(), expected);
    }
}

/// Asserts that the next thing that comes is a reset.
async fn expect_reset(stream: &mut TcpStream) {
    let mut byte = [0];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut byte));
    let error = read.await.expect("stays open").expect_err("looks complete");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

async fn expect(stream: &mut TcpStream, who: &str, expected: &str) {
    let mut got = vec![0; expected.len()];
    let mut length = 0;
    while length < got.len() {
        let read = stream.read(&mut got[length..]);
        match tokio::time::timeout(Duration::from_secs(5), read).await {
            Ok(Ok(count @ 1..)) => length += count,
            end => {
                let text = String::from_utf8_lossy(&got[..length]);
                panic!("{who} got {text:?}, then {end:?}; expected {expected:?}");
            }
        }
    }
    assert_eq!(String::from_utf8_lossy(&got), expected, "at {who}");
}

/// Runs a test whose relay looks at its connection every `tick`.
fn relay_watched(tick: Duration, test: impl AsyncFnOnce(Ends)) {
    local(async {
        let (client, accepted) = connected().await;
        let (rules, listener) = Rules::with_upstream().await;
        let inspector = Rc::clone(&rules);
        tokio::task::spawn_local(async move {
            if tick == TICK {
                return serve(accepted, &*inspector, &Activity::default()).await;
            }
            let activity = Activity::new(tick, &Client::default());
            let buffer = Buffer::of(activity.budget());
            http1::serve(&mut Leg::from(accepted), buffer, &*inspector, &activity).await;
        });
        let upstream = Upstream {
            listener,
            stream: None,
        };
        test(Ends {
            client,
            upstream,
            rules,
        })
        .await;
    });
}

/// Runs a test against a fresh relay.
fn relay(test: impl AsyncFnOnce(Ends)) {
    relay_watched(TICK, test);
}

/// Runs a test on one thread.
fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("runtime");
    runtime.block_on(test);
}

/// A client's end of a connection, and the end that was accepted.
async fn connected() -> (TcpStream, TcpStream) {
    let front = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let client = TcpStream::connect(front.local_addr().expect("address"));
    let client = client.await.expect("connect");
    (client, front.accept().await.expect("accept").0)
}
