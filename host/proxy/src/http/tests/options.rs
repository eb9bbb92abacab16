//! What documents say of how HTTP is carried.

use std::time::Instant;

use ::h2::ext::Protocol;
use ::http::Request;
use bytes::Bytes;
use tidegate_policy::http_options::{EscapedSlashes, HttpOptions};

use super::{
    h2::{WIDE, peers, peers_with},
    *,
};

const NOTHING: HttpOptions = HttpOptions {
    response_timeout_seconds: None,
    stream_idle_seconds: None,
    idle_seconds: None,
    max_connection_age_seconds: None,
    normalize_path: None,
    merge_slashes: None,
    escaped_slashes: None,
};

#[test]
fn paths_are_read_as_documents_say() {
    relay(async |mut ends| {
        let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        for (options, asked, sent) in [
            (NOTHING, "/a/../b", "/b"),
            (
                HttpOptions {
                    normalize_path: Some(false),
                    ..NOTHING
                },
                "/a/../b",
                "/a/../b",
            ),
            (
                HttpOptions {
                    escaped_slashes: Some(EscapedSlashes::UnescapeAndForward),
                    ..NOTHING
                },
                "/a%2fb",
                "/a/b",
            ),
            (
                HttpOptions {
                    escaped_slashes: Some(EscapedSlashes::Keep),
                    ..NOTHING
                },
                "/a%2fb",
                "/a%2fb",
            ),
            (
                HttpOptions {
                    merge_slashes: Some(false),
                    ..NOTHING
                },
                "/a//b",
                "/a//b",
            ),
        ] {
            ends.rules.options.set(options);
            ends.send(&ask(asked)).await;
            ends.upstream.expect(&ask(sent)).await;
            ends.upstream.send(answer).await;
            ends.expect(answer).await;
            let record = ends.rules.records.borrow().last().cloned();
            let expected = format!("HTTP/1.1 GET http://a{sent} 200 allowed");
            assert_eq!(record, Some(expected), "rules see what the server gets");
        }
        ends.rules.options.set(HttpOptions {
            escaped_slashes: Some(EscapedSlashes::Reject),
            ..NOTHING
        });
        ends.send(&ask("/a%5cb")).await;
        ends.expect("HTTP/1.1 400 Bad Request\r\n").await;
    });
}

#[test]
fn a_response_that_does_not_come_in_time_is_a_504() {
    let options = HttpOptions {
        response_timeout_seconds: Some(1),
        ..NOTHING
    };
    relay(async |mut ends| {
        ends.rules.options.set(options);
        let began = Instant::now();
        ends.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
        ends.upstream.stream().await;
        ends.expect("HTTP/1.1 504 Gateway Timeout\r\n").await;
        assert!(
            began.elapsed() >= Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
        ends.expect_records(&["HTTP/1.1 GET http://a/x 504 refused (upstream timed out)"]);
    });
    // A stream of HTTP/2 that waits costs no other.
    peers_with(WIDE, WIDE, options, async |peers| {
        let silent =
            Request::post("http://a/silent/Get").header("content-type", "application/grpc");
        let silent = peers.send(silent.body(()).expect("request"), None);
        let plain = Request::get("http://a/silent");
        let plain = peers.send(plain.body(()).expect("request"), None);
        let (silent, plain) = tokio::join!(silent, plain);
        assert_eq!((silent.status, plain.status), (200, 504));
        assert_eq!(silent.headers["grpc-status"], "14");
        assert_eq!(peers.call("/x", None).await.status, 200);
    });
}

#[test]
fn silence_lasts_as_long_as_documents_say() {
    relay(async |mut ends| {
        ends.rules.options.set(HttpOptions {
            stream_idle_seconds: Some(1),
            ..NOTHING
        });
        ends.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await;
        ends.upstream
            .expect("GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        ends.upstream.send(head).await;
        ends.expect(head).await;
        // Longer than the limit in all, but never silent for so long.
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            ends.upstream.send("3\r\n:\n\n\r\n").await;
            ends.expect("3\r\n:\n\n\r\n").await;
        }
        let began = Instant::now();
        expect_reset(&mut ends.client).await;
        assert!(
            began.elapsed() >= Duration::from_millis(900),
            "{:?}",
            began.elapsed()
        );
    });
    relay(async |mut ends| {
        ends.rules.options.set(HttpOptions {
            idle_seconds: Some(1),
            ..NOTHING
        });
        ends.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
        ends.upstream
            .expect("GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        ends.upstream.send(answer).await;
        ends.expect(answer).await;
        ends.expect_close().await;
    });
}

#[test]
fn an_old_connection_ends_when_its_requests_are_done() {
    let options = HttpOptions {
        max_connection_age_seconds: Some(1),
        ..NOTHING
    };
    relay(async |mut ends| {
        ends.rules.options.set(options);
        let ask = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        ends.send(ask).await;
        ends.upstream.expect(ask).await;
        ends.upstream.send(answer).await;
        ends.expect(answer).await;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        // Not in the middle of nothing, where a request might be on its way.
        ends.send(ask).await;
        ends.upstream.expect(ask).await;
        ends.upstream.send(answer).await;
        ends.expect("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nconnection: close\r\n\r\n")
            .await;
        ends.expect_close().await;
    });
    peers_with(WIDE, WIDE, options, async |peers| {
        let mut client = peers.client.clone().ready().await.expect("ready");
        let request = Request::post("http://a/x").body(()).expect("request");
        let (response, mut send) = client.send_request(request, false).expect("sent");
        let mut body = response.await.expect("a head").into_body();
        let mut said = 0;
        // Longer than the connection takes requests: this one is not cut.
        for _ in 0..15 {
            send.send_data(Bytes::from_static(b"x"), false)
                .expect("sent");
            said += body.data().await.expect("data").expect("data").len();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let refused = peers.client.clone().ready().await.err();
        let reason = refused.expect("told to go").reason();
        assert_eq!((said, reason), (15, Some(::h2::Reason::NO_ERROR)));
        send.send_data(Bytes::new(), true).expect("sent");
        assert!(body.data().await.is_none());
        assert!(
            body.trailers().await.expect("trailers").is_some(),
            "to its end"
        );
    });
}

/// RFC 8441: a WebSocket in a stream.
#[test]
fn a_tunnel_in_a_stream_may_be_silent() {
    let options = HttpOptions {
        stream_idle_seconds: Some(1),
        ..NOTHING
    };
    peers(WIDE, WIDE, async |peers| {
        peers.rules.options.set(options);
        // The server's settings come with its first answer.
        assert_eq!(peers.call("/x", None).await.status, 200);
        let mut client = peers.client.clone().ready().await.expect("ready");
        assert!(client.is_extended_connect_protocol_enabled());
        let mut request = Request::connect("http://a/ws").body(()).expect("request");
        request
            .extensions_mut()
            .insert(Protocol::from_static("websocket"));
        let (response, mut send) = client.send_request(request, false).expect("sent");
        let mut body = response.await.expect("a head").into_body();
        for _ in 0..2 {
            send.send_data(Bytes::from_static(b"frame"), false)
                .expect("sent");
            assert_eq!(body.data().await.expect("data").expect("data"), "frame");
            tokio::time::sleep(Duration::from_millis(1_600)).await;
        }
        let records = peers.rules.records.borrow();
        assert_eq!(records[1..], ["HTTP/2 CONNECT http://a/ws 200 allowed"]);
    });
}
