//! Bodies through filters, between scripted ends of HTTP/1 and real peers of HTTP/2.

use std::rc::Rc;

use ::http::Request;
use proptest::prelude::*;

use super::*;
use crate::{
    decide::{
        Failure, Who,
        exchange::{
            BodyVerdict, BodyWish, Filters, HeadVerdict, HttpSession, LocalReply, Part, Stop,
            TrailersVerdict, Way,
        },
    },
    http::line::Line,
};
use tidegate_policy::compiled::FailMode;
use tidegate_wire::http::Header;

/// A filter that does what a message's fields say: `x-see` what is to be shown of its body,
/// `x-how` what becomes of it.
#[derive(Default)]
pub(super) struct Scripted {
    how: [RefCell<String>; 2],
    seen: [Cell<usize>; 2],
}

fn value<'h>(headers: &'h [Header<'_>], name: &str) -> &'h str {
    let found = headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case(name));
    found.map_or("", |header| {
        std::str::from_utf8(header.value).expect("text")
    })
}

fn wish(see: &str) -> BodyWish {
    let (what, size) = see.split_once('=').unwrap_or((see, "1000000"));
    let most = size.parse().expect("a size");
    match what {
        "whole" | "skip" => BodyWish::Whole {
            most,
            skip_overlong: what == "skip",
        },
        "window" | "gate" => BodyWish::Window {
            most,
            holds_head: what == "gate",
        },
        _ => BodyWish::Unseen,
    }
}

impl Scripted {
    pub(super) fn head(&self, way: Way, headers: &[Header<'_>]) -> HeadVerdict {
        self.how[way as usize].replace(value(headers, "x-how").to_owned());
        HeadVerdict::Pass {
            rule: None,
            edit: HeaderEdit::default(),
            body: wish(value(headers, "x-see")),
        }
    }
}

impl HttpSession for Scripted {
    fn sees_response(&self) -> bool {
        true
    }

    fn request(&self, head: &HttpHead<'_>) -> Result<HeadVerdict, Failure> {
        Ok(self.head(Way::Request, head.headers))
    }

    fn response(&self, head: &ResponseHead<'_>) -> Result<HeadVerdict, Failure> {
        Ok(self.head(Way::Response, head.headers))
    }

    fn body(&self, way: Way, data: &[u8], end: bool) -> Result<BodyVerdict, Failure> {
        let seen = &self.seen[way as usize];
        seen.set(seen.get() + data.len());
        let take = |count, instead| {
            Ok(BodyVerdict::Take {
                count,
                instead,
                edit: HeaderEdit::default(),
            })
        };
        let all = data.len();
        match &**self.how[way as usize].borrow() {
            "upper" => take(all, Some(data.to_ascii_uppercase())),
            "twice" => take(all, Some([data, data].concat())),
            "nothing" => take(all, Some(Vec::new())),
            // Only what a full stop ends.
            "sentences" => match data.iter().rposition(|byte| *byte == b'.') {
                _ if end => take(all, None),
                Some(at) => take(at + 1, Some(data[..=at].to_ascii_uppercase())),
                None => take(0, None),
            },
            "hold" => take(0, None),
            "late" => Ok(BodyVerdict::Take {
                count: all,
                instead: None,
                edit: HeaderEdit {
                    set: vec![("x-late".into(), "1".into())],
                    remove: Vec::new(),
                },
            }),
            "trap" => Err(Failure::Trapped("on demand".into())),
            "load" => Err(Failure::OverShare),
            "refuse" if seen.get() > 5 || end => Ok(BodyVerdict::Reply(LocalReply {
                status: 422,
                headers: vec![("x-why".into(), "body".into())],
                body: b"unwanted\n".to_vec(),
                as_it_is: false,
                rule: Some(1),
            })),
            _ => take(all, None),
        }
    }

