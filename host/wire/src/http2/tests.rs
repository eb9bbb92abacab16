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
    check(&with(&[("a", "b\u{1}c")]), Err(Field));
    check(&with(&[("a", "b\u{7f}")]), Err(Field));
    check(&with(&[("a", "b\tc")]), Ok("GET  /x"));
    check(&with(&[("content-length", "5")]), Ok("GET  /x"));
    check(&with(&[("content-length", "-5")]), Err(Length));
    check(&with(&[("content-length", "+5")]), Err(Length));
    check(&with(&[("content-length", "")]), Err(Length));
    check(
        &with(&[("content-length", "99999999999999999999")]),
        Err(Length),
    );
    check(
        &with(&[("content-length", "5"), ("content-length", "5")]),
        Err(Length),
    );
    check(
        &[
            (":method", "GET"),
            (":scheme", "http://a/b"),
            (":path", "/"),
        ],
        Err(Pseudo),
    );
    check(
        &[(":method", "GET"), (":scheme", ""), (":path", "/")],
        Err(Pseudo),
    );
    check(
        &[(":method", "GET"), (":scheme", "http"), (":path", "")],
        Err(Pseudo),
    );
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
    assert!(fields.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>() <= USUAL_LIST);
    assert_eq!(Request::read(&fields).err(), Some(Malformed::TooLarge));
}

#[test]
fn a_list_that_is_too_large_leaves_the_table_in_step() {
    let mut decoder = BlockDecoder::default();
    let mut block = vec![
        0x40, 1, b'a', 1, b'b', 0x00, 1, b'c', 0x7f, 0x81, 0xff, 0x05,
    ];
    block.extend_from_slice(&vec![b'x'; 98_304]);
    let fields = decoder.decode(&block).expect("valid");
    assert!(fields.is_too_large());
    let fields = decoder.decode(&[0xbe]).expect("the entry is there");
    assert_eq!(fields.iter().collect::<Vec<_>>(), [(&b"a"[..], &b"b"[..])]);
}

#[test]
fn blocks_that_are_not_hpack() {
    for (what, block) in [
        ("index 0", &[0x80][..]),
        ("an index beyond the tables", &[0xbe]),
        ("a name index beyond the tables", &[0x7f, 0, 0]),
        ("half an integer", &[0xff]),
        (
            "an integer without an end",
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0],
        ),
        ("half a string", &[0x00, 5, b'a']),
        ("a string without a length", &[0x00]),
        ("bad padding", &[0x00, 0x81, 0xff, 0x00]),
        ("a table larger than allowed", &[0x3f, 0xe2, 0x1f]),
        ("a table size after a field", &[0x82, 0x20]),
    ] {
        let got = BlockDecoder::default().decode(block).map(|_| ());
        assert_eq!(got, Err(BlockError), "{what}");
    }
    let largest = BlockDecoder::default().decode(&[0x20, 0x3f, 0xe1, 0x1f, 0x82]);
    assert!(largest.is_ok(), "up to the limit, and more than one");
}

#[test]
fn edits_apply_to_fields() {
    let fields = BlockDecoder::default()
        .decode(&encode(&with(&[("x-old", "1"), ("a", "b")])))
        .expect("valid");
    let edit = HeaderEdit {
        set: vec![("X-New".into(), "2".into())],
        remove: vec!["X-Old".into()],
    };
    let edit = edit.checked().expect("allowed edit");
    let again = TableEncoder::default().encode(&fields, Some("/y"), Some(&edit));
    let got = decode(&again);
    let got: Vec<_> = got.iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(
        got,
        [":method=GET", ":scheme=http", ":path=/y", "a=b", "x-new=2"]
    );
}

#[test]
fn what_is_sensitive_stays_so_and_what_is_indexed_stays_terse() {
    // Indexed, without, never; then the first from the table.
    let block = [
        0x40, 1, b'a', 1, b'1', 0x00, 1, b'b', 1, b'2', 0x10, 1, b'c', 1, b'3',
    ];
    let mut decoder = BlockDecoder::default();
    let mut encoder = TableEncoder::default();
    encoder.allow(None);
    let fields = decoder.decode(&block).expect("valid");
    assert_eq!(encoder.encode(&fields, None, None), block);
    let fields = decoder.decode(&[0xbe]).expect("valid");
    assert_eq!(encoder.encode(&fields, None, None), [0xbe]);
    // A reader with a smaller table is told that we use no more of it.
    encoder.shrink(0);
    assert_eq!(
        encoder.encode(&fields, None, None),
        [0x20, 0, 1, b'a', 1, b'1']
    );
    assert_eq!(encoder.encode(&fields, None, None), [0, 1, b'a', 1, b'1']);
}

