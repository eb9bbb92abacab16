//! What is recorded is what the client got.

use super::*;

/// A request, what upstream does (`None`: it must not be asked), and the status that the
/// client gets and the record has.
struct Case {
    request: String,
    upstream: Option<&'static str>,
    status: u16,
}

fn case(request: impl Into<String>, upstream: Option<&'static str>, status: u16) -> Case {
    Case {
        request: request.into(),
        upstream,
        status,
    }
}

fn cases() -> Vec<Case> {
    let post = |path: &str, more: &str| format!("POST {path} HTTP/1.1\r\nHost: a\r\n{more}");
    let chunked = "Transfer-Encoding: chunked\r\n\r\n";
    let head = |path: &str| format!("HEAD {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    vec![
        // A refusal is due whatever becomes of the body.
        case(post("/denied", &format!("{chunked}zz\r\n")), None, 403),
        case(post("/denied", &format!("{chunked}1\r\nxy\r\n")), None, 403),
        case(
            post("/denied", "Content-Length: 9999999\r\n\r\nx"),
            None,
            403,
        ),
        case(
            post(
                "/denied",
                "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
            ),
            None,
            403,
        ),
        case(post("/a%2Fb", &format!("{chunked}zz\r\n")), None, 307),
        case(post("/%00", &format!("{chunked}zz\r\n")), None, 400),
        case(post("/x", &format!("{chunked}zz\r\n")), None, 400),
        case(post("/x", "Content-Length: 1, 2\r\n\r\n"), None, 400),
        case("GET /x HTTP/1.1\r\n\r\n", None, 400),
        case("GET /x HTTP/9.9\r\nHost: a\r\n\r\n", None, 505),
        case(format!("GET /{}", "x".repeat(70_000)), None, 431),
        case(post("/reserved", "Content-Length: 0\r\n\r\n"), None, 500),
        case(post("/x", "Content-Length: 0\r\n\r\n"), Some(""), 502),
        case(
            post("/x", "Content-Length: 0\r\n\r\n"),
            Some("HTTP/1.1 100 Continue\r\n\r\n"),
            502,
        ),
        case(
            post("/x", "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"),
            Some("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n"),
            417,
        ),
        // HEAD has no body, whoever answers.
        case(head("/denied"), None, 403),
        case(head("/%00"), None, 400),
        case(head("/reserved"), None, 500),
        case(head("/x"), Some(""), 502),
        case(head("/x"), Some("no response\r\n\r\n"), 502),
        case(
            head("/response"),
            Some("HTTP/1.1 500 No\r\nContent-Length: 7\r\n\r\n"),
            502,
        ),
        case(
            head("/x"),
            Some("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"),
            200,
        ),
    ]
}

/// The final response of what a client got: its status and its body.
fn final_response(got: &str) -> Option<(u16, &str)> {
    let (head, rest) = got.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    match status {
        100..200 => final_response(rest),
        _ => Some((status, rest)),
    }
}

#[test]
fn what_is_recorded_is_what_the_client_got() {
    for Case {
        request,
        upstream,
        status,
    } in cases()
    {
        relay(async |mut ends| {
            let shown = &request[..request.len().min(80)];
            ends.send(&request).await;
            if let Some(answer) = upstream {
                let stream = ends.upstream.stream().await;
                stream.readable().await.expect("a request");
                let _ = stream.try_read(&mut [0; 4_096]);
                stream.write_all(answer.as_bytes()).await.expect("answer");
                stream.shutdown().await.expect("end");
            }
            if upstream.is_none() {
                // Where the connection is kept, this is its end.
                ends.client.shutdown().await.expect("end");
            }
            let mut got = String::new();
            let end = ends.client.read_to_string(&mut got);
            let end = tokio::time::timeout(Duration::from_secs(5), end).await;
            let end = end.unwrap_or_else(|_| panic!("{shown:?}: stays open after {got:?}"));
            end.unwrap_or_else(|error| panic!("{shown:?}: {error} after {got:?}"));
            let (seen, body) = final_response(&got).unwrap_or_else(|| panic!("{shown:?}: {got:?}"));
            assert_eq!(seen, status, "{shown:?}: {got:?}");
            if request.starts_with("HEAD") {
                assert_eq!(body, "", "a body after HEAD: {shown:?}");
            }
            let records = ends.rules.records.borrow().clone();
            let recorded = |record: &String| record.contains(&format!(" {status} "));
            assert!(
                records.len() == 1 && records.iter().all(recorded),
                "{shown:?}: {records:?}"
            );
            if upstream.is_none() {
                ends.upstream.expect_untouched().await;
            }
        });
    }
}

/// HTTP/2: its preface, SETTINGS, and a request for `/api/x` that is at its end.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
    \0\0\x0d\x01\x05\0\0\0\x01\x82\x86\x04\x06/api/x\x41\x01a";

#[test]
fn a_client_that_resets_resets_upstream_too() {
    // While nothing is under way.
    relay(async |mut ends| {
        let get = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
        let answer = "HTTP/1.1 204 No\r\n\r\n";
        ends.send(get).await;
        ends.upstream.expect(get).await;
        ends.upstream.send(answer).await;
        ends.expect(answer).await;
        ends.client.set_zero_linger().expect("linger");
        drop(ends.client);
        expect_reset(ends.upstream.stream().await).await;
    });
    // HTTP/2, whatever is under way.
    relay(async |mut ends| {
        ends.client.write_all(HTTP2).await.expect("send");
        let upstream = ends.upstream.stream().await;
        upstream
            .write_all(b"\0\0\0\x04\0\0\0\0\0")
            .await
            .expect("greeting");
        let mut got = Vec::new();
        while !got.windows(6).any(|piece| piece == b"/api/x") {
            assert!(upstream.read_buf(&mut got).await.expect("request") > 0);
        }
        ends.client.set_zero_linger().expect("linger");
        drop(ends.client);
        let ended = async {
            loop {
                match upstream.read_buf(&mut got).await {
                    Ok(1..) => {}
                    ended => return ended,
                }
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(5), ended).await;
        let error = ended.expect("stays open").expect_err("looks complete");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_server_that_does_not_greet_is_a_504() {
    relay(async |mut ends| {
        ends.client.write_all(HTTP2).await.expect("send");
        let upstream = ends.upstream.stream().await;
        upstream.readable().await.expect("a greeting of ours");
        let mut got = Vec::new();
        let end = ends.client.read_to_end(&mut got);
        let end = tokio::time::timeout(Duration::from_secs(5), end).await;
        end.expect("the client is left waiting").expect("in order");
        assert!(got.windows(3).any(|piece| piece == b"504"), "{got:?}");
        ends.expect_records(&["HTTP/2 GET http://a/api/x 504 refused (upstream timed out)"]);
    });
}
