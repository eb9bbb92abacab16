//! HTTP/2 between real peers: the `h2` crate on both ends.

use ::h2::{RecvStream, SendStream, client, server};
use ::http::{HeaderMap, Request, Response};
use bytes::Bytes;

use super::*;

/// Sends all of it as the windows allow.
async fn send_all(stream: &mut SendStream<Bytes>, mut data: Bytes) {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let Some(Ok(count)) = capacity else { return };
        let piece = data.split_to(count.min(data.len()));
        stream.send_data(piece, false).expect("send");
    }
}

/// Reads to the end, giving windows back; returns body and trailers.
async fn receive_all(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut all = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        all.extend_from_slice(&data);
        let _ = body.flow_control().release_capacity(data.len());
    }
    (all, body.trailers().await.ok().flatten())
}

/// Echoes bodies, with their length as a trailer.
async fn echo(request: Request<RecvStream>, mut respond: server::SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    assert!(!path.contains("denied"), "{path} reached upstream");
    if path.starts_with("/silent") {
        return std::future::pending().await;
    }
    let content_type = request.headers().get("content-type");
    if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        return grpc::answer(request, respond).await;
    }
    let mut response = Response::builder()
        .header("server", "echo")
        .header("x-path", path);
    if let Some(by) = request.headers().get("x-by") {
        response = response.header("x-by", by);
    }
    let response = response.body(()).expect("response");
    let Ok(mut send) = respond.send_response(response, false) else {
        return;
    };
    let mut body = request.into_body();
    let mut length = 0;
    while let Some(Ok(data)) = body.data().await {
        length += data.len();
        let _ = body.flow_control().release_capacity(data.len());
        send_all(&mut send, data).await;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-length", length.into());
    let _ = send.send_trailers(trailers);
}

pub(super) struct Peers {
    pub(super) client: client::SendRequest<Bytes>,
    pub(super) rules: Rc<Rules>,
}

/// What a client got.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<HeaderMap>,
}

impl Peers {
    pub(super) async fn call(&self, path: &str, body: Option<Vec<u8>>) -> Got {
        let request = Request::get(format!("http://a{path}"));
        let request = request.header("x-secret", "1").body(()).expect("request");
        self.send(request, body).await
    }

    pub(super) async fn send(&self, request: Request<()>, body: Option<Vec<u8>>) -> Got {
        let mut client = self.client.clone().ready().await.expect("ready");
        let (response, mut send) = client
            .send_request(request, body.is_none())
            .expect("send request");
        let sending = async {
            if let Some(body) = body {
                send_all(&mut send, body.into()).await;
                let _ = send.send_data(Bytes::new(), true);
            }
        };
        let receiving = async {
            let response = response.await.expect("response");
            let (parts, body) = response.into_parts();
            let (body, trailers) = receive_all(body).await;
            Got {
                status: parts.status.as_u16(),
                headers: parts.headers,
                body,
                trailers,
            }
        };
        tokio::join!(sending, receiving).1
    }
}

/// Runs a test between real peers with these windows.
pub(super) fn peers(
    client_windows: (u32, u32),
    server_windows: (u32, u32),
    test: impl AsyncFnOnce(Peers),
) {
    peers_with(client_windows, server_windows, HttpOptions::default(), test);
}

