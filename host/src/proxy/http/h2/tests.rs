//! The relay's core, frame by frame.

use proptest::prelude::*;
use tidegate_wire::http2::{
    BlockEncoder, Frame,
    frame::{HEAD, code, flag, kind, setting, write_block, write_number, write_settings},
};

use super::{Fault, relay::Relay};
use crate::proxy::http::tests::Rules;

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

    fn upstream_sends(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        feed(bytes, |input| self.feed_upstream(input))
    }

    /// Both sides have greeted, and their greetings are out of the way.
    fn greeted(rules: &Rules) -> Relay<'_, Rules> {
        let mut relay = Relay::new(rules);
        relay.client_sends(&settings(&[])).expect("greeting");
        relay.upstream_sends(&settings(&[])).expect("greeting");
        relay.taken();
        relay
    }

    /// What came out for client and upstream, one line per frame.
    fn taken(&mut self) -> (String, String) {
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

#[test]
fn push_is_forbidden_and_tables_are_bounded() {
    let rules = rules();
    let mut relay = Relay::new(&rules);
    let offered = [
        (setting::ENABLE_PUSH, 1),
        (setting::HEADER_TABLE_SIZE, 1 << 30),
        (3, 7),
    ];
    relay.client_sends(&settings(&offered)).expect("valid");
    let passed = [
        (setting::ENABLE_PUSH, 0),
        (setting::HEADER_TABLE_SIZE, 65_536),
        (3, 7),
    ];
    assert_eq!(relay.to_upstream.unsent(), settings(&passed));

    let mut relay = Relay::new(&rules);
    relay.client_sends(&settings(&[])).expect("valid");
    assert_eq!(
        relay.to_upstream.unsent(),
        settings(&[(setting::ENABLE_PUSH, 0)])
    );
    relay.upstream_sends(&settings(&[])).expect("valid");
    let push = relay.upstream_sends(&frame(
        kind::PUSH_PROMISE,
        flag::END_HEADERS,
        1,
        &[0, 0, 0, 2],
    ));
    assert_eq!(push.map_err(|fault| fault.code), Err(code::PROTOCOL_ERROR));
}

#[test]
fn a_refused_stream_stays_between_us_and_the_client() {
    let rules = rules();
    let mut relay = Relay::greeted(&rules);
    relay
        .client_sends(&request(1, "/denied", false))
        .expect("valid");
    let (client, upstream) = relay.taken();
    assert_eq!(
        (client.as_str(), upstream.as_str()),
        ("HEADERS 1*, RST 1 0", "")
    );
    for late in [
        frame(kind::DATA, 0, 1, &[0; 500]),
        frame(kind::DATA, flag::PADDED, 1, &[99; 100]),
        number(kind::WINDOW_UPDATE, 1, 1000),
        request(1, "/trailers-of-1", true),
        number(kind::RST_STREAM, 1, code::CANCEL),
    ] {
        relay.client_sends(&late).expect("valid");
    }
    let (client, upstream) = relay.taken();
    assert_eq!(
        client, "WINDOW 0 500, WINDOW 0 100",
        "credit for what upstream never got"
    );
    assert_eq!(upstream, "");
    relay.client_sends(&request(3, "/x", true)).expect("valid");
    assert_eq!(relay.taken().1, "HEADERS 3*");
}

#[test]
fn nothing_of_ours_precedes_the_servers_greeting() {
    let rules = rules();
    let mut relay = Relay::new(&rules);
    relay.client_sends(&settings(&[])).expect("valid");
    relay
        .client_sends(&request(1, "/denied", true))
        .expect("valid");
    assert_eq!(relay.taken().0, "", "held back");
    relay.upstream_sends(&settings(&[])).expect("valid");
    assert_eq!(relay.taken().0, "SETTINGS 0 [0], HEADERS 1*");

    let mut relay = Relay::new(&rules);
    relay.say_goodbye(Fault::protocol("as asked"));
    assert!(relay.taken().0.starts_with("SETTINGS 0 [0], OTHER 0"));
}

#[test]
fn bodies_of_refusals_come_out_of_a_reserve() {
    let rules = rules();
    let mut relay = Relay::greeted(&rules);
    relay
        .client_sends(&number(kind::WINDOW_UPDATE, 0, 20))
        .expect("valid");
    assert_eq!(relay.taken().1, "", "kept back");
    relay
        .client_sends(&request(1, "/denied", true))
        .expect("valid");
    assert_eq!(relay.taken().0, "HEADERS 1, DATA 1* [15]");
    relay
        .client_sends(&request(3, "/denied", true))
        .expect("valid");
    assert_eq!(relay.taken().0, "HEADERS 3*", "5 bytes are not enough");
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
        .client_sends(&request(5, "/denied", true))
        .expect("valid");
    assert_eq!(relay.taken().0, "HEADERS 5*");
}

#[test]
fn our_frames_wait_for_the_end_of_a_passing_one() {
    let rules = rules();
    let mut relay = Relay::greeted(&rules);
    relay.client_sends(&request(1, "/x", true)).expect("valid");
    relay.upstream_sends(&response(1, false)).expect("valid");
    let data = frame(kind::DATA, flag::END_STREAM, 1, &[7; 1000]);
    relay.upstream_sends(&data[..300]).expect("valid");
    relay
        .client_sends(&request(3, "/denied", true))
        .expect("valid");
    relay.upstream_sends(&data[300..]).expect("valid");
    assert_eq!(relay.taken().0, "HEADERS 1, DATA 1* [1000], HEADERS 3*");
    assert!(relay.is_idle(), "both streams are forgotten");
}

#[test]
fn a_smaller_table_is_announced_before_our_own_block() {
    let rules = rules();
    let mut relay = Relay::greeted(&rules);
    relay
        .upstream_sends(&frame(kind::SETTINGS, flag::ACK, 0, &[]))
        .expect("valid");
    relay
        .client_sends(&settings(&[(setting::HEADER_TABLE_SIZE, 10)]))
        .expect("valid");
    relay
        .upstream_sends(&frame(kind::SETTINGS, flag::ACK, 0, &[]))
        .expect("valid");
    relay.taken();
    for (stream, first) in [(1, 0x20 | 10), (3, 0x18)] {
        relay
            .client_sends(&request(stream, "/denied", true))
            .expect("valid");
        assert_eq!(relay.to_client.unsent()[HEAD], first);
        relay.taken();
    }
}

#[test]
fn what_ends_a_connection() {
    let open = frame(kind::HEADERS, 0, 1, &block(&[(":method", "GET")]));
    let flood = [
        open.clone(),
        frame(kind::CONTINUATION, 0, 1, b"").repeat(40),
    ]
    .concat();
    let long = [
        open.clone(),
        frame(kind::CONTINUATION, 0, 1, &[0; 30_000]).repeat(3),
    ]
    .concat();
    let resets: Vec<u8> = (0..1100)
        .flat_map(|n| {
            let stream = 2 * n + 1;
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
            [open, request(3, "/x", true)].concat(),
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
            frame(kind::HEADERS, 4, 1, &[0xff; 9]),
            code::COMPRESSION_ERROR,
        ),
        (
            "a broken window",
            frame(kind::WINDOW_UPDATE, 0, 0, b"x"),
            code::FRAME_SIZE_ERROR,
        ),
    ] {
        let rules = rules();
        let mut relay = Relay::greeted(&rules);
        let got = relay.client_sends(&bytes).map_err(|fault| fault.code);
        assert_eq!(got, Err(expected), "{what}");
    }
    let rules = rules();
    let mut relay = Relay::new(&rules);
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
        number(kind::RST_STREAM, 1, code::CANCEL),
        request(5, "/edited", true),
    ]
    .concat()
}

proptest! {
    #[test]
    fn bytes_mean_the_same_however_they_arrive(cuts in prop::collection::vec(any::<usize>(), 0..8)) {
        let input = conversation();
        let rules = rules();
        let mut whole = Relay::new(&rules);
        whole.client_sends(&input).expect("valid");
        let expected = (whole.to_client.unsent().to_vec(), whole.to_upstream.unsent().to_vec());

        let mut split = Relay::new(&rules);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % input.len()).collect();
        ends.push(input.len());
        ends.sort_unstable();
        let mut at = 0;
        for end in ends {
            at += split.client_sends(&input[at..end]).expect("valid");
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
        let mut relay = Relay::new(&rules);
        let _ = match from_upstream {
            true => relay.upstream_sends(&input),
            false => relay.client_sends(&input),
        };
    }
}
