//! The relay's core, frame by frame.

mod conformance;

use std::{io, time::Instant};

use proptest::prelude::*;
use tidegate_wire::http2::{
    BlockEncoder, Frame, USUAL_LIST,
    frame::{HEAD, PREFACE, code, flag, kind, setting, write_block, write_number, write_settings},
};

use super::{Fault, relay::Relay};
use crate::http::tests::Rules;

fn rules() -> Rules {
    Rules::new(([127, 0, 0, 1], 9).into())
}

fn write(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    write(|out| write_settings(pairs, out))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    write(|out| {
        let head = Frame {
            length: payload.len() as u32,
            kind,
            flags,
            stream,
        };
        head.write(out);
        out.extend_from_slice(payload);
    })
}

fn number(kind: u8, stream: u32, value: u32) -> Vec<u8> {
    write(|out| write_number(kind, stream, value, out))
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut encoder = BlockEncoder::default();
    for (name, value) in fields {
        encoder.field(name.as_bytes(), value.as_bytes());
    }
    encoder.finish()
}

fn request(stream: u32, path: &str, end: bool) -> Vec<u8> {
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", path)];
    write(|out| write_block(stream, end, &block(&fields), out))
}

fn response(stream: u32, end: bool) -> Vec<u8> {
    write(|out| write_block(stream, end, &block(&[(":status", "200")]), out))
}

/// Feeds a side until it wants more.
fn feed(
    mut input: &[u8],
    mut step: impl FnMut(&[u8]) -> Result<usize, Fault>,
) -> Result<usize, Fault> {
    let whole = input.len();
    loop {
        match step(input)? {
            0 => return Ok(whole - input.len()),
            count => input = &input[count..],
        }
    }
}

impl Relay<'_, Rules> {
    fn client_sends(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        feed(bytes, |input| self.feed_client(input))
    }

    /// [`Self::client_sends`], where upstream opens as soon as it is asked; how much was
    /// taken.
    fn through(&mut self, bytes: &[u8]) -> usize {
        let taken = self.client_sends(bytes).expect("valid");
        match self.greeting() {
            None => taken,
            Some(_) => {
                self.open();
                taken + self.client_sends(&bytes[taken..]).expect("valid")
            }
        }
    }

    fn upstream_sends(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        feed(bytes, |input| self.feed_upstream(input))
    }

    fn fresh(rules: &Rules) -> Relay<'_, Rules> {
        Relay::new(rules, Instant::now(), USUAL_LIST as u32)
    }

    /// Upstream is there since stream 1, which is over, and nothing waits.
    fn opened(rules: &Rules) -> Relay<'_, Rules> {
        Self::opened_by(rules, &[], &[])
    }

    fn opened_by<'r>(
        rules: &'r Rules,
        client: &[(u16, u32)],
        upstream: &[(u16, u32)],
    ) -> Relay<'r, Rules> {
        let mut relay = Relay::fresh(rules);
        relay.client_sends(&settings(client)).expect("greeting");
        relay
            .client_sends(&request(1, "/x", true))
            .expect("request");
        relay.open();
        relay.upstream_sends(&settings(upstream)).expect("greeting");
        relay.upstream_sends(&response(1, true)).expect("response");
        relay.taken();
        assert!(relay.is_idle());
        relay
    }

    /// What came out for client and upstream, one line per frame.
    fn taken(&mut self) -> (String, String) {
        self.open();
        let both = [&mut self.to_client, &mut self.to_upstream].map(|outbox| {
            let text = describe(outbox.unsent());
            outbox.mark_sent(usize::MAX);
            text
        });
        let [client, upstream] = both;
        (client, upstream)
    }
}