/// The same, of a flow that is carried so.
pub(super) fn peers_with(
    client_windows: (u32, u32),
    server_windows: (u32, u32),
    options: HttpOptions,
    test: impl AsyncFnOnce(Peers),
) {
    local(async {
        let (stream, accepted) = connected().await;
        let (rules, listener) = Rules::with_upstream().await;
        rules.options.set(options);
        let inspector = Rc::clone(&rules);
        tokio::task::spawn_local(async move {
            serve(accepted, &*inspector, &Activity::default()).await
        });
        tokio::task::spawn_local(async move {
            let (stream, _) = listener.accept().await.expect("accept");
            let mut builder = server::Builder::new();
            builder.initial_window_size(server_windows.0);
            builder.initial_connection_window_size(server_windows.1);
            builder.enable_connect_protocol();
            let mut connection = builder.handshake(stream).await.expect("handshake");
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::task::spawn_local(echo(request, respond));
            }
        });
        let mut builder = client::Builder::new();
        builder.initial_window_size(client_windows.0);
        builder.initial_connection_window_size(client_windows.1);
        let (client, connection) = builder.handshake(stream).await.expect("handshake");
        tokio::task::spawn_local(async move {
            // Told to go, it went.
            if let Err(error) = connection.await {
                assert_eq!(error.reason(), Some(::h2::Reason::NO_ERROR), "{error}");
            }
        });
        let test = test(Peers { client, rules });
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, test).await.expect("stalled");
    });
}

const DEFAULT: (u32, u32) = (65_535, 65_535);
pub(super) const WIDE: (u32, u32) = (1 << 20, 1 << 20);

#[test]
fn requests_are_decided_one_by_one() {
    peers(WIDE, DEFAULT, async |peers| {
        for _ in 0..3 {
            let allowed = peers.call("/x", None).await;
            assert_eq!((allowed.status, allowed.body.len()), (200, 0));
            assert_eq!(allowed.trailers.expect("trailers")["x-length"], "0");
            let denied = peers.call("/denied", None).await;
            assert_eq!(denied.status, 403);
            assert_eq!(denied.body, b"Access denied\r\n");
            assert_eq!(denied.headers["content-type"], "text/plain");
        }
        let edited = peers.call("/edited//../edited", None).await;
        assert_eq!(edited.headers["x-by"], "plugin");
        assert_eq!(edited.headers["x-path"], "/edited");
        let redirected = peers.call("/a%2fdenied", None).await;
        assert_eq!(redirected.status, 307);
        assert_eq!(redirected.headers["location"], "/a/denied");
        let records = peers.rules.records.borrow();
        assert_eq!(records[0], "HTTP/2 GET http://a/x 200 allowed");
        assert_eq!(records[1], "HTTP/2 GET http://a/denied 403 refused");
        assert_eq!(records.len(), 8);
    });
}

#[test]
fn a_refusal_needs_no_window_it_does_not_have() {
    peers(DEFAULT, DEFAULT, async |peers| {
        let denied = peers.call("/denied", None).await;
        assert_eq!((denied.status, denied.body.len()), (403, 0));
        assert_eq!(denied.headers["content-length"], "0");
    });
}

#[test]
fn large_bodies_pass_under_narrow_windows_among_refusals() {
    const SIZE: usize = 2 << 20;
    for (client, server) in [
        (DEFAULT, DEFAULT),
        ((1000, 65_535), (500, 65_535)),
        (WIDE, WIDE),
    ] {
        peers(client, server, async |peers| {
            let bulk = async {
                let body: Vec<u8> = (0..SIZE).map(|i| (i / 7) as u8).collect();
                let size = if client.0 == 1000 { SIZE / 16 } else { SIZE };
                let got = peers.call("/bulk", Some(body[..size].to_vec())).await;
                assert_eq!(got.status, 200);
                assert!(got.body == body[..size], "body damaged");
            };
            let refusals = async {
                for round in 0..40 {
                    // Some bodies are bigger than the whole connection window.
                    let body = (round % 2 == 0).then(|| vec![0; 100_000]);
                    assert_eq!(peers.call("/denied", body).await.status, 403);
                }
            };
            tokio::join!(bulk, refusals);
            assert_eq!(peers.call("/x", None).await.status, 200);
        });
    }
}

#[test]
fn plugins_may_see_responses() {
    peers(WIDE, DEFAULT, async |peers| {
        let plain = peers.call("/x", None).await;
        assert_eq!(plain.headers["server"], "echo");
        for _ in 0..2 {
            let seen = peers.call("/response", Some(b"hello".to_vec())).await;
            assert_eq!(seen.headers["x-seen"], "yes");
            assert!(!seen.headers.contains_key("server"));
            assert_eq!(seen.body, b"hello");
            assert_eq!(seen.trailers.expect("trailers")["x-length"], "5");
            // Blocks of other streams are written again too, and still readable.
            assert_eq!(peers.call("/x", None).await.headers["server"], "echo");
        }
    });
}

