//! What rules mean, by requests that a client would send.

use kafka_protocol::{
    messages::{
        ApiKey, CreateTopicsRequest, FetchRequest, InitProducerIdRequest, ListOffsetsRequest,
        MetadataRequest, ProduceRequest, TopicName,
        create_topics_request::CreatableTopic,
        fetch_request::FetchTopic,
        list_offsets_request::ListOffsetsTopic,
        metadata_request::MetadataRequestTopic,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::{Encodable, StrBytes},
};

use super::dream::frame;

pub(super) fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

fn of(key: ApiKey, version: i16, client: &str, message: &impl Encodable) -> Vec<u8> {
    frame((key, version, 1), client, |bytes| {
        message.encode(bytes, version).expect("a request");
    })
}

pub(super) fn produce(version: i16, topics: &[&str], records: usize) -> ProduceRequest {
    let _ = version;
    let topics = topics.iter().map(|topic| {
        let partition = PartitionProduceData::default().with_records(Some(vec![7; records].into()));
        TopicProduceData::default()
            .with_name(name(topic))
            .with_partition_data(vec![partition])
    });
    ProduceRequest::default()
        .with_acks(-1)
        .with_topic_data(topics.collect())
}

/// A request as `API vVERSION CLIENT TOPIC,TOPIC`.
pub(super) fn request(line: &str) -> Vec<u8> {
    let words: Vec<&str> = line.split(' ').collect();
    let [api, version, client, topics] = words[..] else {
        panic!("{line}");
    };
    let version: i16 = version[1..].parse().expect("a version");
    let topics: Vec<&str> = topics
        .split(',')
        .filter(|topic| !topic.is_empty())
        .collect();
    match api {
        "produce" => of(
            ApiKey::Produce,
            version,
            client,
            &produce(version, &topics, 9),
        ),
        "fetch" => {
            let topics = topics
                .iter()
                .map(|topic| FetchTopic::default().with_topic(name(topic)));
            let request = FetchRequest::default().with_topics(topics.collect());
            of(ApiKey::Fetch, version, client, &request)
        }
        "offsets" => {
            let topics = topics
                .iter()
                .map(|topic| ListOffsetsTopic::default().with_name(name(topic)));
            let request = ListOffsetsRequest::default().with_topics(topics.collect());
            of(ApiKey::ListOffsets, version, client, &request)
        }
        "metadata" => {
            let topics = topics
                .iter()
                .map(|topic| MetadataRequestTopic::default().with_name(Some(name(topic))));
            let request = MetadataRequest::default().with_topics(Some(topics.collect()));
            of(ApiKey::Metadata, version, client, &request)
        }
        "createtopics" => {
            let topics = topics
                .iter()
                .map(|topic| CreatableTopic::default().with_name(name(topic)));
            let request = CreateTopicsRequest::default().with_topics(topics.collect());
            of(ApiKey::CreateTopics, version, client, &request)
        }
        "initproducerid" => {
            let named = topics.first().map(|id| {
                kafka_protocol::messages::TransactionalId(StrBytes::from_string((*id).to_owned()))
            });
            let request = InitProducerIdRequest::default().with_transactional_id(named);
            of(ApiKey::InitProducerId, version, client, &request)
        }
        other => {
            let key = ApiKey::iter().find(|key| format!("{key:?}").eq_ignore_ascii_case(other));
            let key = key.expect(other);
            let (make, _) = crate::kinds::of(key, super::refusals::Chosen);
            let body = make(version, &[1]).expect(line);
            frame((key, version, 1), client, |bytes| bytes.extend(body))
        }
    }
}

/// Which of the requests pass, by rules without the brackets around them.
fn check(rules: &str, passes: &[&str], refused: &[&str]) {
    let config = format!(r#"{{"rules":[{rules}]}}"#);
    for (lines, expected) in [(passes, true), (refused, false)] {
        for line in lines {
            let mut connection = super::connection(&config);
            let bytes = request(line);
            let passed = connection.client(&bytes);
            assert_eq!(connection.closed, None, "{config}: {line}");
            let last = connection.last();
            assert_eq!(last.allowed, expected, "{config}: {line}");
            assert_eq!(passed == bytes, expected, "{config}: {line}");
        }
    }
}

#[test]
fn a_role_is_what_it_takes() {
    check(
        r#"{"role":"produce"}"#,
        &[
            "produce v3 me a",
            "produce v9 me a,b",
            "produce v13 me ",
            "metadata v1 me a",
            "apiversions v0 me ",
            "saslhandshake v1 me ",
            "saslauthenticate v2 me ",
            "initproducerid v4 me ",
        ],
        &[
            "fetch v12 me a",
            "offsets v5 me a",
            "createtopics v5 me a",
            "joingroup v5 me ",
            "initproducerid v4 me my-transaction",
            "addpartitionstotxn v3 me ",
        ],
    );
    check(
        r#"{"role":"consume"}"#,
        &[
            "fetch v4 me a",
            "fetch v13 me ",
            "offsets v5 me a",
            "metadata v9 me a",
            "offsetcommit v8 me ",
            "offsetfetch v8 me ",
            "findcoordinator v4 me ",
            "joingroup v9 me ",
            "heartbeat v4 me ",
            "leavegroup v5 me ",
            "syncgroup v5 me ",
            "apiversions v3 me ",
        ],
        &[
            "produce v9 me a",
            "initproducerid v4 me ",
            "createtopics v5 me a",
            "listgroups v4 me ",
        ],
    );
}

#[test]
fn every_topic_must_be_covered() {
    check(
        r#"{"topic":"a"},{"topic":"b"}"#,
        &[
            "produce v9 me a",
            "produce v9 me a,b",
            "produce v3 me b,a,a",
            "fetch v12 me b",
            "offsets v2 me a,b",
            "metadata v4 me a",
            "metadata v4 me ",
            "fetch v12 me ",
            "joingroup v5 me ",
            "initproducerid v4 me t",
        ],
        &[
            "produce v9 me c",
            "produce v9 me a,c",
            "produce v3 me A",
            "fetch v12 me a,b,c",
            "metadata v4 me c",
            // Named in ways that no rule with a topic covers.
            "createtopics v5 me a",
            "deletetopics v6 me ",
            "offsetforleaderepoch v4 me ",
            "consumergroupheartbeat v0 me ",
            "sharefetch v1 me ",
            "envelope v0 me ",
        ],
    );
    // The other conditions hold for each rule by itself.
    check(
        r#"{"apiKey":0,"topic":"a"},{"apiKey":1,"topic":"b"}"#,
        &["produce v9 me a", "fetch v12 me b"],
        &[
            "produce v9 me b",
            "produce v9 me a,b",
            "fetch v12 me a",
            "metadata v4 me a",
        ],
    );
    check(
        r#"{"topic":"a"},{"apiKey":0}"#,
        &["produce v9 me c,d", "fetch v12 me a"],
        &["fetch v12 me c"],
    );
}

#[test]
fn ids_are_no_names() {
    let with_ids = [
        (ApiKey::Produce, 13),
        (ApiKey::Fetch, 13),
        (ApiKey::Metadata, 12),
    ];
    for (key, version) in with_ids {
        let (make, _) = crate::kinds::of(key, super::refusals::Chosen);
        let body = make(version, &[1]).expect("a request");
        let bytes = frame((key, version, 1), "me", |bytes| bytes.extend(body));
        let allowed = |config: &str| {
            let mut connection = super::connection(config);
            connection.client(&bytes);
            connection.last().allowed
        };
        if key != ApiKey::Metadata {
            assert!(!allowed(r#"{"rules":[{"topic":"b"}]}"#), "{key:?}");
        }
        assert!(allowed(r#"{"rules":[{}]}"#), "{key:?}");
    }
}

#[test]
fn versions_and_clients_are_exact() {
    check(
        r#"{"apiKey":3,"apiVersion":4}"#,
        &["metadata v4 me a"],
        &["metadata v5 me a", "produce v4 me a"],
    );
    check(
        r#"{"clientID":"me"}"#,
        &["produce v9 me a", "heartbeat v4 me ", "heartbeat v1 me "],
        &[
            "produce v9 you a",
            "produce v9  a",
            "produce v9 Me a",
            "heartbeat v0 me ",
        ],
    );
    check("", &[], &["apiversions v0 me ", "metadata v0 me a"]);
    check("{}", &["apiversions v0 me ", "createtopics v5 me a"], &[]);
}

/// What is meant stands elsewhere than in the names: in a session of the broker's, or in ids
/// beside them.
#[test]
fn names_that_do_not_say_what_is_meant_are_not_believed() {
    use super::super::refusal::{Api as _, Topics};
    use kafka_protocol::messages::{
        FetchRequest, MetadataRequest, TopicName, fetch_request::FetchTopic,
        metadata_request::MetadataRequestTopic,
    };
    let name = || TopicName(kafka_protocol::protocol::StrBytes::from_static_str("a"));
    let fetch = FetchRequest::default().with_topics(vec![FetchTopic::default().with_topic(name())]);
    assert_eq!(fetch.topics(), Topics::Named(vec!["a".into()]));
    let fetch = fetch.with_session_id(5).with_session_epoch(3);
    assert_eq!(fetch.topics(), Topics::Unread);
    let topic = MetadataRequestTopic::default().with_name(Some(name()));
    let metadata = |topic| MetadataRequest::default().with_topics(Some(vec![topic]));
    assert_eq!(
        metadata(topic.clone()).topics(),
        Topics::Named(vec!["a".into()])
    );
    let id = "00000000-0000-0000-0000-000000000007"
        .parse()
        .expect("an id");
    assert_eq!(metadata(topic.with_topic_id(id)).topics(), Topics::Unread);
}

#[test]
fn the_rule_that_allowed_is_named() {
    let mut connection =
        super::connection(r#"{"rules":[{"apiKey":1},{"topic":"a"},{"topic":"b"}]}"#);
    connection.client(&request("produce v9 me b"));
    assert_eq!(connection.last().rule, Some(2));
    connection.client(&request("fetch v12 me b"));
    assert_eq!(connection.last().rule, Some(0));
    assert_eq!(connection.last().targets, ["b"]);
    assert_eq!(connection.last().command, "Fetch v12");
    connection.client(&request("createtopics v5 me b"));
    assert_eq!(connection.last().rule, None);
}

#[test]
fn a_wrong_configuration_is_named() {
    use tidegate_sdk::StreamFilter as _;
    for (config, reason) in [
        ("[]", "not a list of Kafka rules"),
        (r#"{"rules":[{"topics":"a"}]}"#, "unknown field `topics`"),
        (r#"{"rules":[{"role":"both"}]}"#, "unknown variant `both`"),
        (
            r#"{"rules":[{},{"role":"produce","apiKey":0}]}"#,
            "rules[1]: `role` and `apiKey`",
        ),
    ] {
        let error = crate::KafkaMatcher::configure(config).err().expect(config);
        assert!(error.contains(reason), "{error}");
    }
}

/// The policy reader warns of rules with a topic about these APIs (`TOPICS_UNREAD` there).
#[test]
fn whose_topics_are_not_read_is_known_outside() {
    let unread = |key: i16| {
        let Ok(api) = ApiKey::try_from(key) else {
            return true;
        };
        let version = crate::kinds::versions(api).max;
        let (make, _) = crate::kinds::of(api, super::refusals::Chosen);
        let body = make(version, &[0]).expect("a request").into();
        let body = crate::kinds::body(api, version, &body).expect("a request");
        body.topics == crate::refusal::Topics::Unread
    };
    let all: Vec<i16> = (0..=33).filter(|key| unread(*key)).collect();
    assert_eq!(all, [4, 5, 6, 7, 19, 20, 21, 23, 24, 27, 28]);
}