/// `KIND stream[*] length`, the star for END_STREAM.
fn describe(mut bytes: &[u8]) -> String {
    let mut lines = Vec::new();
    while let Some(frame) = Frame::parse(bytes) {
        let name = match frame.kind {
            kind::DATA => "DATA",
            kind::HEADERS => "HEADERS",
            kind::RST_STREAM => "RST",
            kind::SETTINGS => "SETTINGS",
            kind::PING => "PING",
            kind::WINDOW_UPDATE => "WINDOW",
            _ => "OTHER",
        };
        let end = frame.has(flag::END_STREAM) && frame.kind <= kind::HEADERS;
        let payload = &bytes[HEAD..HEAD + frame.length as usize];
        let detail = match *payload {
            [a, b, c, d] if frame.kind != kind::DATA => {
                u32::from_be_bytes([a, b, c, d]).to_string()
            }
            _ if frame.kind == kind::HEADERS => String::new(),
            _ => format!("[{}]", payload.len()),
        };
        let star = if end { "*" } else { "" };
        lines.push(
            format!("{name} {}{star} {detail}", frame.stream)
                .trim_end()
                .to_owned(),
        );
        bytes = &bytes[HEAD + payload.len()..];
    }
    assert!(bytes.is_empty(), "half a frame");
    lines.join(", ")
}

/// What upstream is sent first, of a client that announced these settings.
fn first_words(announced: &[(u16, u32)]) -> Vec<u8> {
    let rules = rules();
    let mut relay = Relay::fresh(&rules);
    relay.client_sends(&settings(announced)).expect("valid");
    assert_eq!(relay.to_upstream.unsent(), b"", "not before a request");
    let sent = relay.client_sends(&request(1, "/x", true)).expect("valid");
    assert!(sent > 0, "taken");
    let greeting = relay.greeting().expect("upstream is wanted").to_vec();
    let preface = greeting.strip_prefix(PREFACE).expect("a preface");
    let waiting = relay.client_sends(&request(3, "/x", true)).expect("valid");
    assert_eq!(waiting, 0, "upstream has to greet first");
    preface.to_vec()
}

#[test]
fn push_is_forbidden_and_only_what_is_known_is_announced() {
    let list = (setting::MAX_HEADER_LIST_SIZE, USUAL_LIST as u32);
    let push = (setting::ENABLE_PUSH, 0);
    assert_eq!(first_words(&[]), settings(&[push, list]));
    let offered = [
        (setting::ENABLE_PUSH, 1),
        (setting::HEADER_TABLE_SIZE, 1 << 30),
        (setting::MAX_FRAME_SIZE, 1 << 20),
        (setting::INITIAL_WINDOW_SIZE, 7),
        (0x4745, 0x5420_2f61),
        (setting::INITIAL_WINDOW_SIZE, 8),
    ];
    let window = (setting::INITIAL_WINDOW_SIZE, 8);
    assert_eq!(first_words(&offered), settings(&[push, window, list]));
}

#[test]
fn upstream_gets_nothing_before_the_first_allowed_request() {
    let rules = rules();
    let mut relay = Relay::fresh(&rules);
    for bytes in [
        settings(&[(setting::INITIAL_WINDOW_SIZE, 70_000)]),
        frame(0x63, 0, 0, b"GET /admin/x HTTP/1.1\r\n\r\n"),
        frame(0xff, 0xff, 7, b"GET /admin/x HTTP/1.1\r\n\r\n"),
        frame(kind::SETTINGS, flag::ACK, 0, b""),
        frame(kind::PING, 0, 0, b"\r\nGET /\r"),
        frame(kind::PING, flag::ACK, 0, b"\r\nGET /\r"),
        frame(
            kind::GOAWAY,
            0,
            0,
            b"\0\0\0\0\0\0\0\0GET / HTTP/1.1\r\n\r\n",
        ),
        frame(kind::PRIORITY, 0, 9, b"GET /"),
        number(kind::WINDOW_UPDATE, 0, 100_000),
        request(1, "/denied", false),
        frame(kind::DATA, 0, 1, b"GET /admin/x HTTP/1.1\r\n\r\n"),
        request(3, "no path", true),
    ] {
        let taken = relay.client_sends(&bytes).expect("valid");
        assert_eq!(taken, bytes.len());
        assert_eq!(relay.to_upstream.unsent(), b"");
        assert_eq!(relay.greeting(), None);
    }
    let got = relay.taken().0;
    let ours = "SETTINGS 0 [12], SETTINGS 0 [0], PING 0 [8], HEADERS 1, DATA 1* [15], RST 1 0, \
                WINDOW 0 25, RST 3 1";
    assert_eq!(got, ours);
    relay.client_sends(&request(5, "/x", true)).expect("valid");
    let greeting = relay.greeting().expect("wanted").to_vec();
    let kept = 16 * 1024;
    assert_eq!(
        greeting[PREFACE.len()..],
        [
            settings(&[
                (setting::ENABLE_PUSH, 0),
                (setting::INITIAL_WINDOW_SIZE, 70_000),
                (setting::MAX_HEADER_LIST_SIZE, USUAL_LIST as u32),
            ]),
            number(kind::WINDOW_UPDATE, 0, 100_000 - kept),
        ]
        .concat()
    );
    // There is no such server: the request that may pass is answered, and later ones.
    relay.give_up(io::Error::other("it does not speak HTTP/2").into());
    relay.client_sends(&request(7, "/x", true)).expect("valid");
    let (client, upstream) = relay.taken();
    assert_eq!(client, "HEADERS 5, DATA 5* [22], HEADERS 7, DATA 7* [22]");
    assert_eq!(upstream, "");
}

