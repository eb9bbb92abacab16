//! Frame by frame what RFC 9113 wants: which error, and whose.

use super::*;

/// What comes of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Fine,
    /// An error of a stream, with this code.
    Stream(u32, u32),
    /// An error of the connection.
    Connection(u32),
}
use Outcome::*;

/// Streams that were reset towards the client; the first one's outcome.
fn outcome(relay: &mut Relay<'_, Rules>, got: Result<usize, Fault>) -> Outcome {
    if let Err(fault) = got {
        return Connection(fault.code);
    }
    let frames = relay.taken().0;
    let reset = frames
        .split(", ")
        .find_map(|line| line.strip_prefix("RST "));
    reset.map_or(Fine, |reset| {
        let mut numbers = reset
            .split(' ')
            .map(|number| number.parse().expect("a number"));
        Stream(numbers.next().expect("id"), numbers.next().expect("code"))
    })
}

fn fields(stream: u32, end: bool, list: &[(&str, &str)]) -> Vec<u8> {
    write(|out| write_block(stream, end, &block(list), out))
}

/// A request with more fields, on stream 3.
fn with(more: &[(&str, &str)]) -> Vec<u8> {
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/x")];
    fields(3, true, &[&get[..], more].concat())
}

fn on(flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, payload)
}

const SELF: &[u8] = &[0, 0, 0, 3, 1];

