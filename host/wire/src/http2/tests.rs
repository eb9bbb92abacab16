use proptest::prelude::*;

use super::*;
use crate::http::HeaderEdit;

fn encode(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut encoder = BlockEncoder::default();
    for (name, value) in fields {
        encoder.field(name.as_bytes(), value.as_bytes());
    }
    encoder.finish()
}

fn decode(block: &[u8]) -> Vec<(String, String)> {
    let fields = BlockDecoder::default().decode(block).expect("valid block");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    fields.iter().map(|(n, v)| (text(n), text(v))).collect()
}

fn read(fields: &[(&str, &str)]) -> Result<String, Malformed> {
    let fields = BlockDecoder::default()
        .decode(&encode(fields))
        .expect("valid block");
    let request = Request::read(&fields)?;
    Ok(format!(
        "{} {} {}",
        request.method, request.authority, request.path
    ))
}

const GET: [(&str, &str); 3] = [(":method", "GET"), (":scheme", "http"), (":path", "/x")];

fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&GET[..], more].concat()
}

#[test]
fn requests() {
    use Malformed::*;
    let check = |fields: &[(&str, &str)], expected: Result<&str, Malformed>| {
        assert_eq!(
            read(fields).as_deref(),
            expected.as_ref().copied(),
            "for {fields:?}"
        );
    };
    check(&with(&[(":authority", "a")]), Ok("GET a /x"));
    check(&with(&[("host", "b:1")]), Ok("GET b:1 /x"));
    check(&with(&[(":authority", "a"), ("host", "A")]), Ok("GET a /x"));
    check(&with(&[("te", "trailers")]), Ok("GET  /x"));
    check(
        &[(":method", "CONNECT"), (":authority", "a:1")],
        Ok("CONNECT a:1 "),
    );
    check(
        &[(":method", "OPTIONS"), (":scheme", "http"), (":path", "*")],
        Ok("OPTIONS  *"),
    );
    check(
        &[
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":path", "/ws"),
            (":authority", "a"),
        ],
        Ok("CONNECT a /ws"),
    );
    check(&with(&[(":authority", "a"), ("host", "b")]), Err(Authority));
    check(&with(&[("host", "a"), ("host", "a")]), Err(Authority));
    check(&with(&[(":authority", "u@a")]), Err(Authority));
    check(&GET[..2], Err(Pseudo));
    check(&with(&[(":path", "/y")]), Err(Pseudo));
    check(&with(&[(":status", "200")]), Err(Pseudo));
    check(&with(&[(":protocol", "websocket")]), Err(Pseudo));
    check(&with(&[("a", "b"), (":authority", "a")]), Err(Pseudo));
    check(
        &[(":method", "G T"), (":scheme", "http"), (":path", "/")],
        Err(Pseudo),
    );
    check(
        &[(":method", "GET"), (":scheme", "http"), (":path", "x")],
        Err(Pseudo),
    );
    check(
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/ HTTP/1.1"),
        ],
        Err(Pseudo),
    );
    check(&with(&[("A", "b")]), Err(Field));
    check(&with(&[("a b", "c")]), Err(Field));
    check(&with(&[("a", "b\r\nc: d")]), Err(Field));
    check(&with(&[("a", " b")]), Err(Field));
    check(&with(&[("connection", "close")]), Err(ConnectionSpecific));
    check(
        &with(&[("transfer-encoding", "chunked")]),
        Err(ConnectionSpecific),
    );
    check(&with(&[("te", "gzip")]), Err(ConnectionSpecific));
}

#[test]
fn a_header_bomb_stays_small() {
    // One field enters the table, then one byte each repeats it.
    let mut block = vec![0x40, 1, b'a', 0x7f, 0xa1, 0x1e];
    block.extend_from_slice(&[b'x'; 4000]);
    block.extend_from_slice(&vec![0xbe; 60_000]);
    let fields = BlockDecoder::default().decode(&block).expect("valid");
    assert!(fields.is_too_large());
    assert!(fields.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>() <= MAX_LIST);
    assert_eq!(Request::read(&fields).err(), Some(Malformed::TooLarge));
}

#[test]
fn edits_apply_to_fields() {
    let fields = BlockDecoder::default()
        .decode(&encode(&with(&[("x-old", "1"), ("a", "b")])))
        .expect("valid");
    let request = Request::read(&fields).expect("request");
    let mut encoder = BlockEncoder::default();
    let edit = HeaderEdit {
        set: vec![("X-New".into(), "2".into())],
        remove: vec!["X-Old".into()],
    };
    encoder.request(&request, "/y", Some(&edit));
    let got = decode(&encoder.finish());
    let got: Vec<_> = got.iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(
        got,
        [":method=GET", ":scheme=http", ":path=/y", "a=b", "x-new=2"]
    );
}

#[test]
fn fragments_lose_padding_and_priority() {
    let frame = |flags| Frame {
        length: 0,
        kind: frame::kind::HEADERS,
        flags,
        stream: 1,
    };
    let both = frame(frame::flag::PADDED | frame::flag::PRIORITY);
    assert_eq!(both.fragment(b"\x02PRIO!blockpp"), Ok(&b"block"[..]));
    assert_eq!(both.fragment(b"\x09PRIO!blockpp"), Err(FrameError));
    assert_eq!(both.fragment(b"\x00PRI"), Err(FrameError));
    assert_eq!(frame(frame::flag::PADDED).fragment(b""), Err(FrameError));
}

proptest! {
    #[test]
    fn what_is_written_is_read(fields in prop::collection::vec(("[:a-z-]{1,20}", "[ -~]{0,200}"), 0..20)) {
        let pairs: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        prop_assert_eq!(decode(&encode(&pairs)), fields);
    }

    #[test]
    fn a_long_block_is_cut_into_frames(length in 0_usize..40_000) {
        let block = vec![7; length];
        let mut out = Vec::new();
        frame::write_block(3, true, &block, &mut out);
        let (mut rest, mut joined) = (&out[..], Vec::new());
        while let Some(head) = Frame::parse(rest) {
            prop_assert!(head.length as usize <= frame::SAFE_PAYLOAD);
            let end = frame::HEAD + head.length as usize;
            joined.extend_from_slice(&rest[frame::HEAD..end]);
            rest = &rest[end..];
            prop_assert_eq!(head.has(frame::flag::END_HEADERS), rest.is_empty());
        }
        prop_assert_eq!(joined, block);
    }

    #[test]
    fn any_bytes_are_survived(input in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz_http2(&input);
    }
}
