//! The API over a real Unix socket, as the CLI and scripts use it.

use std::net::IpAddr;

use tidegate_control::{
    standing::EndpointState,
    view::{EndpointView, PortView, ServiceView},
};
use tidegate_ebpf_shared::identity::reserved;
use tidegate_observe::{
    filter::FlowFilter,
    record::{FlowRecord, FlowVerdict, Party},
    testing::record,
};
use tidegate_policy::compiled::{
    AddrIdentity, Compiled, DefaultDeny, EndpointId, Generation, IdentityId, Location, ServiceId,
};

use super::*;
use crate::client::{Client, ClientError};

struct Echo;

impl Explain for Echo {
    fn explain<'a>(&'a self, query: &'a ExplainQuery, view: &'a View) -> Explaining<'a> {
        let party = |address, port| Party {
            address,
            port,
            identity: IdentityId(0),
            endpoint: None,
            labels: Vec::new(),
            names: Vec::new(),
        };
        let explanation = Explanation {
            source: party(query.source, 0),
            destination: party(query.destination, query.port),
            protocol: query.protocol.to_string(),
            service: None,
            steps: Vec::new(),
            learned: Vec::new(),
            live: None,
            verdict: FlowVerdict::Forwarded,
            shadow: None,
            reason: None,
            l7: None,
            upstream_source: None,
            notes: query.notes.clone(),
            obstacles: Vec::new(),
            generation: view.generation,
        };
        Box::pin(async { Ok(explanation) })
    }
}

/// Numbers that nobody else has.
struct Counting;

impl Numbers for Counting {
    fn fill(&self, view: &mut View) {
        view.proxy.stats.generation = Generation(17);
    }
}

struct Running {
    client: Client,
    readers: Readers,
    _view: watch::Sender<Arc<View>>,
    _dir: tempfile::TempDir,
}

async fn start() -> Running {
    let endpoint = |name: &str, address: &str| EndpointView {
        id: EndpointId(1),
        name: name.into(),
        identity: IdentityId(256),
        labels: Vec::new(),
        addresses: vec![address.parse().expect("literal address")],
        ports: vec![PortView {
            name: "http".into(),
            port: 8080,
            protocol: 6,
        }],
        location: Location::Interface("tg0".into()),
        default_deny: DefaultDeny::default(),
        state: EndpointState::Ready,
        policy_entries: 0,
    };
    let service = |name: &str, port: &str, addr: [u8; 4]| ServiceView {
        name: name.into(),
        port_name: Some(port.into()),
        id: ServiceId(1),
        addr: IpAddr::from(addr),
        port: 80,
        protocol: 6,
        algorithm: tidegate_policy::compiled::Algorithm::Random,
        backends: Vec::new(),
    };
    let compiled = Compiled {
        ipcache: [
            ("10.0.0.254/32", reserved::HOST),
            ("0.0.0.0/0", reserved::WORLD_IPV4),
            ("192.0.2.0/24", 1 << 24),
        ]
        .into_iter()
        .map(|(net, identity)| {
            let owner = AddrIdentity {
                identity: IdentityId(identity),
                endpoint: None,
            };
            (net.parse::<ipnet::IpNet>().expect("literal prefix"), owner)
        })
        .collect(),
        ..Compiled::default()
    };
    let mut learned = LearnedNames::new(4);
    let address = IpAddr::from([203, 0, 113, 9]);
    learned.learn(Instant::now(), "learned.example.", &[(address, 60)]);
    let view = View {
        compiled: Arc::new(compiled),
        generation: Generation(3),
        endpoints: Arc::new(vec![
            endpoint("shop/frontend", "10.0.0.1"),
            endpoint("shop/backend", "10.0.0.2"),
            endpoint("blue/twin", "10.0.0.3"),
            endpoint("green/twin", "10.0.0.4"),
        ]),
        services: Arc::new(vec![
            service("shop/store", "web", [10, 5, 0, 1]).into(),
            service("shop/frontend", "site", [10, 5, 0, 2]).into(),
        ]),
        ..View::default()
    };
    let (sender, view) = watch::channel(Arc::new(view));
    let readers = Readers {
        view,
        flows: Arc::new(FlowStore::new(16)),
        learned: Arc::new(Mutex::new(learned)),
        explain: Arc::new(Echo),
        numbers: Arc::new(Counting),
    };
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("agent.sock");
    let (served, to_serve) = (path.clone(), readers.clone());
    let serving = tokio::spawn(async move { serve_api(&served, to_serve).await });
    let comes_up = async {
        // It runs whenever this test does not.
        while !path.exists() {
            assert!(!serving.is_finished(), "the API ended: {:?}", serving.await);
            tokio::task::yield_now().await;
        }
    };
    let limit = std::time::Duration::from_secs(20);
    let up = tokio::time::timeout(limit, comes_up).await;
    up.expect("the API is there in time");
    Running {
        client: Client::new(path),
        readers,
        _view: sender,
        _dir: dir,
    }
}

