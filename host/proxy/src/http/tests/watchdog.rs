//! What happens to connections on which nothing moves. A tick of some milliseconds
//! makes the limits short: 6 ticks for a head, 30 for a message, 360 for idling.

use std::time::Instant;

use super::*;

const SHORT: Duration = Duration::from_millis(10);

/// Sends `sent`, then nothing: the client must get `answer` and a close, not before
/// `ticks` ticks have passed.
fn check(sent: &str, ticks: u32, answer: &str, records: &[&str]) {
    relay_watched(SHORT, async |mut ends| {
        let began = Instant::now();
        ends.send(sent).await;
        let upstream = ends.upstream.listener.accept();
        let mut got = String::new();
        let read = async {
            let read = ends.client.read_to_string(&mut got);
            let read = tokio::time::timeout(Duration::from_secs(30), read).await;
            read.expect("stays open").expect("read");
        };
        tokio::select! {
            // Takes the connection and never answers.
            _held = async { (upstream.await, std::future::pending::<()>().await) } => {}
            () = read => {}
        }
        assert!(began.elapsed() >= SHORT * ticks, "{:?}", began.elapsed());
        let status = got.lines().next().unwrap_or_default();
        assert_eq!(status, answer, "after {sent:?}");
        ends.expect_records(records);
    });
}

#[test]
fn an_idle_connection_is_closed() {
    check("", 360, "", &[]);
}

#[test]
fn a_head_that_never_ends_is_not_waited_for() {
    check("GET /x HTTP/1.1\r\nHost: a\r\n", 6, "", &[]);
}

#[test]
fn a_client_that_stops_uploading_is_told_so() {
    check(
        "PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhal",
        30,
        "HTTP/1.1 408 Request Timeout",
        &["HTTP/1.1 PUT http://a/x 408 refused (client stopped sending)"],
    );
}

#[test]
fn an_upstream_that_never_answers_is_its_own_fault() {
    check(
        "GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
        30,
        "HTTP/1.1 504 Gateway Timeout",
        &["HTTP/1.1 GET http://a/x 504 refused (upstream timed out)"],
    );
}