#[test]
fn a_refused_stream_stays_between_us_and_the_client() {
    let rules = rules();
    let mut relay = Relay::opened(&rules);
    relay
        .client_sends(&request(3, "/denied", false))
        .expect("valid");
    let (client, upstream) = relay.taken();
    assert_eq!(
        (client.as_str(), upstream.as_str()),
        ("HEADERS 3*, RST 3 0", "")
    );
    for late in [
        frame(kind::DATA, 0, 3, &[0; 500]),
        frame(kind::DATA, flag::PADDED, 3, &[99; 100]),
        number(kind::WINDOW_UPDATE, 3, 1000),
        request(3, "/trailers-of-3", true),
        number(kind::RST_STREAM, 3, code::CANCEL),
    ] {
        relay.client_sends(&late).expect("valid");
    }
    let (client, upstream) = relay.taken();
    assert_eq!(
        client, "WINDOW 0 500, WINDOW 0 100",
        "credit for what upstream never got"
    );
    assert_eq!(upstream, "");
    relay.client_sends(&request(5, "/x", true)).expect("valid");
    assert_eq!(relay.taken().1, "HEADERS 5*");
}

#[test]
fn bodies_of_refusals_come_out_of_a_reserve() {
    let rules = rules();
    let mut relay = Relay::opened(&rules);
    relay
        .client_sends(&number(kind::WINDOW_UPDATE, 0, 20))
        .expect("valid");
    assert_eq!(relay.taken().1, "", "kept back");
    relay
        .client_sends(&request(3, "/denied", true))
        .expect("valid");
    assert_eq!(relay.taken().0, "HEADERS 3, DATA 3* [15]");
    relay
        .client_sends(&request(5, "/denied", true))
        .expect("valid");
    assert_eq!(relay.taken().0, "HEADERS 5*", "5 bytes are not enough");
    relay
        .client_sends(&number(kind::WINDOW_UPDATE, 0, 100_000))
        .expect("valid");
    let kept = 16 * 1024 - 5;
    assert_eq!(relay.taken().1, format!("WINDOW 0 {}", 100_000 - kept));
    // A stream window that is too small counts as well.
    relay
        .client_sends(&settings(&[(setting::INITIAL_WINDOW_SIZE, 14)]))
        .expect("valid");
    relay
        .client_sends(&request(7, "/denied", true))
        .expect("valid");
    assert_eq!(relay.taken().0, "HEADERS 7*");
}

#[test]
fn our_frames_wait_for_the_end_of_a_passing_one() {
    let rules = rules();
    let mut relay = Relay::opened(&rules);
    relay.client_sends(&request(3, "/x", true)).expect("valid");
    relay.upstream_sends(&response(3, false)).expect("valid");
    let data = frame(kind::DATA, flag::END_STREAM, 3, &[7; 1000]);
    relay.upstream_sends(&data[..300]).expect("valid");
    relay
        .client_sends(&request(5, "/denied", true))
        .expect("valid");
    relay.upstream_sends(&data[300..]).expect("valid");
    assert_eq!(relay.taken().0, "HEADERS 3, DATA 3* [1000], HEADERS 5*");
    assert!(relay.is_idle(), "both streams are forgotten");
}

