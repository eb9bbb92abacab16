use proptest::prelude::*;

use super::*;

/// The body of a hello with these extensions.
fn body(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    let mut list = Vec::new();
    for (kind, content) in extensions {
        list.extend(kind.to_be_bytes());
        list.extend(prefixed16(content));
    }
    if !extensions.is_empty() {
        body.extend(prefixed16(&list));
    }
    body
}

fn prefixed16(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    [&length.to_be_bytes(), content].concat()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

/// A message in records of `size` bytes each.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1][..], &prefixed16(part)].concat();
    message.chunks(size).flat_map(record).collect()
}

fn names(names: &[&[u8]]) -> (u16, Vec<u8>) {
    let entry = |name: &&[u8]| [&[0][..], &prefixed16(name)].concat();
    let list: Vec<u8> = names.iter().flat_map(entry).collect();
    (0, prefixed16(&list))
}

fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    records(&message(1, &body(extensions)), 1 << 14)
}

fn for_name(name: &str) -> Vec<u8> {
    hello(&[names(&[name.as_bytes()])])
}

/// What a reader says when it gets pieces of these sizes, the last one again and again.
fn read(bytes: &[u8], sizes: &[usize]) -> Result<Option<ClientHello>, NoHello> {
    let mut reader = HelloReader::default();
    for piece in pieces(bytes, sizes) {
        if let Some(hello) = reader.add(piece)? {
            return Ok(Some(hello));
        }
    }
    Ok(None)
}

fn pieces<'b>(mut bytes: &'b [u8], sizes: &[usize]) -> Vec<&'b [u8]> {
    let mut pieces = Vec::new();
    let mut sizes = sizes.iter().chain(std::iter::repeat(sizes.last().unwrap()));
    while !bytes.is_empty() {
        let size = (*sizes.next().unwrap()).clamp(1, bytes.len());
        let (piece, rest) = bytes.split_at(size);
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

fn asked(bytes: &[u8]) -> Asked {
    read(bytes, &[bytes.len()]).unwrap().unwrap().asked
}

#[test]
fn names_are_read_as_servers_would_or_not_at_all() {
    let name = |text: &str| Asked::Name(text.to_owned());
    assert_eq!(asked(&for_name("WWW.Example.com")), name("www.example.com"));
    assert_eq!(asked(&for_name("example.com.")), name("example.com"));
    assert_eq!(asked(&for_name("a_b-c.example")), name("a_b-c.example"));
    assert_eq!(asked(&hello(&[])), Asked::Nothing);
    let literal = |text: &str| Asked::Address(text.to_owned());
    assert_eq!(asked(&for_name("192.0.2.1")), literal("192.0.2.1"));
    assert_eq!(asked(&for_name("2001:db8::1")), literal("2001:db8::1"));
    let unclear = |bytes: &[u8]| match asked(bytes) {
        Asked::Unclear { text, .. } => text,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        unclear(&hello(&[names(&[b"a.example", b"b.example"])])),
        "a.example,b.example"
    );
    assert_eq!(unclear(&for_name("a\0.example")), "a\\x00.example");
    assert_eq!(unclear(&for_name("a..example")), "a..example");
    assert_eq!(unclear(&for_name("*.example")), "*.example");
    assert_eq!(unclear(&for_name(".")), "");
    assert_eq!(unclear(&for_name("a.example:443")), "a.example:443");
}

#[test]
fn the_rest_of_a_hello_is_told() {
    let versions = (43, vec![8, 0x3a, 0x3a, 3, 4, 3, 3, 3, 1]);
    let alpn = [&[0, 12, 2][..], b"h2", &[8], b"http/1.1"].concat();
    let grease = (0x1a1a, vec![]);
    let ech = (0xfe0d, vec![0, 1, 2]);
    let all = [grease, versions, (16, alpn), ech, names(&[b"a.example"])];
    let read = read(&hello(&all), &[1]).unwrap().unwrap();
    assert_eq!((read.version, read.legacy_version), (0x0304, 0x0303));
    assert_eq!(read.alpn, ["h2", "http/1.1"]);
    assert!(read.ech);
    assert_eq!(version_name(read.version), "TLS 1.3");
    let old = [&[3, 1][..], &body(&[names(&[b"a.example"])])[2..]].concat();
    let old = super::ClientHello::read(&old).unwrap();
    assert_eq!(version_name(old.version), "TLS 1.0");
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let malformed = |bytes: &[u8]| match read(bytes, &[bytes.len()]) {
        Err(NoHello::Malformed(why)) => why,
        other => panic!("{other:?} of {bytes:?}"),
    };
    let good = for_name("a.example");
    let name = names(&[b"a.example"]);
    for (what, bytes) in [
        ("two lists of names", hello(&[name.clone(), name.clone()])),
        (
            "two extensions of a kind",
            hello(&[(5, vec![]), (5, vec![])]),
        ),
        (
            "a list longer than its extension",
            hello(&[(0, vec![0, 9, 0, 0, 1, b'a'])]),
        ),
        (
            "a list shorter than its extension",
            hello(&[(0, vec![0, 4, 0, 0, 1, b'a', 0])]),
        ),
        (
            "a name of another kind",
            hello(&[(0, vec![0, 4, 1, 0, 1, b'a'])]),
        ),
        ("no name in the list", hello(&[(0, vec![0, 0])])),
        ("bytes behind the extensions", {
            let body = [body(std::slice::from_ref(&name)), vec![0]].concat();
            records(&message(1, &body), 1 << 14)
        }),
        ("a message behind it", {
            let both = [
                message(1, &body(std::slice::from_ref(&name))),
                message(16, &[]),
            ]
            .concat();
            records(&both, 1 << 14)
        }),
        ("another message", records(&message(2, &body(&[])), 1 << 14)),
        ("an empty record", [&[22, 3, 1, 0, 0][..], &good].concat()),
        ("a record too long", vec![22, 3, 1, 0x40, 1]),
        ("a record of SSL 4", [&[22, 3, 5][..], &good[3..]].concat()),
        ("an alert first", vec![21, 3, 1, 0, 2, 1, 0]),
        ("a version of nothing", {
            let body = [&[2, 0][..], &body(&[])[2..]].concat();
            records(&message(1, &body), 1 << 14)
        }),
    ] {
        assert!(!malformed(&bytes).is_empty(), "{what}");
    }
    let split = records(&message(1, &body(&[name])), 20);
    let alert = [&split[..25], &[21, 3, 1, 0, 2, 1, 0], &split[25..]].concat();
    malformed(&alert);
}

#[test]
fn what_is_not_tls_is_told_by_its_first_bytes() {
    let of = |bytes: &[u8]| read(bytes, &[1]);
    assert_eq!(of(b"GET / HTTP/1.1\r\n"), Err(NoHello::NotTls));
    assert_eq!(of(b"\x16\x02"), Err(NoHello::NotTls));
    assert_eq!(of(b"SSH-2.0-x"), Err(NoHello::NotTls));
    assert_eq!(of(&[0x80, 0x2e, 1, 0, 2]), Err(NoHello::Ssl2));
    assert_eq!(of(&[0x80, 0x2e, 2]), Err(NoHello::NotTls));
    assert_eq!(of(&[22, 3, 1]), Ok(None));
    let long = message(1, &vec![0; MAX_HELLO]);
    assert_eq!(
        read(&records(&long, 1 << 14), &[4_096]),
        Err(NoHello::TooLong)
    );
    // One byte a record: the headers count, too.
    let long = message(1, &body(&[(21, vec![0; 20_000])]));
    assert_eq!(read(&records(&long, 1), &[4_096]), Err(NoHello::TooLong));
}

/// A server's hello with this random.
fn server_hello(random: [u8; 32]) -> Vec<u8> {
    let body = [&[3, 3][..], &random, &[0, 0x13, 1, 0, 0, 0]].concat();
    records(&message(2, &body), 1 << 14)
}

/// A server's wish for another hello, as it begins.
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];
const CIPHER_CHANGE: [u8; 6] = [20, 3, 3, 0, 1, 1];

