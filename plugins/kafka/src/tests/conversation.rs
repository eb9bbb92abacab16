//! Requests and responses of one connection, in their order.

use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsResponse, MetadataResponse, ProduceResponse, RequestHeader,
        api_versions_response::ApiVersion, metadata_response::MetadataResponseBroker,
    },
    protocol::{Decodable, Encodable},
};
use proptest::prelude::*;
use tidegate_sdk::{Direction, StreamFilter as _, Trial};

use super::{
    dream::frame,
    given,
    rules::{name, produce, request},
};
use crate::{KafkaMatcher, kinds};

const TOPIC: i32 = 29;

fn numbered(line: &str, correlation: i32) -> Vec<u8> {
    let mut bytes = request(line);
    bytes[8..12].copy_from_slice(&correlation.to_be_bytes());
    bytes
}

/// The numbers of the responses in these bytes.
fn correlations(bytes: &[u8]) -> Vec<i32> {
    numbers(bytes, 0)
}

/// The numbers of the requests in these bytes.
fn asked(bytes: &[u8]) -> Vec<i32> {
    numbers(bytes, 4)
}

fn numbers(mut bytes: &[u8], at: usize) -> Vec<i32> {
    let mut found = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (frame, rest) = rest.split_at(i32::from_be_bytes(*length) as usize);
        found.push(i32::from_be_bytes(
            *frame[at..].first_chunk().expect("a number"),
        ));
        bytes = rest;
    }
    found
}

fn produced(correlation: i32) -> Vec<u8> {
    kinds::response(correlation, &ProduceResponse::default(), 9).expect("a response")
}

