use proptest::prelude::*;

use super::*;
use crate::http::{EditError, HeaderEdit};

/// Reads a request head; says what it means in one line.
fn read_request(head: &str) -> Result<String, HeadError> {
    let mut scan = HeadScan::default();
    let end = scan.advance(head.as_bytes())?.expect("complete head");
    with_request(&head.as_bytes()[..end], |request| {
        let mut text = format!(
            "{} {} {} {:?}",
            request.method,
            request.authority,
            request.target.path(),
            request.framing
        );
        if !request.persistent {
            text.push_str(" close");
        }
        if request.upgrade != Upgrade::No {
            text.push_str(&format!(" {:?}", request.upgrade));
        }
        text
    })
}

#[test]
fn request_heads_that_pass() {
    for (head, expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET a / Length(0)"),
        ("GET / HTTP/1.0\r\n\r\n", "GET  / Length(0) close"),
        (
            "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            "GET  / Length(0)",
        ),
        (
            "POST /x?y=z HTTP/1.1\r\nhost:a:80\r\ncontent-length: 12\r\nconnection: x, close\r\n\r\n",
            "POST a:80 /x?y=z Length(12) close",
        ),
        (
            "PUT / HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: Chunked\r\n\r\n",
            "PUT [::1]:80 / Chunked",
        ),
        (
            "GET http://A/x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET A /x Length(0)",
        ),
        (
            "GET http://a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET a / Length(0)",
        ),
        ("GET /h HTTP/1.1\r\nHost:\r\n\r\n", "GET  /h Length(0)"),
        (
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS a * Length(0)",
        ),
        (
            "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
            "CONNECT a:443  Length(0)",
        ),
        (
            "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\n\r\n",
            "GET a /ws Length(0) WebSocket",
        ),
    ] {
        assert_eq!(read_request(head).as_deref(), Ok(expected), "for {head:?}");
    }
}

#[test]
fn only_a_plain_offer_of_websocket_passes() {
    let offer = |method: &str, version: &str, fields: &str| {
        let head = format!("{method} / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        with_request(head.as_bytes(), |request| {
            let head = Rewrite::default().encode_request(request);
            let kept = String::from_utf8(head).expect("text").to_ascii_lowercase();
            let kept = kept.contains("upgrade") || kept.contains("http2-settings");
            (request.upgrade, kept)
        })
        .expect("readable")
    };
    let both = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    assert_eq!(offer("GET", "1.1", both), (Upgrade::WebSocket, true));
    for fields in [
        "Upgrade: h2c\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c;q=1\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c foo\r\n",
        "Connection: Upgrade\r\nUpgrade: foo, H2C\r\n",
        "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
        "Connection: Upgrade\r\nUpgrade: echo\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket,\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket;a=b\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket/13\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: Upgrade\r\nUpgrade:\r\n",
        "Connection: Upgrade\r\n",
        "Connection: close\r\nUpgrade: websocket\r\n",
        "HTTP2-Settings: AAMAAABk\r\n",
        "Connection: HTTP2-Settings\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let got = offer("GET", "1.1", fields);
        assert_eq!(got, (Upgrade::TakenOut, false), "for {fields:?}");
    }
    assert_eq!(offer("POST", "1.1", both), (Upgrade::TakenOut, false));
    assert_eq!(offer("GET", "1.0", both), (Upgrade::TakenOut, false));
    let no_offer = "Connection: keep-alive\r\nX-Upgrade: h2c\r\n";
    assert_eq!(offer("GET", "1.1", no_offer).0, Upgrade::No);
}

#[test]
fn only_an_answer_that_names_websocket_switches() {
    let switches = |status: u16, fields: &str| {
        let head = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
        with_response(head.as_bytes(), Asked::Other, |response| {
            response.switches_to_websocket()
        })
    };
    let agreed = "Connection: Upgrade\r\nUpgrade: WebSocket\r\n";
    assert_eq!(switches(101, agreed), Ok(true));
    assert_eq!(switches(200, agreed), Ok(false));
    for fields in [
        "",
        "Upgrade: h2c\r\n",
        "Upgrade: websocket, h2c\r\n",
        "Upgrade: websocket\r\nUpgrade: h2c\r\n",
        "Upgrade: websocket;q=1\r\n",
    ] {
        assert_eq!(switches(101, fields), Ok(false), "for {fields:?}");
    }
}

#[test]
fn blanks_before_a_colon_go_out_of_a_response() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\nX \t: y\r\nZ: z\r\n\r\n";
    let read = with_response(head, Asked::Other, |response| {
        let head = Rewrite::default().encode_response(response);
        (
            response.framing,
            response.padded_names,
            String::from_utf8(head),
        )
    });
    let without = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\nZ: z\r\n\r\n";
    assert_eq!(read, Ok((Framing::Length(5), true, Ok(without.to_owned()))));
    // A request is refused for them.
    assert_eq!(
        read_request("GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n"),
        Err(HeadError::Malformed)
    );
}