#[test]
fn frames_of_a_client() {
    let open = || request(3, "/x", false);
    let half = || request(3, "/x", true);
    let cancelled = || [open(), number(kind::RST_STREAM, 3, code::CANCEL)].concat();
    let begun = || {
        frame(
            kind::HEADERS,
            0,
            3,
            &block(&[(":method", "GET"), (":scheme", "http"), (":path", "/x")]),
        )
    };
    let ends = |stream| frame(kind::CONTINUATION, flag::END_HEADERS, stream, b"");
    let after = |first: Vec<u8>, more: Vec<u8>| [first, more].concat();
    let get = block(&[(":method", "GET"), (":scheme", "http"), (":path", "/x")]);
    let protocol = Connection(code::PROTOCOL_ERROR);
    let size = Connection(code::FRAME_SIZE_ERROR);
    let flow = Connection(code::FLOW_CONTROL_ERROR);
    let closed = Stream(3, code::STREAM_CLOSED);
    let stream = Stream(3, code::PROTOCOL_ERROR);
    let window = |id, value| number(kind::WINDOW_UPDATE, id, value);
    let set = |id, value| settings(&[(id, value)]);
    let most = 0x7fff_ffff;
    for (what, bytes, expected) in [
        // §4.1, §4.2, §5.5
        ("an unknown type", frame(0x63, 0xff, 0, b"x"), Fine),
        (
            "an unknown type on an idle stream",
            frame(0x63, 0, 99, b"x"),
            Fine,
        ),
        ("unknown flags", frame(kind::PING, 0xfe, 0, &[0; 8]), Fine),
        (
            "a reserved bit",
            frame(kind::PING, 0, 0x8000_0000, &[0; 8]),
            Fine,
        ),
        (
            "DATA that is too long",
            after(open(), on(0, 3, &[0; 16_385])),
            size,
        ),
        (
            "HEADERS that are too long",
            frame(kind::HEADERS, 4, 3, &[0; 16_385]),
            size,
        ),
        (
            "the longest DATA",
            after(open(), on(0, 3, &[0; 16_384])),
            Fine,
        ),
        (
            "an unknown frame in a block",
            after(begun(), frame(0x63, 0, 3, b"")),
            protocol,
        ),
        // §5.1
        ("DATA on an idle stream", on(0, 9, b"x"), protocol),
        (
            "RST_STREAM on an idle stream",
            number(kind::RST_STREAM, 9, 8),
            protocol,
        ),
        ("WINDOW_UPDATE on an idle stream", window(9, 1), protocol),
        ("CONTINUATION on an idle stream", ends(9), protocol),
        (
            "PRIORITY on an idle stream",
            frame(kind::PRIORITY, 0, 9, &[0; 5]),
            Fine,
        ),
        (
            "DATA on a half-closed stream",
            after(half(), on(0, 3, b"x")),
            closed,
        ),
        (
            "HEADERS on a half-closed stream",
            after(half(), half()),
            closed,
        ),
        (
            "CONTINUATION on a half-closed stream",
            after(half(), ends(3)),
            protocol,
        ),
        (
            "WINDOW_UPDATE on a half-closed stream",
            after(half(), window(3, 1)),
            Fine,
        ),
        (
            "PRIORITY on a half-closed stream",
            after(half(), frame(kind::PRIORITY, 0, 3, &[0; 5])),
            Fine,
        ),
        (
            "RST_STREAM on a half-closed stream",
            after(half(), number(kind::RST_STREAM, 3, 8)),
            Fine,
        ),
        (
            "DATA after RST_STREAM",
            after(cancelled(), on(0, 3, b"x")),
            closed,
        ),
        (
            "HEADERS after RST_STREAM",
            after(cancelled(), half()),
            closed,
        ),
        (
            "CONTINUATION after RST_STREAM",
            after(cancelled(), ends(3)),
            protocol,
        ),
        (
            "RST_STREAM twice",
            after(cancelled(), number(kind::RST_STREAM, 3, 8)),
            Fine,
        ),
        (
            "DATA on a closed stream",
            on(0, 1, b"x"),
            Stream(1, code::STREAM_CLOSED),
        ),
        (
            "HEADERS on a closed stream",
            request(1, "/x", true),
            Connection(code::STREAM_CLOSED),
        ),
        ("WINDOW_UPDATE on a closed stream", window(1, 1), Fine),
        (
            "RST_STREAM on a closed stream",
            number(kind::RST_STREAM, 1, 8),
            Fine,
        ),
        (
            "PRIORITY on a closed stream",
            frame(kind::PRIORITY, 0, 1, &[0; 5]),
            Fine,
        ),
        // §5.1.1, RFC 7540 §5.3.1
        ("an even id", request(2, "/x", true), protocol),
        (
            "a smaller id",
            after(request(5, "/x", true), half()),
            protocol,
        ),
        (
            "HEADERS that depend on themselves",
            frame(kind::HEADERS, 0x25, 3, &[SELF, &get].concat()),
            stream,
        ),
        (
            "HEADERS that depend on others",
            frame(kind::HEADERS, 0x25, 5, &[SELF, &get].concat()),
            Fine,
        ),
        (
            "an open stream made to depend on itself",
            after(open(), frame(kind::PRIORITY, 0, 3, SELF)),
            stream,
        ),
        (
            "an idle stream made to depend on itself",
            frame(kind::PRIORITY, 0, 3, SELF),
            protocol,
        ),
        // §6.1, §6.2
        ("DATA on stream 0", on(0, 0, b"x"), protocol),
        (
            "more padding than DATA",
            after(open(), on(flag::PADDED, 3, &[5, 0, 0])),
            protocol,
        ),
        (
            "padding without a length",
            after(open(), on(flag::PADDED, 3, b"")),
            protocol,
        ),
        (
            "padded DATA",
            after(open(), on(flag::PADDED, 3, &[2, 0, 0])),
            Fine,
        ),
        (
            "HEADERS on stream 0",
            frame(kind::HEADERS, 5, 0, &get),
            protocol,
        ),
        (
            "more padding than HEADERS",
            frame(kind::HEADERS, 0x0d, 3, &[200, 0x82]),
            protocol,
        ),
        (
            "PRIORITY in a block",
            after(begun(), frame(kind::PRIORITY, 0, 3, &[0; 5])),
            protocol,
        ),
        (
            "HEADERS of another stream in a block",
            after(begun(), request(5, "/x", true)),
            protocol,
        ),
        // §6.3, §6.4
        (
            "PRIORITY on stream 0",
            frame(kind::PRIORITY, 0, 0, &[0; 5]),
            protocol,
        ),
        (
            "PRIORITY of 4 bytes",
            frame(kind::PRIORITY, 0, 9, &[0; 4]),
            size,
        ),
        (
            "PRIORITY of 4 bytes on an open stream",
            after(open(), frame(kind::PRIORITY, 0, 3, &[0; 4])),
            Stream(3, code::FRAME_SIZE_ERROR),
        ),
        (
            "RST_STREAM on stream 0",
            number(kind::RST_STREAM, 0, 8),
            protocol,
        ),
        (
            "RST_STREAM of 3 bytes",
            after(open(), frame(kind::RST_STREAM, 0, 3, &[0; 3])),
            size,
        ),
        // §6.5
        ("SETTINGS", settings(&[]), Fine),
        (
            "an acknowledgement with a payload",
            frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]),
            size,
        ),
        (
            "SETTINGS on a stream",
            frame(kind::SETTINGS, 0, 3, &[0; 6]),
            protocol,
        ),
        (
            "SETTINGS of 3 bytes",
            frame(kind::SETTINGS, 0, 0, &[0; 3]),
            size,
        ),
        ("ENABLE_PUSH of 2", set(setting::ENABLE_PUSH, 2), protocol),
        ("ENABLE_PUSH of 1", set(setting::ENABLE_PUSH, 1), Fine),
        (
            "a window of 2^31",
            set(setting::INITIAL_WINDOW_SIZE, 1 << 31),
            flow,
        ),
        (
            "frames of 16383",
            set(setting::MAX_FRAME_SIZE, 16_383),
            protocol,
        ),
        (
            "frames of 2^24",
            set(setting::MAX_FRAME_SIZE, 1 << 24),
            protocol,
        ),
        ("an unknown setting", set(0xff, 1), Fine),
        (
            "the same setting twice",
            settings(&[(4, 10), (4, 20)]),
            Fine,
        ),
        // §6.6 to §6.8
        (
            "PUSH_PROMISE",
            frame(kind::PUSH_PROMISE, 4, 3, &[0, 0, 0, 2]),
            protocol,
        ),
        ("PING of 6 bytes", frame(kind::PING, 0, 0, &[0; 6]), size),
        (
            "PING on a stream",
            frame(kind::PING, 0, 3, &[0; 8]),
            protocol,
        ),
        (
            "GOAWAY on a stream",
            frame(kind::GOAWAY, 0, 3, &[0; 8]),
            protocol,
        ),
        (
            "GOAWAY of 7 bytes",
            frame(kind::GOAWAY, 0, 0, &[0; 7]),
            size,
        ),
        ("GOAWAY", frame(kind::GOAWAY, 0, 0, &[0; 8]), Fine),
        // §6.9
        ("a connection's WINDOW_UPDATE of 0", window(0, 0), protocol),
        (
            "a stream's WINDOW_UPDATE of 0",
            after(open(), window(3, 0)),
            stream,
        ),
        (
            "WINDOW_UPDATE of 3 bytes",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]),
            size,
        ),
        (
            "a connection's window too large",
            after(window(0, most), window(0, most)),
            flow,
        ),
        (
            "a stream's window too large",
            after(open(), window(3, most)),
            Stream(3, code::FLOW_CONTROL_ERROR),
        ),
        (
            "a window too large by SETTINGS",
            [open(), window(3, most - 65_535), set(4, 65_536)].concat(),
            flow,
        ),
        ("the largest window", window(0, most - 65_535), Fine),
        // §6.10
        (
            "CONTINUATION",
            [begun(), frame(kind::CONTINUATION, 0, 3, b""), ends(3)].concat(),
            Fine,
        ),
        (
            "CONTINUATION on stream 0",
            after(begun(), ends(0)),
            protocol,
        ),
        (
            "CONTINUATION of another stream",
            after(begun(), ends(5)),
            protocol,
        ),
        (
            "CONTINUATION after the end of a block",
            after(half(), ends(3)),
            protocol,
        ),
        (
            "CONTINUATION after DATA",
            [open(), on(0, 3, b"x"), ends(3)].concat(),
            protocol,
        ),
        // RFC 7541
        (
            "an index of 0",
            frame(kind::HEADERS, 5, 3, &[0x80]),
            Connection(code::COMPRESSION_ERROR),
        ),
        (
            "an index beyond the table",
            frame(kind::HEADERS, 5, 3, &[0xc0]),
            Connection(code::COMPRESSION_ERROR),
        ),
        (
            "EOS in a string",
            frame(
                kind::HEADERS,
                5,
                3,
                &[0, 0x85, 0xff, 0xff, 0xff, 0xff, 0xff, 0],
            ),
            Connection(code::COMPRESSION_ERROR),
        ),
        (
            "a table that is too large",
            frame(kind::HEADERS, 5, 3, &[0x3f, 0xe2, 0x1f]),
            Connection(code::COMPRESSION_ERROR),
        ),
        (
            "a table's size at the end of a block",
            frame(kind::HEADERS, 5, 3, &[&get[..], &[0x20]].concat()),
            Connection(code::COMPRESSION_ERROR),
        ),
    ] {
        let rules = rules();
        let mut relay = Relay::opened(&rules);
        let got = relay.client_sends(&bytes);
        assert_eq!(outcome(&mut relay, got), expected, "{what}");
    }
    for (what, first) in [
        ("PING", frame(kind::PING, 0, 0, &[0; 8])),
        ("HEADERS", half()),
        (
            "an acknowledgement",
            frame(kind::SETTINGS, flag::ACK, 0, b""),
        ),
    ] {
        let rules = rules();
        let mut relay = Relay::fresh(&rules);
        let got = relay.client_sends(&first);
        assert_eq!(outcome(&mut relay, got), protocol, "{what} before SETTINGS");
    }
}