/// What passes of the client's bytes after a first hello for `a.example`, cut into pieces,
/// with what the server says after the client's first `before` bytes.
fn watched(
    client: &[u8],
    sizes: &[usize],
    (before, server): (usize, &[u8]),
) -> (Vec<u8>, Result<bool, NoHello>) {
    let first = for_name("a.example");
    let mut reader = HelloReader::default();
    let hello = reader.add(&first).unwrap().unwrap();
    let (held, mut watch) = reader.finish(&hello);
    assert_eq!(held, first);
    let (early, late) = client.split_at(before.min(client.len()));
    let mut out = Vec::new();
    let mut say = |bytes: &[u8], watch: &mut Watch| -> Result<(), NoHello> {
        pieces(bytes, sizes)
            .into_iter()
            .try_for_each(|piece| watch.from_client(piece, &mut out))
    };
    let mut watched = say(early, &mut watch);
    for piece in pieces(server, sizes) {
        if watched.is_ok() && watch.from_server(piece) {
            watched = watch.from_client(&[], &mut Vec::new());
        }
    }
    let watched = watched.and_then(|()| say(late, &mut watch));
    (out, watched.map(|()| watch.is_open()))
}

#[test]
fn a_second_hello_asks_for_the_same_or_is_none() {
    let (same, other) = (for_name("a.example"), for_name("b.example"));
    let retry = server_hello(RETRY);
    let (asks_again, no_name) = ([&CIPHER_CHANGE[..], &same].concat(), hello(&[]));
    let out = watched(&asks_again, &[3], (0, &retry));
    assert_eq!(
        out,
        (asks_again.clone(), Ok(false)),
        "the same after a retry"
    );
    for second in [&other, &no_name] {
        for before in [0, second.len()] {
            let (out, read) = watched(second, &[usize::MAX], (before, &retry));
            assert_eq!(read, Err(NoHello::AnotherName), "said before: {before}");
            assert!(out.is_empty());
        }
    }
    // Behind early data, and before the server has said anything.
    let early = [&[23, 3, 3, 0, 3, 1, 2, 3][..], &other].concat();
    let (out, read) = watched(&early, &[1], (usize::MAX, &[]));
    assert_eq!((out.len(), read), (8, Err(NoHello::AnotherName)));
    // Twice a retry, with a hello that passes between.
    let twice = [&same[..], &other].concat();
    let servers = [&retry[..], &CIPHER_CHANGE, &retry].concat();
    let (_, read) = watched(&twice, &[5], (0, &servers));
    assert_eq!(read, Err(NoHello::AnotherName));
    // In pieces of which none is a hello.
    let pieces = records(&message(1, &body(&[names(&[b"b.example"])])), 7);
    let (out, read) = watched(&pieces, &[usize::MAX], (usize::MAX, &retry));
    assert_eq!((out.len(), read), (0, Err(NoHello::AnotherName)));
}

