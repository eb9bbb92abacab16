//! Filters with sessions, of byte streams and of HTTP exchanges, through the real path: compiled
//! by the binary, loaded, called.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use tidegate_contract::Snapshot;
use tidegate_plugin_host::{
    Binding, BodyVerdict, BodyWish, Catalog, Facts, Failure, HeadVerdict, HttpExchange,
    PluginStore, Runtime, StoreOptions, StreamDirection, StreamOperation, StreamSession, Way,
    Worker,
};
use tidegate_policy::{
    compiled::{FailMode, Generation, L7Id, L7RuleSet, PluginUse, RuleId},
    shared::Map,
};
use tidegate_wire::http::{Header, HeaderEdit, HttpHead, Version};

/// How long a trial may take on a machine with much to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A binding of a guest, and the catalog that keeps it.
fn binding(guest: &str) -> (Catalog, Arc<Binding>) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut options = StoreOptions::new(dir.path().join("cache"));
    options.program = env!("CARGO_BIN_EXE_tidegate").into();
    let store = PluginStore::new(options).expect("a store");
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/artifacts/guests")
        .join(guest);
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let admitted = tokio
        .expect("a runtime")
        .block_on(store.admit(&file))
        .expect(guest);
    let used = PluginUse {
        plugin: admitted.name.clone(),
        config: "{}".to_owned(),
        fail_mode: FailMode::Closed,
        rules: vec![RuleId(7)],
        bound: false,
        in_shadow: false,
    };
    let set = L7RuleSet {
        protocol: admitted.info.world.protocol(),
        http: Default::default(),
        chain: vec![used],
        tls: None,
        contexts: Default::default(),
        shadow: None,
    };
    let snapshot = Snapshot {
        generation: Generation(1),
        l7: Map::unit(L7Id(1), set.into()),
        plugins: Map::unit(admitted.name.clone(), admitted.info.clone()),
        ..Snapshot::default()
    };
    let code = fs::read(&admitted.artifact).expect("compiled code");
    let artifacts = BTreeMap::from([(admitted.info.artifact, code)]);
    let next = Catalog::empty(Runtime::start().expect("an engine")).next(&snapshot, &artifacts);
    next.wait(PATIENCE, PATIENCE);
    let catalog = next.refreshed();
    let bound = catalog.rule_set(L7Id(1)).expect("the rule set").chain[0].clone();
    (catalog, bound)
}

fn client(address: &str) -> Arc<Facts> {
    let source = format!("{address}:1000").parse().expect("an address");
    Arc::new(Facts {
        source,
        ..Facts::default()
    })
}