#[tokio::test]
async fn status_is_the_view_with_the_numbers_of_the_moment() {
    let running = start().await;
    let view: View = running.client.get("/v1/status").await.expect("answers");
    assert_eq!(view.generation, Generation(3));
    assert_eq!(view.endpoints[0].name, "shop/frontend");
    assert_eq!(view.proxy.stats.generation, Generation(17));
}

#[tokio::test]
async fn a_follower_gets_the_past_it_asked_for_and_then_what_follows() {
    let running = start().await;
    for port in 1..=3 {
        running.readers.flows.push(record(port));
    }
    let filter = FlowFilter {
        port: vec![2, 3, 4],
        ..FlowFilter::default()
    };
    let mut lines = running
        .client
        .flows(&filter, Some(1), true)
        .await
        .expect("answers");
    let mut next_port = async || {
        let line = lines
            .next_line()
            .await
            .expect("reads")
            .expect("not at the end");
        serde_json::from_str::<FlowRecord>(&line)
            .expect("a record")
            .destination
            .port
    };
    assert_eq!(next_port().await, 3);
    running.readers.flows.push(record(1));
    running.readers.flows.push(record(4));
    assert_eq!(next_port().await, 4);
}

#[tokio::test]
async fn a_filter_that_can_never_match_is_refused() {
    let running = start().await;
    let filter = FlowFilter {
        protocol: vec!["tpc".into()],
        ..FlowFilter::default()
    };
    let refused = running
        .client
        .flows(&filter, None, false)
        .await
        .expect_err("refused");
    assert!(
        matches!(&refused, ClientError::Refused { message, .. }
        if message.starts_with("protocol: \"tpc\" is not known")),
        "{refused}"
    );
}

async fn explain(question: &str) -> Result<(IpAddr, IpAddr, u16), String> {
    let running = start().await;
    let answer: Result<Explanation, _> =
        running.client.get(&format!("/v1/explain?{question}")).await;
    match answer {
        Ok(e) => Ok((e.source.address, e.destination.address, e.destination.port)),
        Err(ClientError::Refused { message, .. }) => Err(message),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn explain_takes_names_and_says_what_is_wrong_with_them() {
    let ip = |last| IpAddr::from([10, 0, 0, last]);
    assert_eq!(
        explain("from=frontend&to=shop/backend&port=80").await,
        Ok((ip(1), ip(2), 80))
    );
    assert_eq!(
        explain("from=10.0.0.9&to=backend&protocol=icmp").await,
        Ok((ip(9), ip(2), 8))
    );
    assert_eq!(
        explain("from=frontend&to=backend&port=http").await,
        Ok((ip(1), ip(2), 8080))
    );
    assert_eq!(
        explain("from=host&to=backend&port=http").await,
        Ok((ip(254), ip(2), 8080))
    );
    // The first address of documentation has a rule of its own.
    let outside = IpAddr::from([198, 51, 100, 1]);
    assert_eq!(
        explain("from=frontend&to=world&port=443").await,
        Ok((ip(1), outside, 443))
    );
    assert_eq!(
        explain("from=frontend&to=learned.example&port=443").await,
        Ok((ip(1), IpAddr::from([203, 0, 113, 9]), 443))
    );
    // A port's name, also where the service has no other.
    assert_eq!(
        explain("from=frontend&to=svc/store&port=web").await,
        Ok((ip(1), IpAddr::from([10, 5, 0, 1]), 80))
    );
    let cases = [
        (
            "from=frontent&to=backend&port=80",
            "did you mean \"shop/frontend\"?",
        ),
        (
            "from=twin&to=backend&port=80",
            "ambiguous; use one of: blue/twin, green/twin",
        ),
        ("from=frontend&to=backend", "port: missing"),
        (
            "from=frontend&to=backend&port=htpp",
            "port: \"htpp\" is no port of \"backend\"; use a number or one of: http",
        ),
        (
            "from=backend&to=frontend&port=site",
            "the service of that name has it: ask `svc/frontend:site`",
        ),
        (
            "from=kube-apiserver&to=backend&port=80",
            "is nobody on a node that runs alone",
        ),
        (
            "from=frontend&to=db.example&port=80",
            "no endpoint, service, entity or learned DNS name",
        ),
        (
            "from=frontend&to=backend&port=80&message=%7B%22http%22%3A%7B%22method%22%3A%22GET\
             %22%2C%22target%22%3A%22%2F%20x%22%7D%7D",
            "path: \"/ x\" is not one word",
        ),
        (
            "from=frontend&to=backend&protocol=sctp",
            "use one of: tcp, udp, icmp, icmpv6",
        ),
        (
            "from=frontend&to=2001:db8::1&port=1",
            "no address family in common",
        ),
    ];
    for (question, expected) in cases {
        let message = explain(question).await.expect_err(question);
        assert!(message.contains(expected), "{question}: {message}");
    }
}

#[tokio::test]
async fn not_ready_until_a_generation_is_in_force_and_the_proxy_serves() {
    let running = start().await;
    let refused = running.client.text("/readyz").await.expect_err("not ready");
    assert!(
        refused.to_string().contains("the proxy is not serving"),
        "{refused}"
    );
}