/// A response is read for the error it tells as long as it is short enough to be held; a
/// longer one passes with its first bytes.
#[test]
fn a_long_response_passes_unread() {
    let response = |size: usize| {
        let mut bytes = (size as i32).to_be_bytes().to_vec();
        bytes.extend(1_i32.to_be_bytes());
        bytes.resize(4 + size, 0);
        bytes
    };
    for (size, is_read) in [((64 << 10) - 4, true), ((64 << 10) - 3, false)] {
        let mut connection = super::connection(r#"{"rules":[{"topic":"a"}]}"#);
        connection.client(&numbered("produce v9 me a", 1));
        let bytes = response(size);
        let (first, rest) = bytes.split_at(100);
        let passed = connection.server(first).len();
        assert_eq!(passed, if is_read { 0 } else { 100 }, "of {size}");
        let all = passed + connection.server(rest).len();
        assert_eq!(all, bytes.len(), "{size}");
        let (_, answer) = &connection.answers[0];
        assert_eq!(answer.text == "not read: too long", !is_read, "{answer:?}");
    }
}

#[test]
fn a_refusal_waits_for_its_turn() {
    let mut connection = super::connection(r#"{"rules":[{"topic":"a"}]}"#);
    let asked = [
        "produce v9 me a",
        "produce v9 me b",
        "produce v9 me a",
        "produce v9 me b",
    ];
    let asked = asked
        .iter()
        .zip(1..)
        .flat_map(|(line, n)| numbered(line, n));
    let passed = connection.client(&asked.collect::<Vec<_>>());
    let sent = [
        numbered("produce v9 me a", 1),
        numbered("produce v9 me a", 3),
    ]
    .concat();
    assert_eq!(passed, sent);
    assert!(
        connection.server(&[]).is_empty(),
        "the second answer comes second"
    );
    assert_eq!(correlations(&connection.server(&produced(1))), [1, 2]);
    assert_eq!(correlations(&connection.server(&produced(3))), [3, 4]);
    // With nothing before it a refusal is said at once.
    connection.client(&numbered("produce v9 me b", 5));
    assert_eq!(correlations(&connection.server(&[])), [5]);
    let codes: Vec<_> = connection.requests.iter().map(given).collect();
    assert_eq!(codes[1].map(|answer| answer.code), Some(TOPIC));
    assert_eq!(
        codes[1].map(|answer| &*answer.text),
        Some("TOPIC_AUTHORIZATION_FAILED")
    );
    assert_eq!(codes[0], None);
    let answered: Vec<_> = connection
        .answers
        .iter()
        .map(|(id, answer)| (*id, answer.code))
        .collect();
    assert_eq!(answered, [(0, 0), (2, 0)]);
}

#[test]
fn what_a_server_says_must_answer_something() {
    for (asked, said, reason) in [
        ("", produced(1), "what was not asked"),
        ("produce v9 me a", produced(2), "out of order"),
        (
            "produce v9 me a",
            vec![0, 0, 0, 2, 0, 0, 0, 0],
            "no message of Kafka's",
        ),
    ] {
        let mut connection = super::connection(r#"{"rules":[{}]}"#);
        if !asked.is_empty() {
            connection.client(&request(asked));
        }
        assert!(connection.server(&said).is_empty());
        let closed = connection.closed.expect(reason);
        assert!(closed.contains(reason), "{closed}");
    }
}

#[test]
fn nobody_waits_for_what_is_not_acknowledged() {
    let config = r#"{"rules":[{"topic":"a"}]}"#;
    let mut connection = super::connection(config);
    let silent = |topic| {
        frame((ApiKey::Produce, 9, 4), "me", |bytes| {
            let request = produce(9, &[topic], 9).with_acks(0);
            request.encode(bytes, 9).expect("a request");
        })
    };
    assert_eq!(connection.client(&silent("a")), silent("a"));
    assert!(connection.client(&silent("b")).is_empty());
    assert!(connection.server(&[]).is_empty(), "nothing is said of it");
    assert!(!connection.last().allowed);
    connection.client(&numbered("produce v9 me a", 5));
    assert_eq!(correlations(&connection.server(&produced(5))), [5]);
}

#[test]
fn a_large_message_is_judged_by_its_front() {
    let large = 5 << 20;
    let asked = frame((ApiKey::Produce, 9, 1), "me", |bytes| {
        produce(9, &["a"], large)
            .encode(bytes, 9)
            .expect("a request");
    });
    for rules in [r#"{"topic":"a"}"#, r#"{"role":"produce"}"#] {
        let mut connection = super::connection(&format!(r#"{{"rules":[{rules}]}}"#));
        let mut passed = Vec::new();
        for piece in asked.chunks(16 << 10) {
            passed.extend(connection.client(piece));
        }
        assert!(passed == asked, "{rules}");
        assert!(
            connection.held <= 32 << 10,
            "{} bytes were held",
            connection.held
        );
    }
}

#[test]
fn what_is_not_known_is_not_judged() {
    let unknown = |key: i16, version: i16| {
        let mut bytes = numbered("heartbeat v4 me ", 6);
        bytes[4..6].copy_from_slice(&key.to_be_bytes());
        bytes[6..8].copy_from_slice(&version.to_be_bytes());
        bytes
    };
    for (key, version, what) in [
        (0, 99, "Produce v99"),
        (7, 0, "API 7 v0"),
        (999, 1, "API 999 v1"),
    ] {
        let mut connection = super::connection(r#"{"rules":[{"topic":"a"}]}"#);
        connection.client(&unknown(key, version));
        assert_eq!(connection.undecided, [format!("{what} is not known here")]);
        // If it passes, it may be answered or not.
        connection.client(&numbered("produce v9 me a", 7));
        assert_eq!(correlations(&connection.server(&produced(7))), [7]);
        // A rule that asks for nothing that is not known allows it all the same.
        let mut connection = super::connection(r#"{"rules":[{}]}"#);
        assert_eq!(
            connection.client(&unknown(key, version)),
            unknown(key, version)
        );
        assert_eq!(connection.last().command, what);
    }
    // Asked in a version of the future which versions there are, any server answers so.
    let mut connection = super::connection(r#"{"rules":[{}]}"#);
    assert!(connection.client(&unknown(18, 9)).is_empty());
    let said = connection.server(&[]);
    let mut said = bytes::Bytes::copy_from_slice(&said[8..]);
    let said = ApiVersionsResponse::decode(&mut said, 0).expect("the first version");
    assert_eq!((said.error_code, said.api_keys[0].max_version), (35, 4));
}

#[test]
fn bare_tokens_cannot_be_read() {
    let mut connection = super::connection(r#"{"rules":[{"role":"produce"}]}"#);
    connection.client(&request("saslhandshake v0 me "));
    assert!(connection.undecided[0].contains("SaslHandshake v0"));
}

fn offered(keys: &[(i16, i16, i16)]) -> ApiVersionsResponse {
    let keys = keys.iter().map(|(key, min, max)| {
        ApiVersion::default()
            .with_api_key(*key)
            .with_min_version(*min)
            .with_max_version(*max)
    });
    ApiVersionsResponse::default().with_api_keys(keys.collect())
}

#[test]
fn versions_are_offered_that_can_be_read() {
    let keys = [
        (0, 0, 99),
        (1, 0, 17),
        (3, 0, 12),
        (7, 0, 3),
        (18, 0, 4),
        (500, 0, 1),
    ];
    let by_name = [(0, 3, 12), (1, 4, 12), (3, 0, 12), (18, 0, 4)];
    let by_any = [(0, 3, 13), (1, 4, 17), (3, 0, 12), (18, 0, 4)];
    for (rules, expected) in [
        (r#"{"topic":"a"}"#, by_name),
        (r#"{"role":"produce"},{"role":"consume"}"#, by_any),
    ] {
        for version in 0..=4 {
            let mut connection = super::connection(&format!(r#"{{"rules":[{rules}]}}"#));
            connection.client(&numbered(&format!("apiversions v{version} me "), 8));
            let from_server = kinds::response(8, &offered(&keys), version).expect("a response");
            let said = connection.server(&from_server);
            let mut said = bytes::Bytes::copy_from_slice(&said[8..]);
            let said = ApiVersionsResponse::decode(&mut said, version).expect("a response");
            assert_eq!(
                said.api_keys,
                offered(&expected).api_keys,
                "v{version} {rules}"
            );
        }
    }
    // A server that does not know the question's version says so in the first.
    let mut connection = super::connection(r#"{"rules":[{}]}"#);
    connection.client(&numbered("apiversions v4 me ", 8));
    let refusal =
        kinds::response(8, &offered(&[(18, 0, 3)]).with_error_code(35), 0).expect("a response");
    assert_eq!(connection.server(&refusal), refusal);
    // As a server of librdkafka's says it: an array of no items, and one item.
    let mut connection = super::connection(r#"{"rules":[{}]}"#);
    connection.client(&numbered("apiversions v3 me ", 7));
    let mixed = b"\0\0\0\x11\0\0\0\x07\0\x23\x01\0\x12\0\0\0\x02\0\0\0\0";
    assert_eq!(connection.server(mixed), mixed);
    assert_eq!(connection.closed, None);
}

#[test]
fn metadata_of_some_topics_is_had() {
    for version in 0..=13 {
        let mut connection = super::connection(r#"{"rules":[{"topic":"a"},{"topic":"c"}]}"#);
        let asked = numbered(&format!("metadata v{version} me a,b,c,d"), 9);
        let passed = connection.client(&asked);
        assert_eq!(
            passed,
            numbered(&format!("metadata v{version} me a,c"), 9),
            "v{version}"
        );
        assert!(!connection.last().allowed);
        let response = MetadataResponse::default()
            .with_brokers(vec![MetadataResponseBroker::default().with_port(9092)])
            .with_topics(vec![
                kafka_protocol::messages::metadata_response::MetadataResponseTopic::default()
                    .with_name(Some(name("a"))),
            ]);
        let from_server = kinds::response(9, &response, version).expect("a response");
        let said = connection.server(&from_server);
        assert_eq!(connection.closed, None);
        let said: MetadataResponse =
            kinds::read_response(bytes::Bytes::copy_from_slice(&said[4..]), version)
                .expect("a response");
        assert_eq!(said.brokers.len(), 1, "v{version}");
        let topics: Vec<_> = said
            .topics
            .iter()
            .map(|topic| {
                (
                    topic.name.as_ref().expect("a name").to_string(),
                    i32::from(topic.error_code),
                )
            })
            .collect();
        let expected =
            [("a", 0), ("b", TOPIC), ("d", TOPIC)].map(|(name, code)| (name.to_owned(), code));
        assert_eq!(topics, expected, "v{version}");
        assert_eq!(connection.answers[0].1.code, TOPIC, "as the client sees it");
    }
}

/// More than one call may say, and more than may wait for an answer.
#[test]
fn any_number_of_requests_may_come_at_once() {
    const MANY: i32 = 9_000;
    let mut connection = super::connection(r#"{"rules":[{"topic":"a"}]}"#);
    let line = |n| match n % 3 {
        0 => "produce v9 me b",
        _ => "produce v9 me a",
    };
    let all: Vec<u8> = (1..=MANY).flat_map(|n| numbered(line(n), n)).collect();
    let passed = connection.client(&all);
    assert_eq!(connection.closed, None);
    let first = asked(&passed);
    assert!(first.len() < 4_096, "no more are read than may wait");
    let mut to_server = first;
    let mut to_client = Vec::new();
    let mut answered = 0;
    while answered < to_server.len() {
        let n = to_server[answered];
        answered += 1;
        to_client.extend(correlations(&connection.server(&produced(n))));
        assert_eq!(
            connection.closed,
            None,
            "{n}, {answered} of {}",
            to_server.len()
        );
        let more = connection.take(Direction::ToServer);
        to_server.extend(asked(&more));
    }
    assert_eq!(connection.closed, None);
    assert!(to_client.into_iter().eq(1..=MANY), "in order, each");
    assert!(to_server.iter().all(|n| n % 3 != 0));
    // All refused: nothing waits.
    let all: Vec<u8> = (1..=MANY)
        .flat_map(|n| numbered("produce v9 me b", n))
        .collect();
    let mut connection = super::connection(r#"{"rules":[{"topic":"a"}]}"#);
    assert!(connection.client(&all).is_empty());
    assert!(
        correlations(&connection.server(&[]))
            .into_iter()
            .eq(1..=MANY)
    );
}

#[test]
fn a_fetch_opens_no_session_that_nobody_could_judge() {
    use kafka_protocol::messages::{FetchRequest, fetch_request::FetchTopic};
    let fetch = |version, topic: &str, session: (i32, i32)| {
        let request = FetchRequest::default()
            .with_session_id(session.0)
            .with_session_epoch(session.1)
            .with_max_bytes(7)
            .with_topics(vec![FetchTopic::default().with_topic(name(topic))]);
        frame((ApiKey::Fetch, version, 5), "me", |bytes| {
            request.encode(bytes, version).expect("a request");
        })
    };
    for version in 7..=12 {
        let ask = |rules: &str, asked: &[u8]| {
            let mut connection = super::connection(&format!(r#"{{"rules":[{rules}]}}"#));
            let passed = connection.client(asked);
            assert_eq!(connection.closed, None, "v{version}");
            (passed, connection)
        };
        let rule = r#"{"topic":"a"}"#;
        for session in [0, 77] {
            let (passed, connection) = ask(rule, &fetch(version, "a", (session, 0)));
            assert_eq!(passed, fetch(version, "a", (session, -1)), "v{version}");
            assert!(connection.last().allowed);
        }
        let ended = fetch(version, "a", (77, -1));
        assert_eq!(ask(rule, &ended).0, ended, "its end is as it was");
        // One that was opened elsewhere: what it fetches is not known.
        let (passed, connection) = ask(rule, &fetch(version, "a", (77, 3)));
        assert!(passed.is_empty());
        let last = connection.last();
        assert_eq!(
            given(last).map(|answer| answer.code),
            Some(70),
            "v{version}"
        );
        let (passed, _) = ask(rule, &fetch(version, "b", (77, 0)));
        assert!(passed.is_empty(), "v{version}");
        // Where no topic matters sessions are the two ends' own.
        let opened = fetch(version, "a", (0, 0));
        assert_eq!(ask(r#"{"role":"consume"}"#, &opened).0, opened);
    }
}

#[test]
fn what_is_not_enforced_passes_and_is_told() {
    let filter = KafkaMatcher::configure(r#"{"rules":[{"topic":"a"}]}"#).expect("rules");
    let mut connection = Trial::of(filter.open(false));
    for (line, allowed) in [("produce v9 me a", true), ("produce v9 me b", false)] {
        let asked = numbered(line, 3);
        assert_eq!(connection.client(&asked), asked);
        assert_eq!(connection.last().allowed, allowed, "{line}");
        assert_eq!(connection.server(&produced(3)), produced(3));
    }
    assert_eq!(connection.answers.len(), 2);
    let asked = numbered("metadata v4 me a,b", 4);
    assert_eq!(connection.client(&asked), asked);
}

#[test]
fn a_length_that_cannot_be_true_costs_nothing() {
    // An array of two thousand million topics, in both ways to write it.
    for (version, length) in [(3, &b"\x7f\xff\xff\xff"[..]), (9, b"\xff\xff\xff\xff\x0f")] {
        let asked = frame((ApiKey::Produce, version, 1), "me", |bytes| {
            let none: &[u8] = if version == 9 { b"\0" } else { b"\xff\xff" };
            bytes.extend_from_slice(none);
            bytes.extend_from_slice(b"\xff\xff\0\0\0\x01");
            bytes.extend_from_slice(length);
            bytes.extend_from_slice(&[0; 60]);
        });
        let mut connection = super::connection(r#"{"rules":[{"topic":"a"}]}"#);
        assert!(connection.client(&asked).is_empty());
        let closed = connection.closed.expect("it is no request");
        assert!(closed.contains(&format!("Produce v{version}")), "{closed}");
    }
}

/// Feeds both ways in pieces; everything that came out, and whether it ended.
fn run(pieces: &[(bool, Vec<u8>)]) -> (Vec<u8>, Vec<u8>, bool) {
    let mut connection = super::connection(r#"{"rules":[{"topic":"a"},{"apiKey":12}]}"#);
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    for (of_client, piece) in pieces {
        if *of_client {
            to_server.extend(connection.client(piece));
        } else {
            to_client.extend(connection.server(piece));
        }
        to_client.extend(connection.take(Direction::ToClient));
        to_server.extend(connection.take(Direction::ToServer));
    }
    (to_server, to_client, connection.closed.is_some())
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        asked in prop::collection::vec(prop::sample::select(vec![
            "produce v9 me a", "produce v3 me b", "produce v9 me a,b", "fetch v12 me a",
            "metadata v5 me a,b", "heartbeat v4 me ", "joingroup v5 me ", "apiversions v3 me ",
        ]), 1..8),
        size in 1_usize..200,
    ) {
        let bytes: Vec<u8> = asked.iter().zip(1..).flat_map(|(line, n)| numbered(line, n)).collect();
        let whole = run(&[(true, bytes.clone())]);
        let pieces: Vec<_> = bytes.chunks(size).map(|piece| (true, piece.to_vec())).collect();
        prop_assert_eq!(run(&pieces), whole);
    }

    #[test]
    fn no_bytes_panic(
        pieces in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..80)), 1..6),
    ) {
        run(&pieces);
    }

    #[test]
    fn no_message_with_a_wrong_byte_panics(
        line in prop::sample::select(vec![
            "produce v9 me a,b", "produce v3 me b,c", "fetch v12 me a,d", "metadata v9 me a,b",
            "createtopics v5 me a", "offsetfetch v8 me ", "alterconfigs v2 me ",
        ]),
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
    ) {
        let mut bytes = request(line);
        let at = 4 + at.index(bytes.len() - 4);
        bytes[at] = to;
        run(&[(true, bytes)]);
    }
}

/// The reader of heads and the crate's agree.
#[test]
fn heads_are_what_the_crate_says() {
    for line in [
        "produce v9 me a",
        "heartbeat v0  ",
        "fetch v12 a-longer-name b",
    ] {
        let bytes = request(line);
        let head = crate::front::Front::new(&bytes[4..]).head().expect(line);
        let mut rest = bytes::Bytes::copy_from_slice(&bytes[4..]);
        let key = ApiKey::try_from(head.key).expect(line);
        let by_crate =
            RequestHeader::decode(&mut rest, key.request_header_version(head.version)).expect(line);
        assert_eq!(head.client_id.as_deref(), by_crate.client_id.as_deref());
        assert_eq!(head.correlation, by_crate.correlation_id);
    }
}