#[test]
fn messages_of_a_client() {
    let post = |length: &str, more: Vec<u8>| {
        let head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/x"),
            ("content-length", length),
        ];
        [fields(3, more.is_empty(), &head), more].concat()
    };
    let trailers =
        |list: &[(&str, &str)], end| [request(3, "/x", false), fields(3, end, list)].concat();
    let wrong = Stream(3, code::PROTOCOL_ERROR);
    let end = flag::END_STREAM;
    for (what, bytes, expected) in [
        (
            "an ordinary request",
            with(&[("a", "b"), ("te", "trailers")]),
            Fine,
        ),
        ("an uppercase name", with(&[("X-Test", "ok")]), wrong),
        ("an empty name", with(&[("", "ok")]), wrong),
        ("a blank in a name", with(&[("a ", "ok")]), wrong),
        ("an unknown pseudo-header", with(&[(":test", "ok")]), wrong),
        (
            "a response's pseudo-header",
            with(&[(":status", "200")]),
            wrong,
        ),
        (
            "a late pseudo-header",
            with(&[("a", "b"), (":authority", "c")]),
            wrong,
        ),
        ("connection", with(&[("connection", "keep-alive")]), wrong),
        (
            "proxy-connection",
            with(&[("proxy-connection", "x")]),
            wrong,
        ),
        ("keep-alive", with(&[("keep-alive", "1")]), wrong),
        (
            "transfer-encoding",
            with(&[("transfer-encoding", "chunked")]),
            wrong,
        ),
        ("upgrade", with(&[("upgrade", "h2c")]), wrong),
        ("te", with(&[("te", "trailers, deflate")]), wrong),
        ("a control byte in a value", with(&[("a", "b\u{1}")]), wrong),
        ("DEL in a value", with(&[("a", "\u{7f}b")]), wrong),
        ("NUL in a value", with(&[("a", "b\0c")]), wrong),
        ("a line end in a value", with(&[("a", "b\r\nc: d")]), wrong),
        (
            "a line end in a path",
            fields(
                3,
                true,
                &[(":method", "GET"), (":scheme", "http"), (":path", "/x\r\n")],
            ),
            wrong,
        ),
        (
            "an empty path",
            fields(
                3,
                true,
                &[(":method", "GET"), (":scheme", "http"), (":path", "")],
            ),
            wrong,
        ),
        (
            "no method",
            fields(3, true, &[(":scheme", "http"), (":path", "/x")]),
            wrong,
        ),
        (
            "no scheme",
            fields(3, true, &[(":method", "GET"), (":path", "/x")]),
            wrong,
        ),
        (
            "no path",
            fields(3, true, &[(":method", "GET"), (":scheme", "http")]),
            wrong,
        ),
        ("two methods", with(&[(":method", "GET")]), wrong),
        ("two schemes", with(&[(":scheme", "http")]), wrong),
        ("two paths", with(&[(":path", "/y")]), wrong),
        (
            "a URL as scheme",
            fields(
                3,
                true,
                &[
                    (":method", "GET"),
                    (":scheme", "http://a/x?"),
                    (":path", "/x"),
                ],
            ),
            wrong,
        ),
        ("no body, and a length", post("1", vec![]), wrong),
        ("a length of 0", post("0", vec![]), Fine),
        (
            "a body as long as announced",
            post("2", on(end, 3, b"ab")),
            Fine,
        ),
        (
            "a body in pieces",
            post("2", [on(0, 3, b"a"), on(end, 3, b"b")].concat()),
            Fine,
        ),
        (
            "a padded body",
            post("2", on(end | flag::PADDED, 3, &[3, 1, 1, 0, 0, 0])),
            Fine,
        ),
        ("a longer body", post("1", on(0, 3, b"ab")), wrong),
        (
            "a longer body in pieces",
            post("1", [on(0, 3, b"a"), on(end, 3, b"b")].concat()),
            wrong,
        ),
        ("a shorter body", post("3", on(end, 3, b"ab")), wrong),
        (
            "a shorter body with trailers",
            post(
                "3",
                [on(0, 3, b"ab"), fields(3, true, &[("a", "b")])].concat(),
            ),
            wrong,
        ),
        ("a negative length", post("-1", on(end, 3, b"ab")), wrong),
        (
            "a length that is none",
            post("2x", on(end, 3, b"ab")),
            wrong,
        ),
        (
            "two lengths",
            with(&[("content-length", "0"), ("content-length", "0")]),
            wrong,
        ),
        ("trailers", trailers(&[("a", "b")], true), Fine),
        (
            "trailers without an end",
            trailers(&[("a", "b")], false),
            wrong,
        ),
        (
            "an uppercase name in trailers",
            trailers(&[("A", "b")], true),
            wrong,
        ),
        (
            "a pseudo-header in trailers",
            trailers(&[(":path", "/y")], true),
            wrong,
        ),
    ] {
        let rules = rules();
        let mut relay = Relay::opened(&rules);
        let got = relay.client_sends(&bytes);
        assert_eq!(outcome(&mut relay, got), expected, "{what}");
        // The connection goes on, and the tables are in step.
        relay.client_sends(&request(5, "/x", true)).expect(what);
        assert!(relay.taken().1.ends_with("HEADERS 5*"), "{what}");
    }
}