#[test]
fn a_smaller_table_is_announced_before_our_own_block() {
    let rules = rules();
    let mut relay = Relay::opened(&rules);
    let smaller = settings(&[(setting::HEADER_TABLE_SIZE, 10)]);
    relay.client_sends(&smaller).expect("valid");
    relay.taken();
    for (stream, first) in [(3, 0x20 | 10), (5, 0x18)] {
        let denied = request(stream, "/denied", true);
        relay.client_sends(&denied).expect("valid");
        assert_eq!(relay.to_client.unsent()[HEAD], first);
        relay.taken();
    }
}

#[test]
fn a_few_bytes_stay_few() {
    let rules = rules();
    // One entry fills the table; each of many requests has it 15 times.
    let mut first = vec![0x82, 0x86, 0x84, 0x40, 1, b'a', 0x7f, 0x81, 0x1e];
    first.extend_from_slice(&[b'x'; 3968]);
    let again = [&[0x82, 0x86, 0x84][..], &[0xbe; 15]].concat();
    for (table, expected) in [(None, Ok(())), (Some(0), Err(code::ENHANCE_YOUR_CALM))] {
        let announced: Vec<_> = table
            .map(|size| (setting::HEADER_TABLE_SIZE, size))
            .into_iter()
            .collect();
        let mut relay = Relay::opened_by(&rules, &[], &announced);
        let (mut received, mut sent) = (0, 0);
        let mut outcome = Ok(());
        for n in 0..1500_u32 {
            let block = if n == 0 { &first } else { &again };
            let bytes = write(|out| write_block(2 * n + 3, true, block, out));
            received += bytes.len();
            if let Err(fault) = relay.client_sends(&bytes) {
                outcome = Err(fault.code);
                break;
            }
            sent += relay.to_upstream.unsent().len();
            relay.taken();
        }
        assert_eq!(outcome, expected, "with a table of {table:?}");
        assert!(sent <= 10 * received + 512 * 1024, "{sent} for {received}");
        if outcome.is_ok() {
            assert!(sent <= 2 * received, "{sent} for {received}");
        }
    }
}

#[test]
fn open_requests_of_one_connection_take_bounded_memory() {
    let rules = rules();
    let mut relay = Relay::opened(&rules);
    let path = format!("/{}", "x".repeat(4_000));
    let mut refused = 0;
    for n in 0..1300 {
        relay
            .client_sends(&request(2 * n + 3, &path, true))
            .expect("valid");
        refused += relay.taken().0.matches(" 7").count();
    }
    assert!((500..1000).contains(&refused), "{refused} were refused");
    let records = rules.records.borrow();
    let told = records
        .iter()
        .filter(|line| line.contains("(too many open requests)"));
    assert_eq!(told.count(), refused);
}

#[test]
fn a_client_that_credits_late_is_served() {
    let rules = rules();
    let mut relay = Relay::opened(&rules);
    relay.client_sends(&request(3, "/x", true)).expect("valid");
    relay.upstream_sends(&response(3, false)).expect("valid");
    let mut upstream = 65_535_usize;
    for round in 0..10 {
        let mut got = 0;
        while upstream > 0 {
            let piece = upstream.min(8_192);
            upstream -= piece;
            got += piece;
            relay
                .upstream_sends(&frame(kind::DATA, 0, 3, &vec![0; piece]))
                .expect("valid");
            upstream += credit(&relay.taken().1);
        }
        assert_eq!(got, 65_535, "round {round}");
        relay
            .client_sends(&number(kind::WINDOW_UPDATE, 0, 65_535))
            .expect("valid");
        relay
            .client_sends(&number(kind::WINDOW_UPDATE, 3, 65_535))
            .expect("valid");
        upstream += credit(&relay.taken().1);
    }
}

/// The connection's credit among frames as [`describe`] writes them.
fn credit(frames: &str) -> usize {
    let updates = frames
        .split(", ")
        .filter_map(|line| line.strip_prefix("WINDOW 0 "));
    updates
        .map(|credit| credit.parse::<usize>().expect("a number"))
        .sum()
}