#[test]
fn an_absent_upstream_is_a_502_on_each_stream() {
    local(async {
        let (rules, gone) = Rules::with_upstream().await;
        drop(gone);
        let (stream, accepted) = connected().await;
        let client = async {
            let (mut client, connection) = client::handshake(stream).await.expect("handshake");
            let mut ask = |path: &str| {
                let request = Request::get(format!("http://a{path}")).body(());
                let (response, _): (_, SendStream<Bytes>) = client
                    .send_request(request.expect("request"), true)
                    .expect("send");
                async { response.await.expect("response").status().as_u16() }
            };
            let answers = [ask("/x"), ask("/denied"), ask("/y")];
            let [x, denied, y] = answers;
            // The connection ends without an error: another one may be tried.
            let (end, x, denied, y) = tokio::join!(connection, x, denied, y);
            end.expect("graceful end");
            assert_eq!((x, denied, y), (502, 403, 502));
        };
        let activity = Activity::default();
        tokio::join!(serve(accepted, &*rules, &activity), client);
        let records = rules.records.borrow();
        assert!(records[0].starts_with("HTTP/2 GET http://a/x 502 refused (upstream unreachable:"));
        assert_eq!(records[1], "HTTP/2 GET http://a/denied 403 refused");
        assert_eq!(records.len(), 3);
    });
}

/// Frames a test writes itself.
mod raw {
    use tidegate_wire::http2::{
        BlockEncoder, Frame,
        frame::{self, HEAD, PREFACE},
    };
    use tokio::{io::AsyncReadExt as _, net::TcpStream};

    pub(super) fn greeting() -> Vec<u8> {
        let mut bytes = PREFACE.to_vec();
        frame::write_settings(&[], &mut bytes);
        bytes
    }

    pub(super) fn request(stream: u32, method: &str, path: &str) -> Vec<u8> {
        let mut block = BlockEncoder::default();
        for (name, value) in [(":method", method), (":scheme", "http"), (":path", path)] {
            block.field(name.as_bytes(), value.as_bytes());
        }
        let mut bytes = Vec::new();
        frame::write_block(stream, method == "GET", &block.finish(), &mut bytes);
        bytes
    }

    pub(super) fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let head = Frame {
            length: payload.len() as u32,
            kind,
            flags: 0,
            stream,
        };
        head.write(&mut bytes);
        bytes.extend_from_slice(payload);
        bytes
    }

    /// Kinds and streams of all frames until the end of the connection, and the error
    /// code of the last one if that is GOAWAY.
    pub(super) async fn read_all(client: &mut TcpStream) -> (Vec<(u8, u32)>, Option<u32>) {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).await.expect("read");
        let (mut rest, mut frames, mut last) = (&bytes[..], Vec::new(), None);
        while let Some(head) = Frame::parse(rest) {
            let end = HEAD + head.length as usize;
            frames.push((head.kind, head.stream));
            let code = rest[HEAD..end]
                .get(4..8)
                .and_then(|code| code.try_into().ok());
            last = code.filter(|_| head.kind == frame::kind::GOAWAY);
            rest = &rest[end..];
        }
        (frames, last.map(u32::from_be_bytes))
    }
}

use tidegate_wire::http2::frame::{PREFACE, code, kind};

