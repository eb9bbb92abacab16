//! Calls of gRPC: what a client gets that is not the server's answer is gRPC too, and a
//! record says how a call ended.

use ::http::{HeaderMap, Request, Response};
use bytes::Bytes;

use super::{
    h2::{Peers, WIDE, peers},
    *,
};

/// What a client of gRPC reads.
async fn call(peers: &Peers, path: &str, more: &[(&str, &str)]) -> (HeaderMap, Vec<u8>, HeaderMap) {
    let mut request = Request::post(format!("http://a{path}"))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers");
    for (name, value) in more {
        request = request.header(*name, *value);
    }
    let request = request.body(()).expect("request");
    let got = peers.send(request, Some(b"message".to_vec())).await;
    assert_eq!(got.status, 200, "{path}: a client of gRPC looks no further");
    (got.headers, got.body, got.trailers.unwrap_or_default())
}

#[test]
fn a_refused_call_is_told_so_and_others_live() {
    peers(WIDE, WIDE, async |peers| {
        for _ in 0..3 {
            let (head, body, trailers) = call(&peers, "/denied/Delete", &[]).await;
            assert_eq!(head["content-type"], "application/grpc");
            assert_eq!(head["grpc-status"], "7");
            assert_eq!(head["grpc-message"], "Access denied");
            assert!(
                body.is_empty() && trailers.is_empty(),
                "{body:?} {trailers:?}"
            );
            let (head, body, trailers) = call(&peers, "/shop.Orders/Get", &[]).await;
            assert!(head.get("grpc-status").is_none(), "{head:?}");
            assert_eq!(
                (&body[..], &trailers["grpc-status"]),
                (&b"message"[..], &"0".parse().unwrap())
            );
        }
        let records = peers.rules.records.borrow();
        assert_eq!(
            records[..2],
            [
                "HTTP/2 POST http://a/denied/Delete 200 refused denied/Delete=7",
                "HTTP/2 POST http://a/shop.Orders/Get 200 allowed shop.Orders/Get=0",
            ]
        );
    });
}

#[test]
fn limits_and_failures_of_ours_have_words_of_grpc() {
    peers(WIDE, WIDE, async |peers| {
        for (path, more, status, message) in [
            // A plugin that wants what nobody may.
            ("/reserved/Get", vec![], "13", "invalid header edit"),
            ("/a%2Fb/Get", vec![], "2", "the path to ask for is /a/b/Get"),
            ("/%zz/Get", vec![], "13", "malformed path"),
            (
                "/x/Get",
                vec![("x-long", "x".repeat(70_000))],
                "8",
                "header list too large",
            ),
        ] {
            let more: Vec<_> = more
                .iter()
                .map(|(n, v): &(&str, String)| (*n, v.as_str()))
                .collect();
            let (head, ..) = call(&peers, path, &more).await;
            assert_eq!(head["grpc-status"], status, "{path}");
            assert_eq!(head["grpc-message"], message, "{path}");
        }
    });
    // No server.
    local(async {
        let (stream, accepted) = connected().await;
        let (rules, listener) = Rules::with_upstream().await;
        drop(listener);
        let inspector = Rc::clone(&rules);
        tokio::task::spawn_local(async move {
            serve(accepted, &*inspector, &Activity::default()).await
        });
        let (client, connection) = ::h2::client::handshake(stream).await.expect("handshake");
        tokio::task::spawn_local(connection);
        let peers = Peers { client, rules };
        let (head, ..) = call(&peers, "/x/Get", &[]).await;
        assert_eq!(head["grpc-status"], "14", "UNAVAILABLE");
        let records = peers.rules.records.borrow();
        assert!(
            records[0].contains("200 refused x/Get=14 (upstream unreachable"),
            "{records:?}"
        );
    });
}