#[test]
fn metadata_beyond_the_limit_costs_its_stream_alone() {
    let rules = rules();
    let mut relay = Relay::opened(&rules);
    relay.client_sends(&request(3, "/x", true)).expect("valid");
    let with = |length: usize| {
        let long = "x".repeat(length);
        let fields = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/x"),
            ("m", &long),
        ];
        block(&fields)
    };
    relay
        .client_sends(&write(|out| write_block(5, true, &with(33_000), out)))
        .expect("valid");
    assert!(relay.taken().1.contains("HEADERS 5*"), "within the limit");
    relay
        .client_sends(&write(|out| write_block(7, true, &with(200_000), out)))
        .expect("valid");
    assert_eq!(relay.taken(), ("HEADERS 7*".to_owned(), String::new()));
    assert_eq!(
        rules.records.borrow().last().map(String::as_str),
        Some("HTTP/2   431 refused (header list too large)")
    );
    relay
        .client_sends(&request(9, "/x", true))
        .expect("the connection goes on");
    assert_eq!(relay.taken().1, "HEADERS 9*");
}

#[test]
fn the_longest_header_list_is_the_one_that_was_chosen() {
    for list in [4_096, 131_072] {
        let rules = rules();
        let mut relay = Relay::new(&rules, Instant::now(), list);
        let announced = (setting::MAX_HEADER_LIST_SIZE, list);
        let streams = (setting::MAX_CONCURRENT_STREAMS, 100);
        assert_eq!(relay.to_client.unsent(), settings(&[streams, announced]));
        relay.client_sends(&settings(&[])).expect("greeting");
        for (id, size) in [(1, list), (3, list + 1)] {
            let mut fields = vec![(":method", "GET"), (":scheme", "http"), (":path", "/x")];
            let others = fields
                .iter()
                .map(|(name, value)| name.len() + value.len() + 32);
            let long = "x".repeat(size as usize - others.sum::<usize>() - 33);
            fields.push(("m", &long));
            let sent = write(|out| write_block(id, true, &block(&fields), out));
            assert_eq!(relay.through(&sent), sent.len());
        }
        assert!(relay.taken().1.contains("HEADERS 1*"), "{list}");
        let records = rules.records.borrow();
        let last = records.last().map(String::as_str);
        assert_eq!(
            last,
            Some("HTTP/2   431 refused (header list too large)"),
            "{list}"
        );
    }
}

#[test]
fn floods_end_and_use_does_not() {
    let flood = |what: &str, bytes: Vec<u8>| {
        let rules = rules();
        let mut relay = Relay::opened(&rules);
        relay
            .client_sends(&request(3, "/denied", false))
            .expect("valid");
        relay.client_sends(&request(5, "/x", false)).expect("valid");
        let mut ended = Err(());
        for n in 0..10_000 {
            if let Err(fault) = relay.client_sends(&bytes) {
                assert_eq!(fault.code, code::ENHANCE_YOUR_CALM, "{what}");
                ended = Ok(n);
                break;
            }
            // Whoever is told something reads it, here.
            relay.taken();
        }
        let frames = ended.unwrap_or_else(|()| panic!("{what} goes on"));
        assert!(frames <= 2_100, "{what}: {frames}");
    };
    let open = frame(kind::HEADERS, 0, 7, b"");
    for (what, bytes) in [
        ("HEADERS on a refused stream", request(3, "/x", false)),
        (
            "empty DATA on a refused stream",
            frame(kind::DATA, 0, 3, b""),
        ),
        ("DATA on a refused stream", frame(kind::DATA, 0, 3, b"x")),
        ("empty DATA", frame(kind::DATA, 0, 5, b"")),
        (
            "RST_STREAM on a closed stream",
            number(kind::RST_STREAM, 1, 0),
        ),
        ("PRIORITY", frame(kind::PRIORITY, 0, 9, &[0; 5])),
        ("PING", frame(kind::PING, 0, 0, &[0; 8])),
        (
            "PING that acknowledges",
            frame(kind::PING, flag::ACK, 0, &[0; 8]),
        ),
        ("SETTINGS", settings(&[])),
        (
            "SETTINGS that acknowledge",
            frame(kind::SETTINGS, flag::ACK, 0, b""),
        ),
        ("WINDOW_UPDATE", number(kind::WINDOW_UPDATE, 0, 1)),
        (
            "WINDOW_UPDATE of a closed stream",
            number(kind::WINDOW_UPDATE, 1, 1),
        ),
        ("GOAWAY", frame(kind::GOAWAY, 0, 0, &[0; 8])),
        ("unknown frames", frame(0x99, 0, 0, b"x")),
        ("unknown frames of a stream", frame(0x99, 0, 5, b"")),
    ] {
        flood(what, bytes);
    }
    let rules = rules();
    let mut relay = Relay::opened(&rules);
    relay.client_sends(&open).expect("valid");
    let empty = frame(kind::CONTINUATION, 0, 7, b"").repeat(200);
    let got = relay.client_sends(&empty).map_err(|fault| fault.code);
    assert_eq!(got, Err(code::ENHANCE_YOUR_CALM), "empty CONTINUATION");

    // A long download, with updates and pings for every piece of it.
    let mut relay = Relay::opened(&rules);
    relay.client_sends(&request(3, "/x", true)).expect("valid");
    relay.upstream_sends(&response(3, false)).expect("valid");
    for _ in 0..20_000 {
        relay
            .upstream_sends(&frame(kind::DATA, 0, 3, b"message"))
            .expect("valid");
        for update in [
            number(kind::WINDOW_UPDATE, 0, 7),
            number(kind::WINDOW_UPDATE, 3, 7),
            frame(kind::PING, 0, 0, &[0; 8]),
        ] {
            relay.client_sends(&update).expect("in proportion");
        }
        relay.taken();
    }
}