#[test]
fn nothing_is_held_once_the_server_has_answered() {
    let done = server_hello([5; 32]);
    let request = records(&message(0, &[]), 1 << 14);
    let client = [&for_name("b.example")[..], b"whatever"].concat();
    for server in [
        done.clone(),
        [&server_hello(RETRY)[..], &CIPHER_CHANGE, &done].concat(),
        [&request[..], &done].concat(),
        vec![21, 3, 3, 0, 2, 2, 40],
        b"HTTP/1.1 400 Bad Request\r\n".to_vec(),
    ] {
        let (out, read) = watched(&client, &[3], (0, &server));
        assert_eq!((out, read), (client.clone(), Ok(true)), "{server:?}");
    }
    for server in [request, server_hello(RETRY), done[..30].to_vec(), vec![]] {
        let (_, read) = watched(&CIPHER_CHANGE, &[1], (0, &server));
        assert_eq!(read, Ok(false), "{server:?}");
    }
    // A key exchange of TLS 1.2 that came before the server's hello is held until then.
    let key = records(&message(16, &[1, 2, 3]), 1 << 14);
    let (_, read) = watched(&key, &[2], (6, &done));
    assert_eq!(read, Ok(true));
}

#[test]
fn alerts_are_records() {
    assert_eq!(
        alert::fatal(0x0301, alert::UNRECOGNIZED_NAME),
        [21, 3, 1, 0, 2, 2, 112]
    );
    assert_eq!(
        alert::fatal(0x0304, alert::ACCESS_DENIED),
        [21, 3, 3, 0, 2, 2, 49]
    );
}

proptest! {
    /// However a hello is cut, into records and pieces, and whatever was changed in it: it is
    /// read the same.
    #[test]
    fn any_split_gives_the_same_verdict(
        name in "[a-z.]{0,20}",
        record in 1_usize..300,
        sizes in prop::collection::vec(1_usize..200, 1..20),
        change in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        tail in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let message = message(1, &body(&[(43, vec![2, 3, 4]), names(&[name.as_bytes()])]));
        let mut bytes = records(&message, record);
        if let Some((at, byte)) = change {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend(tail);
        let whole = read(&bytes, &[usize::MAX]);
        prop_assert_eq!(&whole, &read(&bytes, &sizes));
        prop_assert_eq!(&whole, &read(&bytes, &[1]));
        if change.is_none()
            && let Ok(Some(hello)) = whole
        {
            prop_assert_eq!(hello.version, 0x0304);
        }
    }

    /// What passes after the hello depends on what was said, not on how it was cut.
    #[test]
    fn a_watch_sees_through_any_split(
        client in prop::collection::vec(part(), 0..6),
        server in prop::collection::vec(part(), 0..4),
        before in 0_usize..400,
        sizes in prop::collection::vec(1_usize..50, 1..20),
    ) {
        let (client, server) = (client.concat(), server.concat());
        let (out, read) = watched(&client, &[usize::MAX], (before, &server));
        let (split_out, split) = watched(&client, &sizes, (before, &server));
        prop_assert_eq!(&read, &split);
        if read.is_ok() {
            // Never longer, never something else.
            prop_assert!(out.len() <= client.len());
            let shorter = out.len().min(split_out.len());
            prop_assert_eq!(&out[..shorter], &split_out[..shorter]);
        }
        if read == Ok(false) {
            prop_assert!(!String::from_utf8_lossy(&out).contains("b.example"));
        }
    }
}

/// Something that one side says.
fn part() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(for_name("a.example")),
        Just(for_name("b.example")),
        Just(server_hello(RETRY)),
        Just(server_hello([1; 32])),
        Just(CIPHER_CHANGE.to_vec()),
        Just(vec![23, 3, 3, 0, 2, 1, 2]),
        prop::collection::vec(any::<u8>(), 0..8),
    ]
}
