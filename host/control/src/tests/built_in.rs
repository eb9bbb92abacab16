//! Plugins of the program's own that are compiled when a rule first needs them.

use tidegate_contract::{Limits, PluginInfo, World};

use crate::standing::PluginState;

use super::{Bench, Candidate, Event, Request, WEB, allow};

fn kafka() -> Candidate {
    Candidate {
        name: "kafka".into(),
        info: PluginInfo {
            version: "1".into(),
            digest: "sha256:k".into(),
            artifact: "sha256:code".into(),
            world: World::StreamFilter,
            capabilities: Vec::new(),
            limits: Limits::default(),
        },
        artifact: "/code".into(),
        signer: None,
    }
}

#[tokio::test]
async fn nothing_waits_for_what_is_compiled_when_first_needed() {
    let mut bench = Bench::new();
    bench.write("endpoints/web.yaml", WEB);
    bench.settle().await;
    let rules = allow("k", 9092).replace(
        "protocol: TCP}]",
        "protocol: TCP}], rules: {kafka: [{topic: a}]}",
    );
    bench.write("policies/k.yaml", &rules);
    bench.write("policies/plain.yaml", &allow("plain", 80));
    let requests = bench.settle().await;
    let asked = |request: &Request| matches!(request, Request::BuiltIn(name) if name == "kafka");
    assert_eq!(requests.iter().filter(|one| asked(one)).count(), 1);
    assert_eq!(bench.rules(), ["k", "plain"], "both are in force at once");
    let sent = |bench: &Bench| {
        bench
            .sinks
            .with(|record| record.snapshot.plugins.contains_key("kafka"))
    };
    assert!(
        !sent(&bench),
        "it is not there: what it lets pass is refused"
    );
    let told = |bench: &Bench| {
        let obstacles = bench.view().not_ready.clone();
        obstacles
            .iter()
            .any(|why| why.contains("kafka is being compiled"))
    };
    assert!(told(&bench), "{:?}", bench.view().not_ready);
    // Asked for once, whatever else changes.
    bench.write("policies/plain.yaml", &allow("plain", 81));
    assert!(!bench.settle().await.iter().any(asked));

    bench
        .control
        .apply(Event::BuiltIn("kafka".into(), Ok(kafka())));
    bench.publish().await;
    assert!(sent(&bench) && !told(&bench));
    let list = bench.view().plugins.clone();
    let states: Vec<_> = list.iter().map(|row| (&*row.name, row.state)).collect();
    assert_eq!(states, [("kafka", PluginState::Active)]);
}