#[test]
fn what_ends_a_connection() {
    let open = frame(kind::HEADERS, 0, 3, &block(&[(":method", "GET")]));
    let flood = [
        open.clone(),
        frame(kind::CONTINUATION, 0, 3, b"").repeat(200),
    ]
    .concat();
    let long = [
        open.clone(),
        frame(kind::CONTINUATION, 0, 3, &[0; 16_000]).repeat(20),
    ]
    .concat();
    let resets: Vec<u8> = (0..1100)
        .flat_map(|n| {
            let stream = 2 * n + 3;
            [
                request(stream, "/x", true),
                number(kind::RST_STREAM, stream, code::CANCEL),
            ]
            .concat()
        })
        .collect();
    let tables = settings(&[]).repeat(40);
    for (what, bytes, expected) in [
        ("a flood of CONTINUATION", flood, code::ENHANCE_YOUR_CALM),
        ("an endless block", long, code::ENHANCE_YOUR_CALM),
        ("rapid reset", resets, code::ENHANCE_YOUR_CALM),
        ("a flood of SETTINGS", tables, code::ENHANCE_YOUR_CALM),
        (
            "a block interrupted",
            [open, request(5, "/x", true)].concat(),
            code::PROTOCOL_ERROR,
        ),
        (
            "DATA on an idle stream",
            frame(kind::DATA, 0, 9, b"x"),
            code::PROTOCOL_ERROR,
        ),
        (
            "an even stream",
            request(2, "/x", true),
            code::PROTOCOL_ERROR,
        ),
        (
            "a stray CONTINUATION",
            frame(kind::CONTINUATION, 4, 1, b""),
            code::PROTOCOL_ERROR,
        ),
        (
            "an undecodable block",
            frame(kind::HEADERS, 4, 3, &[0xff; 9]),
            code::COMPRESSION_ERROR,
        ),
        (
            "a broken window",
            frame(kind::WINDOW_UPDATE, 0, 0, b"x"),
            code::FRAME_SIZE_ERROR,
        ),
    ] {
        let rules = rules();
        let mut relay = Relay::opened(&rules);
        let got = relay.client_sends(&bytes).map_err(|fault| fault.code);
        assert_eq!(got, Err(expected), "{what}");
    }
    let rules = rules();
    let mut relay = Relay::fresh(&rules);
    assert!(
        relay.client_sends(&request(1, "/x", true)).is_err(),
        "no greeting"
    );
}

