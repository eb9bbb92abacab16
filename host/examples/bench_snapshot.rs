//! What it costs to hand a generation to the proxy in which one endpoint's policy changed:
//! whole or as a delta, in either form. `cargo run -p tidegate --example bench_snapshot`

use std::{hint::black_box, sync::Arc, time::Instant};

use tidegate_channel::codec;
use tidegate_contract::{Delta, Snapshot};
use tidegate_policy::{
    compiled::{
        Decision, Direction, EndpointId, FailMode, FqdnSelector, Generation, IdentityId, L7Id,
        L7Protocol, L7RuleSet, PluginUse, PolicyRow, PortMatch, RuleId, Verdict,
    },
    shared::Map,
};

/// Endpoints, each of an app of its own with an L7 rule and a name it may go to.
const ENDPOINTS: u32 = 1_000;
const ROUNDS: u32 = 20;

fn rule_set(endpoint: u32, path: &str) -> L7RuleSet {
    L7RuleSet {
        protocol: L7Protocol::Http,
        http: Default::default(),
        chain: vec![PluginUse {
            plugin: "http".to_owned(),
            config: format!(r#"{{"rules":[{{"method":"GET","path":"{path}"}}]}}"#),
            fail_mode: FailMode::Closed,
            rules: vec![RuleId(endpoint)],
            bound: false,
            in_shadow: false,
        }],
        tls: None,
        contexts: Default::default(),
        shadow: None,
    }
}

fn row(peer: u32, l7: u32) -> PolicyRow {
    PolicyRow {
        identity: IdentityId(peer),
        direction: Direction::Egress,
        ports: PortMatch::Ports {
            protocol: 6,
            port: 443,
            bits: 16,
        },
        decision: Decision {
            verdict: Verdict::Redirect,
            rule: RuleId(l7),
            l7: L7Id(l7),
            shadow: None,
        },
    }
}

fn snapshot(generation: Generation, changed: &str) -> Snapshot {
    let sets = (1..=ENDPOINTS).map(|n| (L7Id(n), Arc::new(rule_set(n, "/api/.*"))));
    let mut l7: Map<_, _> = sets.collect();
    l7.insert(L7Id(ENDPOINTS + 1), Arc::new(rule_set(1, changed)));
    let labels = |n: u32| {
        let of = |key: &str| format!("k8s:{key}=app-{n}");
        vec![of("app"), of("io.kubernetes.pod.namespace"), of("version")]
    };
    Snapshot {
        generation,
        l7,
        identities: (1..=ENDPOINTS)
            .map(|n| (IdentityId(256 + n), Arc::from(labels(n))))
            .collect(),
        fqdn: (1..=ENDPOINTS)
            .map(|n| {
                (
                    IdentityId(1 << 24 | n),
                    FqdnSelector::MatchName(format!("app-{n}.example.")),
                )
            })
            .collect(),
        outward: (1..=ENDPOINTS)
            .map(|n| (EndpointId(n), Arc::from([row(1 << 24 | n, n), row(0, 0)])))
            .collect(),
        ..Snapshot::default()
    }
}

fn measure<T>(what: &str, bytes: usize, run: impl Fn() -> T) {
    let began = Instant::now();
    for _ in 0..ROUNDS {
        black_box(run());
    }
    let each = began.elapsed() / ROUNDS;
    println!("| {what} | {bytes} | {:.2} ms |", each.as_secs_f64() * 1e3);
}

fn main() {
    let (old, new) = (
        snapshot(Generation(1), "/old"),
        snapshot(Generation(2), "/new"),
    );
    let json = serde_json::to_vec(&new).expect("written");
    let whole = codec::encode(&new).expect("written");
    let delta = codec::encode(&Delta::between(&old, &new)).expect("written");
    println!("| {ENDPOINTS} endpoints, one changed | bytes | time |\n| --- | ---: | ---: |");
    measure("JSON, written", json.len(), || serde_json::to_vec(&new));
    measure("JSON, read", json.len(), || {
        serde_json::from_slice::<Snapshot>(&json)
    });
    measure("MessagePack, written", whole.len(), || codec::encode(&new));
    measure("MessagePack, read", whole.len(), || {
        codec::decode::<Snapshot>(&whole)
    });
    measure("delta, found and written", delta.len(), || {
        codec::encode(&Delta::between(&old, &new))
    });
    let mut base = old.clone();
    measure("delta, read", delta.len(), || {
        codec::decode::<Delta>(&delta)
    });
    let began = Instant::now();
    let read: Delta = codec::decode(&delta).expect("read");
    read.apply(&mut base).expect("it fits");
    println!(
        "| delta, read and applied | {} | {:.2} ms |",
        delta.len(),
        began.elapsed().as_secs_f64() * 1e3
    );
    assert!(base == new);
}