#[test]
fn the_record_of_a_call_says_how_it_ended() {
    peers(WIDE, WIDE, async |peers| {
        // Without a message: head and trailers in one.
        let (head, ..) = call(&peers, "/trailers-only/Get", &[]).await;
        assert_eq!(head["grpc-status"], "5");
        // Under way, and then not wanted any more.
        let request =
            Request::post("http://a/shop.Orders/Watch").header("content-type", "application/grpc");
        let mut client = peers.client.clone().ready().await.expect("ready");
        let (response, mut send) = client
            .send_request(request.body(()).expect("request"), false)
            .expect("sent");
        let mut body = response.await.expect("a head").into_body();
        send.send_data(Bytes::from_static(b"one"), false)
            .expect("sent");
        assert_eq!(body.data().await.expect("data").expect("data"), "one");
        assert_eq!(peers.rules.records.borrow().len(), 1, "not before it ends");
        send.send_reset(::h2::Reason::CANCEL);
        while peers.rules.records.borrow().len() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // An answer that is none of gRPC's, and one that breaks off.
        let request =
            Request::post("http://a/plain/Get").header("content-type", "application/grpc");
        let got = peers.send(request.body(()).expect("request"), None).await;
        assert_eq!(got.status, 404);
        let request =
            Request::post("http://a/breaks/Get").header("content-type", "application/grpc");
        let mut client = peers.client.clone().ready().await.expect("ready");
        let (response, _) = client
            .send_request(request.body(()).expect("request"), true)
            .expect("sent");
        let mut body = response.await.expect("a head").into_body();
        assert_eq!(body.data().await.expect("data").expect("data"), "x");
        assert!(body.data().await.expect("an end").is_err());
        assert_eq!(
            *peers.rules.records.borrow(),
            [
                "HTTP/2 POST http://a/trailers-only/Get 200 allowed trailers-only/Get=5",
                "HTTP/2 POST http://a/shop.Orders/Watch 200 allowed shop.Orders/Watch (cancelled by the client)",
                "HTTP/2 POST http://a/plain/Get 404 allowed plain/Get",
                "HTTP/2 POST http://a/breaks/Get 200 refused breaks/Get (the response broke off: reset by upstream)",
            ]
        );
    });
}

#[test]
fn grpc_web_is_refused_in_its_own_words_in_either_version_of_http() {
    relay(async |mut ends| {
        ends.send(
            "POST /denied/Get HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc-web+proto\r\n\
             Content-Length: 1\r\n\r\nx",
        )
        .await;
        ends.expect(
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-type: application/grpc-web\r\n\
             grpc-status: 7\r\ngrpc-message: Access denied\r\n\r\n",
        )
        .await;
        ends.expect_records(&["HTTP/1.1 POST http://a/denied/Get 200 refused denied/Get=7"]);
    });
    peers(WIDE, WIDE, async |peers| {
        let request = Request::post("http://a/denied/Get")
            .header("content-type", "application/grpc-web-text");
        let got = peers.send(request.body(()).expect("request"), None).await;
        assert_eq!(got.headers["content-type"], "application/grpc-web-text");
        assert_eq!(got.headers["grpc-status"], "7");
        // What is not a call gets what it always got.
        let request =
            Request::get("http://a/denied/Get").header("content-type", "application/grpc");
        let got = peers.send(request.body(()).expect("request"), None).await;
        assert_eq!(
            (got.status, &got.body[..]),
            (403, &b"Access denied\r\n"[..])
        );
    });
}

/// Answers as servers of gRPC do: the status comes last.
pub(super) async fn answer(
    request: Request<::h2::RecvStream>,
    mut respond: ::h2::server::SendResponse<Bytes>,
) {
    let head = |status: u16| {
        Response::builder()
            .status(status)
            .header("content-type", "application/grpc")
    };
    let path = request.uri().path();
    if path.starts_with("/trailers-only/") {
        let response = head(200)
            .header("grpc-status", "5")
            .body(())
            .expect("response");
        respond.send_response(response, true).expect("sent");
        return;
    }
    if path.starts_with("/plain/") {
        respond
            .send_response(head(404).body(()).expect("response"), true)
            .expect("sent");
        return;
    }
    let response = head(200).body(()).expect("response");
    let mut send = respond.send_response(response, false).expect("sent");
    if path.starts_with("/breaks/") {
        send.send_data(Bytes::from_static(b"x"), false)
            .expect("sent");
        // A reset takes back what was not sent yet.
        tokio::time::sleep(Duration::from_millis(20)).await;
        return send.send_reset(::h2::Reason::INTERNAL_ERROR);
    }
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        if send.send_data(data, false).is_err() {
            return;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", 0.into());
    let _ = send.send_trailers(trailers);
}