#[test]
fn frames_of_upstream() {
    let head = |list: &[(&str, &str)], end| fields(3, end, &[&[(":status", "200")], list].concat());
    let end = flag::END_STREAM;
    let broken = Connection(code::INTERNAL_ERROR);
    let reset = Stream(3, code::PROTOCOL_ERROR);
    let after = |more: Vec<u8>| [head(&[], false), more].concat();
    for (what, bytes, expected, status) in [
        ("an answer", after(on(end, 3, b"x")), Fine, "200"),
        (
            "trailers",
            after(fields(3, true, &[("a", "b")])),
            Fine,
            "200",
        ),
        (
            "an unknown type",
            [frame(0x63, 0, 3, b"x"), head(&[], true)].concat(),
            Fine,
            "200",
        ),
        (
            "an interim answer",
            [fields(3, false, &[(":status", "103")]), head(&[], true)].concat(),
            Fine,
            "200",
        ),
        ("DATA on an idle stream", on(0, 9, b"x"), broken, ""),
        ("DATA on an even stream", on(0, 2, b"x"), broken, ""),
        ("HEADERS on an idle stream", response(9, true), broken, ""),
        (
            "RST_STREAM on an idle stream",
            number(kind::RST_STREAM, 9, 8),
            broken,
            "",
        ),
        (
            "a frame that is too long",
            on(0, 3, &[0; 16_385]),
            broken,
            "",
        ),
        (
            "PUSH_PROMISE",
            frame(kind::PUSH_PROMISE, 4, 3, &[0, 0, 0, 2]),
            broken,
            "",
        ),
        (
            "ENABLE_PUSH of 1",
            settings(&[(setting::ENABLE_PUSH, 1)]),
            broken,
            "",
        ),
        (
            "SETTINGS of 3 bytes",
            frame(kind::SETTINGS, 0, 0, &[0; 3]),
            broken,
            "",
        ),
        (
            "an undecodable block",
            frame(kind::HEADERS, 5, 3, &[0x80]),
            broken,
            "",
        ),
        (
            "CONTINUATION alone",
            frame(kind::CONTINUATION, 4, 3, b""),
            broken,
            "",
        ),
        (
            "a WINDOW_UPDATE of 0",
            number(kind::WINDOW_UPDATE, 0, 0),
            broken,
            "",
        ),
        (
            "a stream's WINDOW_UPDATE of 0",
            number(kind::WINDOW_UPDATE, 3, 0),
            reset,
            "0",
        ),
        ("no status", fields(3, true, &[("a", "b")]), Fine, "502"),
        (
            "a request's pseudo-header",
            head(&[(":path", "/")], true),
            Fine,
            "502",
        ),
        ("an uppercase name", head(&[("A", "b")], true), Fine, "502"),
        (
            "connection",
            head(&[("connection", "close")], true),
            Fine,
            "502",
        ),
        ("a control byte", head(&[("a", "\u{1}")], true), Fine, "502"),
        ("DATA first", on(end, 3, b"x"), Fine, "502"),
        (
            "an interim answer that ends",
            fields(3, true, &[(":status", "100")]),
            Fine,
            "502",
        ),
        (
            "a length and no body",
            head(&[("content-length", "3")], true),
            Fine,
            "502",
        ),
        (
            "a longer body",
            [head(&[("content-length", "1")], false), on(end, 3, b"ab")].concat(),
            reset,
            "200",
        ),
        (
            "a shorter body",
            [head(&[("content-length", "3")], false), on(end, 3, b"ab")].concat(),
            reset,
            "200",
        ),
        (
            "trailers without an end",
            after(fields(3, false, &[("a", "b")])),
            reset,
            "200",
        ),
        (
            "a pseudo-header in trailers",
            after(fields(3, true, &[(":status", "200")])),
            reset,
            "200",
        ),
    ] {
        let rules = rules();
        let mut relay = Relay::opened(&rules);
        relay.client_sends(&request(3, "/x", true)).expect(what);
        relay.taken();
        let got = relay.upstream_sends(&bytes);
        assert_eq!(outcome(&mut relay, got), expected, "{what}");
        let records = rules.records.borrow();
        let line = records.get(1).map_or("", String::as_str);
        let told = line.split(' ').nth(3).unwrap_or_default();
        assert_eq!(told, status, "{what}: {line}");
    }
    let rules = rules();
    let mut relay = Relay::opened(&rules);
    let head = [(":method", "HEAD"), (":scheme", "http"), (":path", "/x")];
    relay.client_sends(&fields(3, true, &head)).expect("valid");
    relay.taken();
    let answer = fields(3, true, &[(":status", "200"), ("content-length", "9")]);
    relay.upstream_sends(&answer).expect("valid");
    assert_eq!(
        relay.taken().0,
        "HEADERS 3*",
        "an answer to HEAD has no body"
    );
}
