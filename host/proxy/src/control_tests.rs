//! The proxy's side of the conversation, over a real socket with real descriptors.

use std::os::fd::AsFd;
use tidegate_policy::compiled::IdentityId;

use tidegate_ebpf_shared::steer::class;
use tokio::task::LocalSet;

use super::*;

const RESOURCES: Resources = Resources {
    descriptors: 4_096,
    connections_per_cpu: 1_024,
    memory_per_cpu_mib: 64,
    header_list: 65_536,
};
use tidegate_channel::{Channel, listener};
use tidegate_contract::{Limits, PluginInfo, World};

use crate::{
    tables::testing::descriptors,
    testing::{Fixed, snapshot},
};

const INFO: ListenerInfo = ListenerInfo {
    class: class::TCP4,
    cpu: 0,
};

async fn greet(agent: &Channel, listeners: &[(ListenerInfo, OwnedFd)]) {
    let tables = descriptors(2);
    let mut attached: Vec<_> = tables.values().map(AsFd::as_fd).collect();
    attached.extend(listeners.iter().map(|(_, socket)| socket.as_fd()));
    let hello = ToProxy::Hello {
        protocol: PROTOCOL_VERSION,
        tables: tables.keys().map(ToString::to_string).collect(),
        listeners: listeners.iter().map(|(info, _)| *info).collect(),
    };
    agent.send_plain(&hello, &attached).await.unwrap();
}

/// The next message that is not counters.
async fn next(agent: &Channel) -> (ToAgent, Vec<OwnedFd>) {
    loop {
        let (message, attached) = agent.receive::<ToAgent>().await.unwrap().unwrap();
        if !matches!(message, ToAgent::Stats(_)) {
            return (message, attached);
        }
    }
}

async fn publish(agent: &Channel, snapshot: &Snapshot) -> ToAgent {
    bring(agent, (1, None), snapshot).await
}

/// Publishes bytes of this number, for what came with that of another.
async fn bring(
    agent: &Channel,
    (sequence, base): (u64, Option<u64>),
    what: &impl serde::Serialize,
) -> ToAgent {
    let bytes = codec::encode(what).unwrap();
    let snapshot = sealed::seal("snapshot", &bytes).unwrap();
    let message = ToProxy::Publish {
        sequence,
        base,
        artifacts: Vec::new(),
    };
    agent.send(&message, &[snapshot.as_fd()]).await.unwrap();
    next(agent).await.0
}

#[tokio::test]
async fn what_is_different_is_enough_and_what_does_not_fit_is_asked_for_whole() {
    let local = LocalSet::new();
    let mut control = Control::new(Fixed(Vec::new()), RESOURCES);
    let shared = control.shared.clone();
    let labels = |generation| {
        let latest = shared.latest().unwrap();
        assert_eq!(latest.generation, generation);
        latest
            .identities
            .keys()
            .map(|id| id.get())
            .collect::<Vec<_>>()
    };
    let of = |generation, identities: &[u32]| Snapshot {
        identities: identities
            .iter()
            .map(|id| (IdentityId(*id), Vec::new()))
            .collect(),
        ..snapshot(generation)
    };
    let (one, two, three) = (
        of(Generation(1), &[1, 2]),
        of(Generation(2), &[2, 3]),
        of(Generation(3), &[3]),
    );
    let is_whole = |answer, of| matches!(answer, ToAgent::Whole { sequence } if sequence == of);
    let scenario = async {
        for _ in 0..2 {
            let (agent, proxy) = Channel::pair().unwrap();
            let session = async {
                greet(&agent, &[]).await;
                next(&agent).await;
                // Of an earlier session nothing counts.
                let answer = bring(&agent, (1, Some(7)), &Delta::between(&one, &two)).await;
                assert!(is_whole(answer, 1));
                bring(&agent, (2, None), &one).await;
                assert_eq!(labels(Generation(1)), [1, 2]);
                bring(&agent, (3, Some(2)), &Delta::between(&one, &two)).await;
                assert_eq!(labels(Generation(2)), [2, 3]);
                // Of the right number, and yet of something else.
                let answer = bring(&agent, (4, Some(3)), &Delta::between(&one, &three)).await;
                assert!(is_whole(answer, 4));
                assert_eq!(labels(Generation(2)), [2, 3], "what is in use stays");
                bring(&agent, (5, None), &three).await;
                assert_eq!(labels(Generation(3)), [3]);
                drop(agent);
            };
            let (end, ()) = tokio::join!(control.session(&proxy), session);
            assert_eq!(end.unwrap(), End::AgentGone);
        }
    };
    local.run_until(scenario).await;
}