/// A little of everything a client may send.
fn conversation() -> Vec<u8> {
    [
        settings(&[(setting::INITIAL_WINDOW_SIZE, 40_000)]),
        number(kind::WINDOW_UPDATE, 0, 50_000),
        request(1, "/x", false),
        frame(kind::PING, 0, 0, &[1; 8]),
        frame(kind::DATA, 0, 1, &[2; 200]),
        request(3, "/denied", false),
        frame(kind::DATA, 0, 3, &[3; 100]),
        frame(kind::DATA, flag::END_STREAM, 1, b"end"),
        frame(0x63, 0, 0, b"unknown"),
        request(5, "/edited", true),
        number(kind::RST_STREAM, 5, code::CANCEL),
    ]
    .concat()
}

proptest! {
    #[test]
    fn bytes_mean_the_same_however_they_arrive(cuts in prop::collection::vec(any::<usize>(), 0..8)) {
        let input = conversation();
        let rules = rules();
        let mut whole = Relay::fresh(&rules);
        whole.through(&input);
        let expected = (whole.to_client.unsent().to_vec(), whole.to_upstream.unsent().to_vec());

        let mut split = Relay::fresh(&rules);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % input.len()).collect();
        ends.push(input.len());
        ends.sort_unstable();
        let mut at = 0;
        for end in ends {
            at += split.through(&input[at..end]);
        }
        prop_assert_eq!(at, input.len());
        prop_assert_eq!((split.to_client.unsent(), split.to_upstream.unsent()), (&*expected.0, &*expected.1));
    }

    #[test]
    fn damaged_bytes_are_survived(
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec(any::<u8>(), 1..12),
        from_upstream in any::<bool>(),
    ) {
        let mut input = conversation();
        let start = at.index(input.len());
        for (byte, damage) in input[start..].iter_mut().zip(with) {
            *byte = damage;
        }
        let rules = rules();
        let mut relay = Relay::fresh(&rules);
        let _ = match from_upstream {
            true => relay.upstream_sends(&input),
            false => relay.client_sends(&input).and_then(|taken| {
                relay.open();
                relay.client_sends(&input[taken..])
            }),
        };
    }
}

/// A tunnel in a stream is held to the request that opened it, whichever end says something;
/// the connection's other streams go on.
#[test]
fn a_tunnel_ends_with_the_first_byte_after_its_request_would_be_refused() {
    let connect = [(":method", "CONNECT"), (":authority", "a:80")];
    let asks = write(|out| write_block(3, false, &block(&connect), out));
    let data = || frame(kind::DATA, 0, 3, b"x");
    for upstream_speaks in [false, true] {
        let rules = rules();
        let mut relay = Relay::opened(&rules);
        relay.client_sends(&asks).expect("valid");
        relay.upstream_sends(&response(3, false)).expect("valid");
        relay.client_sends(&request(5, "/x", false)).expect("valid");
        relay.taken();
        for _ in 0..2 {
            relay.client_sends(&data()).expect("valid");
            relay.upstream_sends(&data()).expect("valid");
            let (to_client, to_upstream) = relay.taken();
            assert!(to_client.contains("DATA 3 [1]"), "{to_client}");
            assert!(to_upstream.contains("DATA 3 [1]"), "{to_upstream}");
        }
        rules.closed.set(true);
        match upstream_speaks {
            true => relay.upstream_sends(&data()),
            false => relay.client_sends(&data()),
        }
        .expect("the connection goes on");
        let (to_client, to_upstream) = relay.taken();
        assert!(!to_client.contains("DATA"), "{to_client}");
        assert!(!to_upstream.contains("DATA"), "{to_upstream}");
        assert!(to_client.contains("RST 3 10"), "{to_client}");
        assert!(to_upstream.contains("RST 3 8"), "{to_upstream}");
        relay.upstream_sends(&response(5, true)).expect("valid");
        assert!(relay.taken().0.contains("HEADERS 5*"), "the other stream");
        let records = rules.records.borrow();
        let refused = "HTTP/2 CONNECT http://a:80 0 refused (the rules of its tunnel have changed)";
        assert!(records.contains(&refused.to_owned()), "{records:?}");
    }
}