#[test]
fn request_heads_that_are_refused() {
    use HeadError::*;
    for (head, expected) in [
        // Framing that two readers could understand differently.
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            TransferEncoding,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            TransferEncoding,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
            TransferEncoding,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            TransferEncoding,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
            Malformed,
        ),
        (
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            TransferEncoding,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
            ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
            ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
            ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n",
            ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
            ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
            ContentLength,
        ),
        (
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
            ContentLength,
        ),
        // Lines and fields.
        ("GET / HTTP/1.1\nHost: a\n\n", BareLineEnd),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX: b\nY: c\r\n\r\n",
            BareLineEnd,
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\rY: c\r\n\r\n", Malformed),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n", Malformed),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tfolded\r\n\r\n",
            Malformed,
        ),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Malformed),
        ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Malformed),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n", Malformed),
        ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", Malformed),
        // Request line.
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Malformed),
        ("GET /\r\n\r\n", Malformed),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Version),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Version),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", Malformed),
        ("GET x HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("GET /#f HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        // Host.
        ("GET / HTTP/1.1\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a:x\r\n\r\n", Host),
        ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", Host),
    ] {
        assert_eq!(read_request(head), Err(expected), "for {head:?}");
    }
}

#[test]
fn limits_of_a_head() {
    let many = "X: y\r\n".repeat(MAX_FIELDS);
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n");
    assert_eq!(read_request(&head), Err(HeadError::TooLarge));

    let mut scan = HeadScan::default();
    let long = format!("GET /{} ", "x".repeat(MAX_HEAD));
    assert_eq!(scan.advance(long.as_bytes()), Err(HeadError::TooLarge));
    // A TLS hello is not waited for until it looks like a head.
    let mut scan = HeadScan::default();
    assert_eq!(scan.advance(b"\x16\x03\x01"), Err(HeadError::Malformed));
}

#[test]
fn response_framing() {
    let check = |head: &str, asked: Asked, expected: Result<(Framing, bool), HeadError>| {
        let got = with_response(head.as_bytes(), asked, |response| {
            (response.framing, response.persistent)
        });
        assert_eq!(got, expected, "for {head:?} after {asked:?}");
    };
    let length = |bytes| Ok((Framing::Length(bytes), true));
    let hello = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    check(hello, Asked::Other, length(5));
    check(hello, Asked::Head, length(0));
    check(hello, Asked::Connect, length(0));
    check(
        "HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\n",
        Asked::Connect,
        length(5),
    );
    check("HTTP/1.1 204 No Content\r\n\r\n", Asked::Other, length(0));
    check(
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        Asked::Other,
        length(0),
    );
    check("HTTP/1.1 100 Continue\r\n\r\n", Asked::Other, length(0));
    check(
        "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n",
        Asked::Other,
        Ok((Framing::PaddedChunked, true)),
    );
    check(
        "HTTP/1.1 200 OK\r\n\r\n",
        Asked::Other,
        Ok((Framing::UntilClose, false)),
    );
    check(
        "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
        Asked::Other,
        Ok((Framing::Length(1), false)),
    );
    check(
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        Asked::Other,
        Err(HeadError::TransferEncoding),
    );
    check(
        "HTTP/1.1 099 X\r\n\r\n",
        Asked::Other,
        Err(HeadError::Malformed),
    );
}

#[test]
fn chunked_bodies() {
    let check = |body: &str, expected: Option<usize>| {
        let mut chunked = Chunked::default();
        let got = chunked.advance(body.as_bytes()).ok();
        assert_eq!(got.filter(|_| chunked.is_done()), expected, "for {body:?}");
    };
    check("0\r\n\r\nGET /", Some(5));
    check("5\r\nhello\r\n0\r\n\r\n", Some(15));
    check(
        "A;x=\"y\"\r\n0123456789\r\n000\r\nT: u\r\nV:\r\n\r\nrest",
        Some(38),
    );
    check("5\r\nhello\r\n0\r\n", None);
    for malformed in [
        "\r\n",
        "g\r\n",
        "5\nhello",
        "5 \r\nhello",
        " 5\r\nhello",
        "+5\r\nhello",
        "0x5\r\nhello",
        "5\r\nhelloX\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "0\r\nbad field\r\n\r\n",
        "0\r\n fold\r\n\r\n",
        "0\r\nA: b\n\r\n",
        "5;x\ny\r\nhello",
        ";\r\n",
        "1234567890123456\r\n",
        "0\r\n:\r\n\r\n",
    ] {
        assert_eq!(
            Chunked::default().advance(malformed.as_bytes()),
            Err(ChunkError),
            "for {malformed:?}"
        );
    }
}

#[test]
fn servers_may_pad_the_size_of_a_chunk() {
    let check = |body: &str, expected: Result<usize, ChunkError>| {
        let mut chunked = Chunked::padded();
        let got = chunked.advance(body.as_bytes());
        assert_eq!(got, expected, "for {body:?}");
        assert_eq!(chunked.is_done(), got.is_ok(), "for {body:?}");
    };
    check("5  \r\nhello\r\n0   \r\n\r\n", Ok(20));
    check("5 ;a=1\r\nhello\r\n0\t;b\r\n\r\n", Ok(23));
    for malformed in [" 5\r\n", "5 5\r\n", "5 \n", " \r\n", "5  x\r\n"] {
        check(malformed, Err(ChunkError));
    }
    let endless = format!("5{}", " ".repeat(2_000));
    check(&endless, Err(ChunkError));
}