#[tokio::test]
async fn a_second_agent_finds_what_the_first_one_left() {
    LocalSet::new()
        .run_until(async {
            let mut control = Control::new(Fixed(Vec::new()), RESOURCES);
            let (agent, proxy) = Channel::pair().unwrap();
            let first = async {
                let listeners = [(INFO, listener::create(INFO).unwrap())];
                greet(&agent, &listeners).await;
                let (hello, attached) = next(&agent).await;
                let ToAgent::Hello {
                    generation,
                    listeners,
                    ..
                } = hello
                else {
                    panic!("{hello:?}");
                };
                assert_eq!(
                    (generation, listeners.len(), attached.len()),
                    (Generation(0), 0, 0)
                );
                let mut snapshot = snapshot(Generation(7));
                snapshot.plugins.insert("bad".into(), plugin());
                let ToAgent::Published {
                    generation,
                    refused,
                } = publish(&agent, &snapshot).await
                else {
                    panic!("not published");
                };
                assert_eq!(generation, Generation(7));
                assert_eq!(refused, [("bad".to_owned(), "it is bad".to_owned())]);
                drop(agent);
            };
            let (end, ()) = tokio::join!(control.session(&proxy), first);
            assert_eq!(end.unwrap(), End::AgentGone);

            let (agent, proxy) = Channel::pair().unwrap();
            let second = async {
                greet(&agent, &[]).await;
                let (hello, attached) = next(&agent).await;
                let ToAgent::Hello {
                    generation,
                    listeners,
                    pid,
                    ..
                } = hello
                else {
                    panic!("{hello:?}");
                };
                assert_eq!((generation, pid), (Generation(7), std::process::id()));
                assert_eq!((listeners, attached.len()), (vec![INFO], 1));
                agent
                    .send(&ToProxy::Drain { deadline_ms: 10 }, &[])
                    .await
                    .unwrap();
            };
            let (end, ()) = tokio::join!(control.session(&proxy), second);
            assert_eq!(end.unwrap(), End::Drained);
        })
        .await;
}

#[tokio::test]
async fn what_makes_no_sense_ends_the_session() {
    let mut control = Control::new(Fixed(Vec::new()), RESOURCES);
    let (agent, proxy) = Channel::pair().unwrap();
    let early = ToProxy::Publish {
        sequence: 1,
        base: None,
        artifacts: Vec::new(),
    };
    let (end, sent) = tokio::join!(control.session(&proxy), agent.send(&early, &[]));
    sent.unwrap();
    assert!(end.unwrap_err().to_string().contains("before a greeting"));

    let (agent, proxy) = Channel::pair().unwrap();
    let hello = ToProxy::Hello {
        protocol: PROTOCOL_VERSION,
        tables: Vec::new(),
        listeners: vec![INFO],
    };
    let (end, sent) = tokio::join!(control.session(&proxy), agent.send(&hello, &[]));
    sent.unwrap();
    assert!(end.unwrap_err().to_string().contains("descriptors"));
}

fn plugin() -> PluginInfo {
    PluginInfo {
        version: "1".into(),
        digest: "sha256:0".into(),
        artifact: "sha256:1".into(),
        world: World::HttpFilter,
        capabilities: Vec::new(),
        limits: Limits::default(),
    }
}