#[test]
fn a_server_of_http1_gets_no_byte_that_a_client_chose() {
    relay(async |mut ends| {
        let hidden = b"GET /admin/x HTTP/1.1\r\nHost: a\r\n\r\n";
        let bytes = [
            raw::greeting(),
            raw::frame(0x63, 0, hidden),
            raw::request(1, "GET", "/denied"),
        ]
        .concat();
        ends.client.write_all(&bytes).await.expect("send");
        ends.upstream.expect_untouched().await;
        let more = [
            raw::request(3, "POST", "/x"),
            raw::frame(kind::DATA, 3, hidden),
        ]
        .concat();
        ends.client.write_all(&more).await.expect("send");
        let upstream = ends.upstream.stream().await;
        let mut got = vec![0; 1000];
        let count = upstream.read(&mut got).await.expect("read");
        got.truncate(count);
        let settings = got.strip_prefix(PREFACE).expect("a preface");
        assert_eq!(settings.len(), 9 + 12, "SETTINGS of ours: {settings:?}");
        ends.upstream
            .send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            .await;
        let (frames, code) = raw::read_all(&mut ends.client).await;
        let answers = frames.iter().filter(|(kind, _)| *kind == kind::HEADERS);
        assert_eq!(answers.count(), 2, "{frames:?}");
        assert_eq!(code, Some(code::NO_ERROR));
        let mut rest = Vec::new();
        let end = ends.upstream.stream().await.read_to_end(&mut rest).await;
        assert_eq!(
            (rest.len(), end.is_ok()),
            (0, true),
            "nothing after the greeting"
        );
        ends.expect_records(&[
            "HTTP/2 GET http:///denied 403 refused",
            "HTTP/2 POST http:///x 502 refused (upstream unreachable: it does not speak HTTP/2)",
        ]);
    });
}

#[test]
fn a_broken_preface_is_an_error_of_its_connection() {
    relay(async |mut ends| {
        ends.send("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").await;
        let (frames, code) = raw::read_all(&mut ends.client).await;
        assert_eq!(frames, [(kind::SETTINGS, 0), (kind::GOAWAY, 0)]);
        assert_eq!(code, Some(code::PROTOCOL_ERROR));
        ends.upstream.expect_untouched().await;
    });
}

#[test]
fn a_connection_with_much_to_do_leaves_others_their_turn() {
    relay(async |mut ends| {
        let requests = (0..1_500).map(|n| raw::request(2 * n + 1, "GET", "/denied"));
        let bytes = [raw::greeting(), requests.collect::<Vec<_>>().concat()].concat();
        let turns = Rc::new(std::cell::Cell::new(0));
        let (counted, rules) = (turns.clone(), ends.rules.clone());
        let neighbour = tokio::task::spawn_local(async move {
            while rules.records.borrow().len() < 1_500 {
                counted.set(counted.get() + usize::from(!rules.records.borrow().is_empty()));
                tokio::task::yield_now().await;
            }
        });
        ends.client.write_all(&bytes).await.expect("send");
        neighbour.await.expect("all answered");
        assert!(
            turns.get() >= 100,
            "{} turns beside 1500 requests",
            turns.get()
        );
    });
}

/// Whoever has more connections has no more turns.
#[test]
fn the_connections_of_one_client_have_one_turn_together() {
    local(async {
        let (rules, _upstream) = Rules::with_upstream().await;
        let client = Client::default();
        let requests = (0..500).map(|n| raw::request(2 * n + 1, "GET", "/denied"));
        let bytes = [raw::greeting(), requests.collect::<Vec<_>>().concat()].concat();
        let mut pairs = Vec::new();
        for _ in 0..4 {
            let (mut stream, accepted) = connected().await;
            stream.write_all(&bytes).await.expect("send");
            pairs.push((stream, accepted));
        }
        let mut open = Vec::new();
        for (stream, accepted) in pairs {
            open.push(stream);
            let (rules, client) = (rules.clone(), client.clone());
            tokio::task::spawn_local(async move {
                serve(accepted, &*rules, &Activity::of(&client)).await;
            });
        }
        let mut turns = 0;
        while rules.records.borrow().len() < 2_000 {
            turns += usize::from(!rules.records.borrow().is_empty());
            tokio::task::yield_now().await;
        }
        assert!(turns >= 150, "{turns} turns beside 2000 requests");
    });
}