#[test]
fn rewritten_heads() {
    let edit = HeaderEdit {
        set: vec![("x-new".into(), "1".into())],
        remove: vec!["X-Old".into()],
    };
    let edit = edit.checked().expect("allowed edit");
    let check = |head: &str, rewrite: Rewrite<'_>, expected: &str| {
        let got = with_request(head.as_bytes(), |request| rewrite.encode_request(request));
        assert_eq!(
            String::from_utf8(got.expect("readable")).expect("text"),
            expected
        );
    };
    check(
        "GET http://a//b HTTP/1.1\r\nHost:  a\r\nx-old: 1\r\nX-NEW: 0\r\nX-Old: 2\r\n\r\n",
        Rewrite {
            path: Some("/b"),
            edit: Some(&edit),
            close: false,
        },
        "GET http://a/b HTTP/1.1\r\nHost: a\r\nx-new: 1\r\n\r\n",
    );
    check(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, x\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nX: y\r\n\r\n",
        Rewrite::default(),
        "GET / HTTP/1.1\r\nHost: a\r\nconnection: x\r\nX: y\r\n\r\n",
    );
    // What was set is not for the next hop to take out again.
    check(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-New, x-old\r\nConnection: x-new\r\nx-new: 0\r\n\r\n",
        Rewrite {
            edit: Some(&edit),
            ..Rewrite::default()
        },
        "GET / HTTP/1.1\r\nHost: a\r\nconnection: close, x-old\r\nx-new: 1\r\n\r\n",
    );
    let refused = |name: &str, value: &str| {
        let edit = HeaderEdit {
            set: vec![(name.into(), value.into())],
            remove: vec![],
        };
        edit.checked().expect_err("must be refused")
    };
    let reserved = EditError::Reserved("Content-Length".into());
    assert_eq!(refused("Content-Length", "0"), reserved);
    assert_eq!(refused("x", "a\r\nb: c"), EditError::Invalid("x".into()));
    assert_eq!(refused("x y", "a"), EditError::Invalid("x y".into()));
}

/// Cuts `input` at `cuts` and feeds it to `step` piece by piece, the way a growing
/// buffer would see it.
fn pieces(input: &[u8], cuts: &[usize]) -> Vec<usize> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    ends.push(input.len());
    ends.sort_unstable();
    ends
}

proptest! {
    #[test]
    fn a_head_ends_where_it_ends_however_it_arrives(
        input in "(GET / HTTP/1.1\r\n)?([a-c:\r\n]|\r\n){0,30}(\r\n\r\n)?[a\r\n]{0,4}",
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let whole = HeadScan::default().advance(input.as_bytes());
        let mut scan = HeadScan::default();
        let mut split = Ok(None);
        for end in pieces(input.as_bytes(), &cuts) {
            split = scan.advance(&input.as_bytes()[..end]);
            if split != Ok(None) {
                break;
            }
        }
        prop_assert_eq!(split, whole);
    }

    #[test]
    fn a_chunked_body_ends_where_it_ends_however_it_arrives(
        input in "([0-3](;x)?\r\n([a-c]{0,3}\r\n)?){0,6}(0\r\n(A: b\r\n)?\r\n)?.{0,3}",
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let input = input.as_bytes();
        let mut whole = Chunked::default();
        let expected = whole.advance(input);
        let mut split = Chunked::default();
        let mut at = 0;
        let mut got = Ok(0);
        for end in pieces(input, &cuts) {
            match split.advance(&input[at..end]) {
                Ok(count) => at += count,
                Err(error) => got = Err(error),
            }
            if got.is_err() || split.is_done() {
                break;
            }
        }
        prop_assert_eq!(got.map(|_| at), expected);
        prop_assert_eq!(split.is_done(), whole.is_done());
    }

    #[test]
    fn any_bytes_are_survived(input in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz_http1(&input);
    }

    #[test]
    fn responses_are_the_same_however_they_arrive(
        asked in any::<u8>(),
        piece in 1_u8..40,
        stream in "((HTTP/1\\.[01] (100|101|200|204|304|404) OK\r\n)((Content-Length|Transfer-Encoding|Connection|X) ?: ?([0-9]|chunked|close)\r\n){0,2}\r\n([0-9] ?;?\r\n[a-z]{0,9}\r\n){0,2}(0\r\n\r\n)?[a-z]{0,4}){0,4}",
    ) {
        fuzz_responses(&[&[asked, piece], stream.as_bytes()].concat());
    }

    #[test]
    fn near_heads_are_survived(input in "(GET|CONNECT) [/a*:0-9h#?]{0,6} HTTP/1.[01]\r\n((Host|Content-Length|Transfer-Encoding|Upgrade|X):[ a,0-9chunked]{0,9}\r\n){0,4}\r\n") {
        fuzz_http1(input.as_bytes());
    }
}