/// How many sessions its instance has seen, as the guest tells it.
fn seen(worker: &mut Worker, session: &StreamSession) -> Result<usize, Failure> {
    let said = worker.stream_data(session, StreamDirection::ToServer, b"hello", false)?;
    match &said[..] {
        [
            StreamOperation::Inject(StreamDirection::ToServer, dots),
            StreamOperation::Pass(5),
        ] => Ok(dots.len()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_goes_wrong_on_a_connection_is_its_clients_own() {
    let (_catalog, bound) = binding("stumble.wasm");
    let mut worker = Worker::new();
    for (does, failure) in [
        (&b"trap"[..], "trapped"),
        (b"spin", "deadline"),
        (b"many", "too many operations"),
    ] {
        let (alice, bob) = (client("192.0.2.1"), client("192.0.2.2"));
        let mut open = |of| worker.stream_open(&bound, of, true).expect("a session");
        let (one, two, other) = (open(&alice), open(&alice), open(&bob));
        // Of one client, in one instance; of another, in another.
        assert_eq!(seen(&mut worker, &one), Ok(2));
        assert_eq!(seen(&mut worker, &two), Ok(2));
        assert_eq!(seen(&mut worker, &other), Ok(1));
        let error = worker.stream_data(&one, StreamDirection::ToServer, does, false);
        let error = error.expect_err("it fails").to_string();
        assert!(error.contains(failure), "{error}");
        let error = seen(&mut worker, &two).expect_err("it was in the same instance");
        assert!(error.to_string().contains("another message"), "{error}");
        assert_eq!(
            seen(&mut worker, &other),
            Ok(1),
            "another client notices nothing"
        );
        let fresh = worker.stream_open(&bound, &alice, true).expect("a session");
        assert_eq!(seen(&mut worker, &fresh), Ok(1), "a fresh instance");
    }
}

#[test]
fn a_session_that_ended_leaves_its_place() {
    let (_catalog, bound) = binding("stumble.wasm");
    let mut worker = Worker::new();
    let alice = client("192.0.2.1");
    let open: Vec<_> = (0..32)
        .map(|_| worker.stream_open(&bound, &alice, true).expect("a session"))
        .collect();
    assert_eq!(seen(&mut worker, &open[0]), Ok(32));
    let more = worker.stream_open(&bound, &alice, true).expect("a session");
    assert_eq!(seen(&mut worker, &more), Ok(1), "an instance has a limit");
    drop(open);
    let next = worker.stream_open(&bound, &alice, true).expect("a session");
    assert_eq!(seen(&mut worker, &next), Ok(2));
}

/// An exchange whose request asks for its whole body, and for `how` to deal with it.
fn exchange(
    worker: &mut Worker,
    bound: &Arc<Binding>,
    client: &Arc<Facts>,
    how: &str,
) -> HttpExchange {
    let exchange = worker.exchange_open(bound, client).expect("an exchange");
    let headers = [("X-See", "whole=10"), ("x-how", how), ("x-other", "1")].map(|(name, value)| {
        let value = value.as_bytes();
        Header { name, value }
    });
    let head = HttpHead {
        version: Version::Http11,
        method: "PUT",
        path: "/",
        authority: "a",
        headers: &headers,
    };
    let verdict = worker.exchange_request(&exchange, &head);
    let body = BodyWish::Whole {
        most: 10,
        skip_overlong: false,
    };
    let expected = HeadVerdict::Pass {
        rule: None,
        edit: HeaderEdit::default(),
        body,
    };
    assert_eq!(verdict, Ok(expected));
    exchange
}

#[test]
fn a_filter_of_exchanges_says_what_becomes_of_bodies_and_pays_for_nonsense_itself() {
    let (_catalog, bound) = binding("meddle.wasm");
    let mut worker = Worker::new();
    let (alice, bob) = (client("192.0.2.1"), client("192.0.2.2"));
    let fine = exchange(&mut worker, &bound, &bob, "upper");
    for (how, expected) in [("upper", "HELLO"), ("twice", "hellohello"), ("nothing", "")] {
        let open = exchange(&mut worker, &bound, &alice, how);
        let verdict = worker.exchange_body(&open, Way::Request, b"hello", true);
        let Ok(BodyVerdict::Take {
            count: 5, instead, ..
        }) = verdict
        else {
            panic!("{how}: {verdict:?}");
        };
        assert_eq!(instead.as_deref(), Some(expected.as_bytes()), "{how}");
    }
    let open = exchange(&mut worker, &bound, &alice, "refuse");
    match worker.exchange_body(&open, Way::Request, b"hello", true) {
        Ok(BodyVerdict::Reply(reply)) => {
            assert_eq!((reply.status, &reply.body[..]), (422, &b"unwanted\n"[..]));
            assert_eq!(reply.headers, [("x-why".to_owned(), "body".to_owned())]);
        }
        other => panic!("{other:?}"),
    }
    drop(open);
    for (how, failure) in [
        ("trap", "trapped"),
        ("spin", "deadline"),
        ("greed", "more of a body than was shown"),
        ("flood", "trapped"),
    ] {
        let (open, beside) = (
            exchange(&mut worker, &bound, &alice, how),
            exchange(&mut worker, &bound, &alice, "upper"),
        );
        let error = worker.exchange_body(&open, Way::Request, b"hello", true);
        let error = error.expect_err("it fails").to_string();
        assert!(error.contains(failure), "{how}: {error}");
        let lost = worker.exchange_body(&beside, Way::Request, b"hello", true);
        assert!(lost.is_err(), "{how}: it was in the same instance");
    }
    // Another client's exchange lived beside all that.
    let verdict = worker.exchange_body(&fine, Way::Request, b"hello", true);
    assert!(
        matches!(verdict, Ok(BodyVerdict::Take { count: 5, .. })),
        "{verdict:?}"
    );
}