#[test]
fn messages() {
    use Malformed::*;
    let fields = |list: &[(&str, &str)]| {
        BlockDecoder::default()
            .decode(&encode(list))
            .expect("valid")
    };
    for (list, expected) in [
        (&[(":status", "200"), ("a", "b")][..], Ok(200)),
        (&[(":status", "103")], Ok(103)),
        (&[(":status", "101")], Err(Pseudo)),
        (&[(":status", "2000")], Err(Pseudo)),
        (&[(":status", "+20")], Err(Pseudo)),
        (&[("a", "b")], Err(Pseudo)),
        (&[], Err(Pseudo)),
        (&[(":status", "200"), (":status", "200")], Err(Pseudo)),
        (&[(":status", "200"), (":path", "/")], Err(Pseudo)),
        (&[(":status", "200"), ("A", "b")], Err(Field)),
        (&[(":status", "200"), ("a", "\u{1}")], Err(Field)),
        (
            &[(":status", "200"), ("connection", "close")],
            Err(ConnectionSpecific),
        ),
        (&[(":status", "200"), ("content-length", "-1")], Err(Length)),
        (
            &[
                (":status", "200"),
                ("content-length", "1"),
                ("content-length", "1"),
            ],
            Err(Length),
        ),
    ] {
        let got = Response::read(&fields(list)).map(|response| response.status);
        assert_eq!(got, expected, "{list:?}");
    }
    for (list, expected) in [
        (&[("a", "b")][..], Ok(())),
        (&[("A", "b")], Err(Field)),
        (&[(":path", "/")], Err(Field)),
        (&[("te", "gzip")], Err(ConnectionSpecific)),
    ] {
        assert_eq!(check_trailers(&fields(list)), expected, "{list:?}");
    }
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
    fn what_goes_through_the_table_is_read_by_others_too(
        lists in prop::collection::vec(
            prop::collection::vec(("[ab]{1,2}|:path|cookie", "[ab]{0,2}|[a]{900}"), 0..8), 1..12),
        how in prop::collection::vec(0_u8..3, 96),
        allowed in prop::option::of(0_u32..6000),
        shrinks in prop::collection::vec(prop::option::weighted(0.2, 0_u32..5000), 12),
    ) {
        let mut encoder = TableEncoder::default();
        let mut ours = BlockDecoder::default();
        let mut others = loona_hpack::Decoder::new();
        for (round, list) in lists.iter().enumerate() {
            // The first block may come before the reader has said anything.
            if round == 1 {
                encoder.allow(allowed);
            }
            if let Some(size) = shrinks[round].filter(|_| round > 1) {
                encoder.shrink(size);
            }
            let mut block = Vec::new();
            for (at, (name, value)) in list.iter().enumerate() {
                block.push([0x40, 0, 0x10][usize::from(how[round * 8 + at])]);
                for text in [name, value] {
                    match text.len() {
                        0..127 => block.push(text.len() as u8),
                        // 900, as RFC 7541 §5.1 writes it.
                        _ => block.extend([0x7f, 0x85, 0x06]),
                    }
                    block.extend_from_slice(text.as_bytes());
                }
            }
            let fields = BlockDecoder::default().decode(&block).expect("written here");
            let again = encoder.encode(&fields, None, None);
            let pairs: Vec<_> = list.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
            let read = ours.decode(&again).expect("readable");
            prop_assert_eq!(read.iter().collect::<Vec<_>>(), pairs.clone());
            let wants_update = again.first().is_some_and(|byte| byte & 0xe0 == 0x20);
            if !(list.is_empty() && wants_update) {
                let read = others.decode(&again).expect("readable by others");
                let read: Vec<_> = read.iter().map(|(n, v)| (&n[..], &v[..])).collect();
                prop_assert_eq!(read, pairs);
            }
        }
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