    fn trailers(&self, _: Way, trailers: &[Header<'_>]) -> Result<TrailersVerdict, Failure> {
        Ok(TrailersVerdict::Pass(HeaderEdit {
            set: vec![("x-count".into(), trailers.len().to_string())],
            remove: Vec::new(),
        }))
    }
}

/// Filters for an exchange whose request has these fields: one, and a second for what
/// `x-then` says.
pub(super) fn filters(head: &HttpHead<'_>) -> Filters {
    let mut filters = Filters::default();
    let fail_mode = match value(head.headers, "x-open") {
        "" => FailMode::Closed,
        _ => FailMode::Open,
    };
    let audit = !value(head.headers, "x-audit").is_empty();
    for name in ["x-how", "x-then"] {
        let how = value(head.headers, name);
        if name == "x-then" && how.is_empty() {
            continue;
        }
        let filter = Scripted::default();
        let HeadVerdict::Pass { body, .. } = filter.head(Way::Request, head.headers) else {
            panic!("it passes");
        };
        filter.how[0].replace(how.to_owned());
        let who = Who::of("scripted@1", fail_mode, audit);
        filters.add(Part::new(who, Box::new(filter), body));
    }
    filters
}

const HOST: &str = "POST /seen HTTP/1.1\r\nHost: a\r\n";

#[test]
fn a_whole_body_is_framed_anew_and_its_head_waits() {
    relay(async |mut ends| {
        ends.send(&format!(
            "{HOST}x-see: whole\r\nx-how: twice\r\nContent-Length: 5\r\n\r\nhe"
        ))
        .await;
        ends.upstream.expect_untouched().await;
        ends.send("llo").await;
        ends.upstream
            .expect(&format!(
                "{HOST}x-see: whole\r\nx-how: twice\r\ncontent-length: 10\r\n\r\nhellohello"
            ))
            .await;
        // So is a response, whatever framed it; the connection is kept.
        ends.upstream
            .send("HTTP/1.1 200 OK\r\nx-see: whole\r\nx-how: upper\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
            .await;
        ends.expect(
            "HTTP/1.1 200 OK\r\nx-see: whole\r\nx-how: upper\r\ncontent-length: 2\r\n\r\nOK",
        )
        .await;
        // One without a body stays without, and is shown as one.
        ends.send("GET /seen HTTP/1.1\r\nHost: a\r\nx-see: whole\r\n\r\n")
            .await;
        ends.upstream
            .expect("GET /seen HTTP/1.1\r\nHost: a\r\nx-see: whole\r\n\r\n")
            .await;
        ends.upstream
            .send("HTTP/1.1 204 No\r\nx-see: whole\r\n\r\n")
            .await;
        ends.expect("HTTP/1.1 204 No\r\nx-see: whole\r\n\r\n").await;
        ends.send("HEAD /seen HTTP/1.1\r\nHost: a\r\n\r\n").await;
        ends.upstream
            .expect("HEAD /seen HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        ends.upstream
            .send("HTTP/1.1 200 OK\r\nx-see: whole\r\ncontent-length: 77\r\n\r\n")
            .await;
        ends.expect("HTTP/1.1 200 OK\r\nx-see: whole\r\ncontent-length: 77\r\n\r\n")
            .await;
    });
}

#[test]
fn a_window_passes_in_chunks_with_trailers() {
    relay(async |mut ends| {
        let fields = "x-see: window\r\nx-how: sentences\r\n";
        ends.send(&format!(
            "{HOST}{fields}Transfer-Encoding: chunked\r\n\r\n4\r\na. b\r\n"
        ))
        .await;
        ends.upstream
            .expect(&format!(
                "{HOST}{fields}transfer-encoding: chunked\r\n\r\n2\r\nA.\r\n"
            ))
            .await;
        ends.send("3\r\n. c\r\n").await;
        ends.upstream.expect("3\r\n B.\r\n").await;
        ends.send("0\r\nX-Sum: 1\r\n\r\n").await;
        ends.upstream
            .expect("2\r\n c\r\n0\r\nx-sum: 1\r\nx-count: 1\r\n\r\n")
            .await;
        // To the end of the connection, and with a length: chunks are what all know.
        ends.upstream
            .send("HTTP/1.1 200 OK\r\nx-see: window\r\nx-how: upper\r\nContent-Length: 4\r\n\r\nok")
            .await;
        ends.expect("HTTP/1.1 200 OK\r\nx-see: window\r\nx-how: upper\r\ntransfer-encoding: chunked\r\n\r\n2\r\nOK\r\n")
            .await;
        ends.upstream.send("ok").await;
        ends.expect("2\r\nOK\r\n0\r\n\r\n").await;
        ends.expect_records(&["HTTP/1.1 POST http://a/seen 200 allowed"]);
    });
}

#[test]
fn a_request_is_refused_by_its_body_and_the_connection_lives() {
    let no =
        "HTTP/1.1 422 Refused\r\ncontent-length: 9\r\ncontent-type: text/plain\r\nx-why: body\r\n";
    relay(async |mut ends| {
        ends.send(&format!(
            "{HOST}x-see: whole\r\nx-how: refuse\r\nContent-Length: 3\r\n\r\nbad"
        ))
        .await;
        ends.expect(&format!("{no}\r\nunwanted\n")).await;
        ends.send(&format!(
            "{HOST}x-see: whole=2\r\nContent-Length: 3\r\n\r\nbad"
        ))
        .await;
        ends.expect("HTTP/1.1 413 Content Too Large\r\n").await;
        ends.upstream.expect_untouched().await;
        ends.expect_records(&[
            "HTTP/1.1 POST http://a/seen 422 refused",
            "HTTP/1.1 POST http://a/seen 413 refused",
        ]);
    });
    // Of what has begun to pass upstream sees that it is not all.
    relay(async |mut ends| {
        let head = format!("{HOST}x-see: window\r\nx-how: refuse\r\n");
        ends.send(&format!("{head}Content-Length: 99\r\n\r\nhello"))
            .await;
        ends.upstream
            .expect(&format!(
                "{head}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
            ))
            .await;
        ends.send("more").await;
        ends.expect(&format!("{no}connection: close\r\n\r\nunwanted\n"))
            .await;
        expect_reset(ends.upstream.stream().await).await;
        ends.expect_close().await;
    });
}

#[test]
fn a_response_is_replaced_while_its_head_waits_and_cut_off_afterwards() {
    relay(async |mut ends| {
        ends.send("GET /seen HTTP/1.1\r\nHost: a\r\n\r\n").await;
        ends.upstream
            .expect("GET /seen HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        ends.upstream
            .send("HTTP/1.1 200 OK\r\nx-see: whole\r\nx-how: refuse\r\nContent-Length: 2\r\n\r\nok")
            .await;
        ends.expect("HTTP/1.1 422 Refused\r\ncontent-length: 9\r\n")
            .await;
        ends.expect_records(&["HTTP/1.1 GET http://a/seen 422 refused"]);
    });
    relay(async |mut ends| {
        ends.send("GET /seen HTTP/1.1\r\nHost: a\r\n\r\n").await;
        ends.upstream
            .expect("GET /seen HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        let head = "HTTP/1.1 200 OK\r\nx-see: window\r\nx-how: refuse\r\n";
        ends.upstream
            .send(&format!("{head}Content-Length: 9\r\n\r\nhello"))
            .await;
        ends.expect(&format!(
            "{head}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
        ))
        .await;
        ends.upstream.send("more").await;
        expect_reset(&mut ends.client).await;
        ends.expect_records(&[
            "HTTP/1.1 GET http://a/seen 200 allowed",
            "HTTP/1.1 GET http://a/seen 200 refused (the response broke off: a filter refused the rest of the body)",
        ]);
    });
}

#[test]
fn a_failure_is_the_fail_modes_and_never_looks_like_an_end() {
    relay(async |mut ends| {
        // Open: the rest passes unread, with what was held.
        for how in ["hold", "trap", "late"] {
            let head = format!("{HOST}x-open: 1\r\nx-see: window=4\r\nx-how: {how}\r\n");
            ends.send(&format!("{head}Content-Length: 6\r\n\r\nhel"))
                .await;
            ends.upstream
                .expect(&format!("{head}transfer-encoding: chunked\r\n\r\n"))
                .await;
            ends.send("lo!").await;
            let mut got = String::new();
            while !got.ends_with("0\r\n\r\n") {
                let mut bytes = [0; 512];
                let count = ends
                    .upstream
                    .stream()
                    .await
                    .read(&mut bytes)
                    .await
                    .expect("read");
                assert!(count > 0, "{how}: {got}");
                got.push_str(std::str::from_utf8(&bytes[..count]).expect("text"));
            }
            let lines: Vec<_> = got.split("\r\n").collect();
            let body: String = lines.iter().skip(1).step_by(2).copied().collect();
            assert_eq!(body, "hello!", "{how}: {got}");
            ends.upstream.send(OK).await;
            ends.expect(OK).await;
        }
        // Closed, and whatever load brings about: nothing of it has gone on yet.
        for (how, open) in [("hold", ""), ("trap", ""), ("load", "x-open: 1\r\n")] {
            ends.send(&format!(
                "{HOST}{open}x-see: whole\r\nx-how: {how}\r\nContent-Length: 2\r\n\r\nhi"
            ))
            .await;
            ends.expect("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 29\r\ncontent-type: text/plain\r\n\r\nPolicy could not be decided\r\n")
                .await;
        }
    });
    // What is only reported passes.
    relay(async |mut ends| {
        let head = format!("{HOST}x-audit: 1\r\nx-see: whole\r\nx-how: refuse\r\n");
        ends.send(&format!("{head}Content-Length: 2\r\n\r\nhi"))
            .await;
        ends.upstream
            .expect(&format!("{head}content-length: 2\r\n\r\nhi"))
            .await;
    });
}

#[test]
fn who_waits_to_be_told_is_told_and_who_has_no_chunks_gets_none() {
    relay(async |mut ends| {
        let head = format!("{HOST}x-see: whole\r\n");
        ends.send(&format!(
            "{head}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        ))
        .await;
        ends.expect("HTTP/1.1 100 Continue\r\n\r\n").await;
        ends.send("hi").await;
        ends.upstream
            .expect(&format!("{head}content-length: 2\r\n\r\nhi"))
            .await;
        ends.upstream.send(OK).await;
        ends.expect(OK).await;
    });
    relay(async |mut ends| {
        let old = "POST /seen HTTP/1.0\r\nHost: a\r\n";
        ends.send(&format!(
            "{old}x-see: window\r\nContent-Length: 9\r\n\r\nhi"
        ))
        .await;
        ends.expect("HTTP/1.1 505 HTTP Version Not Supported\r\n")
            .await;
    });
    relay(async |mut ends| {
        ends.send("GET /seen HTTP/1.0\r\nHost: a\r\n\r\n").await;
        ends.upstream
            .expect("GET /seen HTTP/1.0\r\nHost: a\r\n\r\n")
            .await;
        ends.upstream
            .send("HTTP/1.1 200 OK\r\nx-see: window\r\nx-how: upper\r\nContent-Length: 4\r\n\r\nok")
            .await;
        ends.expect(
            "HTTP/1.1 200 OK\r\nx-see: window\r\nx-how: upper\r\nconnection: close\r\n\r\nOK",
        )
        .await;
        ends.upstream.send("ok").await;
        ends.expect("OK").await;
        ends.expect_close().await;
    });
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn what_cannot_be_shown_is_the_fail_modes() {
    h2::peers(h2::WIDE, h2::WIDE, async |peers| {
        let post = |open: bool| {
            let request = Request::post("http://a/seen").header("x-see", "whole");
            let request = request.header("x-how", "upper");
            match open {
                true => request.header("x-open", "1"),
                false => request,
            }
        };
        let closed = post(false).body(()).expect("request");
        let got = peers.send(closed, Some(b"hello".to_vec())).await;
        assert_eq!(got.status, 503);
        let open = post(true).body(()).expect("request");
        let got = peers.send(open, Some(b"hello".to_vec())).await;
        assert_eq!((got.status, &got.body[..]), (200, &b"hello"[..]));
        // One without a body is shown as one of no bytes.
        let get = |how| {
            Request::get("http://a/seen")
                .header("x-see", "whole")
                .header("x-how", how)
        };
        let refused = get("refuse").body(()).expect("request");
        let got = peers.send(refused, None).await;
        assert_eq!((got.status, &got.body[..]), (422, &b"unwanted\n"[..]));
        let passes = get("upper").body(()).expect("request");
        assert_eq!(peers.send(passes, None).await.status, 200);
        let records = peers.rules.records.borrow();
        assert_eq!(
            records[0],
            "HTTP/2 POST http://a/seen 503 refused (plugin gave an invalid answer: it wants to see a body over HTTP/2)"
        );
        assert_eq!(records[2], "HTTP/2 GET http://a/seen 422 refused");
    });
}

fn run(line: &mut Line, body: &[u8], sizes: &[usize]) -> Result<Vec<u8>, Stop> {
    let (mut out, mut at) = (Vec::new(), 0);
    let mut sizes = sizes.iter().cycle();
    loop {
        let size = sizes.next().copied().unwrap_or(1).max(1);
        let next = (at + size).min(body.len());
        let made = line.feed(body[at..next].into(), next == body.len())?;
        out.extend_from_slice(&made);
        at = next;
        if at == body.len() {
            return Ok(out);
        }
    }
}

proptest! {
    #[test]
    fn how_a_body_comes_makes_no_difference(
        body in prop::collection::vec(prop_oneof![Just(b'.'), b'a'..=b'z'], 1..300),
        sizes in prop::collection::vec(1..50_usize, 1..5),
        stages in prop::collection::vec(
            (
                prop_oneof![Just("whole"), Just("skip=100"), Just("whole=200"), Just("window=60"), Just("gate")],
                prop_oneof![Just("upper"), Just("pass"), Just("nothing")],
                any::<bool>(),
            ),
            1..4,
        ),
    ) {
        let line = || {
            let stages = stages.iter().map(|(see, how, open)| {
                let filter = Scripted::default();
                filter.how[0].replace((*how).to_owned());
                let mode = if *open { FailMode::Open } else { FailMode::Closed };
                let part = Part::new(Who::of("s@1", mode, false), Box::new(filter), wish(see));
                (Rc::new(part), wish(see))
            });
            Line::new(Way::Request, stages.collect()).expect("stages")
        };
        let once = run(&mut line(), &body, &[body.len()]);
        let mut pieces = line();
        let again = run(&mut pieces, &body, &sizes);
        match (once, again) {
            (Ok(once), Ok(again)) => {
                prop_assert_eq!(once, again);
                prop_assert_eq!(pieces.head_waits(), false);
            }
            (Err(once), Err(again)) => prop_assert_eq!(once.denial.status, again.denial.status),
            (once, again) => prop_assert!(false, "{} {}", once.is_ok(), again.is_ok()),
        }
    }
}
