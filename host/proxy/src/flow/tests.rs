//! Who a connection belongs to and what decides about it, on real kernel tables.

use tidegate_contract::FailureKind;
use tidegate_policy::compiled::IdentityId;
use tidegate_wire::http::{HttpHead, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{
    decide::http::{Decision, Verdict},
    http::Inspector as _,
    testing::{snapshot, view, view_of},
};

const HTTP: L7Protocol = L7Protocol::Http;
const DNS: L7Protocol = L7Protocol::Dns;

fn ends() -> (SocketAddr, SocketAddr) {
    (
        "192.0.2.1:40000".parse().unwrap(),
        "192.0.2.2:80".parse().unwrap(),
    )
}

fn flow(view: &Rc<View>) -> Option<FlowContext> {
    let (source, destination) = ends();
    FlowContext::of_workload(view.clone(), proto::TCP, source, destination).unwrap()
}

fn get(flow: &FlowContext) -> Decision {
    flow.decide_request(&HttpHead {
        version: Version::Http11,
        method: "GET",
        path: "/",
        authority: "a",
        headers: &[],
    })
}

#[test]
fn how_it_is_read() {
    let view = view(
        Generation(1),
        vec![
            (L7Id(5), HTTP, "allow"),
            (L7Id(6), HTTP, "allow"),
            (L7Id(7), DNS, "allow"),
        ],
    );
    assert!(flow(&view).is_none(), "nobody admitted it");
    for (sets, reading) in [
        ((0, 0), Reading::Opaque),
        ((5, 0), Reading::As(HTTP)),
        ((5, 6), Reading::As(HTTP)),
        ((0, 7), Reading::As(DNS)),
        ((5, 7), Reading::Contradiction),
        ((5, 9), Reading::Unknown),
    ] {
        view.admit((proto::TCP, 1), ends(), sets);
        assert_eq!(flow(&view).unwrap().reading(), reading, "{sets:?}");
    }
}

#[test]
fn a_decision_follows_the_kernels_entry() {
    let view = view(Generation(1), vec![(L7Id(5), HTTP, "allow")]);
    view.admit((proto::TCP, 1), ends(), (5, 0));
    let flow = flow(&view).unwrap();
    assert_eq!(get(&flow).verdict, Verdict::Allow);

    // The proxy is ahead of the kernel: the flow is still of the older generation,
    // and its rule set is still known.
    view.advance(vec![(L7Id(6), HTTP, "deny")]);
    let decision = get(&flow);
    assert_eq!(
        (&decision.verdict, decision.attribution.generation),
        (&Verdict::Allow, Generation(2))
    );

    // The kernel follows, with the next packet.
    view.admit((proto::TCP, 2), ends(), (6, 0));
    let decision = get(&flow);
    assert!(matches!(decision.verdict, Verdict::Deny(_)));
    assert_eq!(decision.attribution.rules, [RuleId(60)]);

    // Two generations on, a rule set nobody names any more is not guessed at.
    view.advance(vec![]);
    view.advance(vec![]);
    let decision = get(&flow);
    assert!(matches!(decision.verdict, Verdict::Deny(_)));
    assert_eq!(decision.attribution.error, Some(outward::unknown(L7Id(6))));
}

/// What decided about a tunnel is the same while rule sets, their plugins and audit mode are,
/// whatever else changes on the node; and what nobody can decide does not stand.
#[test]
fn what_was_decided_stands_until_something_else_would_decide() {
    let allows = || vec![(L7Id(5), HTTP, "allow"), (L7Id(6), HTTP, "allow")];
    let view = view(Generation(1), allows());
    view.admit((proto::TCP, 1), ends(), (5, 0));
    let flow = flow(&view).unwrap();
    let standing = flow.standing();
    assert!(flow.stands(&standing));
    view.advance(allows());
    assert!(flow.stands(&standing), "the kernel has not decided again");
    view.admit((proto::TCP, 2), ends(), (5, 0));
    assert!(flow.stands(&standing), "another generation, the same rules");
    for (generation, plugin, sets, what) in [
        (3, "allow", (6, 0), "another rule set"),
        (4, "allow", (6, 5), "one more"),
        (5, "allow:1", (6, 5), "another plugin"),
        (6, "allow:1", (0, 0), "none"),
    ] {
        view.advance(vec![(L7Id(5), HTTP, plugin), (L7Id(6), HTTP, plugin)]);
        view.admit((proto::TCP, generation), ends(), sets);
        assert!(!flow.stands(&standing), "{what}");
        assert!(flow.stands(&standing), "{what}: it was taken note of");
    }
    // A plugin becomes another one within a generation, when it is ready.
    view.admit((proto::TCP, 6), ends(), (5, 0));
    view.advance(allows());
    view.admit((proto::TCP, 7), ends(), (5, 0));
    assert!(!flow.stands(&standing));
    assert!(flow.stands(&standing));
    let latest = view.shared.latest().unwrap();
    let other = crate::testing::Sets(vec![(L7Id(5), HTTP, "deny")]);
    view.shared
        .publish(latest.with_plugins(std::sync::Arc::new(other)));
    assert!(
        !flow.stands(&standing),
        "another plugin in the same generation"
    );
    view.advance(vec![]);
    view.advance(vec![]);
    assert!(!flow.stands(&standing), "nobody knows the rule set");
    assert!(!flow.stands(&standing), "and goes on not to");
}

/// The kernel judges a host service's socket once, where it is opened; while it stays open the
/// rules of now decide about what comes through it.
#[test]
fn an_open_socket_of_a_host_service_is_held_to_the_rules_of_now() {
    use tidegate_ebpf_shared::policy::{PolicyEntry, verdict};
    let sets = || vec![(L7Id(5), HTTP, "allow"), (L7Id(6), HTTP, "deny")];
    let view = view(Generation(1), sets());
    let (client, destination) = ends();
    let listener = "127.0.0.1:9".parse().unwrap();
    view.steer(proto::UDP, client, destination, 5);
    let flow = FlowContext::of_datagram(view.clone(), (client, listener), listener);
    let flow = flow.unwrap().expect("steered");
    assert_eq!(get(&flow).verdict, Verdict::Allow);
    let tables = view.current().state.tables.clone();
    let says = |verdict, l7| PolicyEntry {
        rule: 60,
        l7,
        verdict,
        ..PolicyEntry::default()
    };

    // The proxy is ahead of the kernel, which still has the rules of before.
    tables.rule(1, says(verdict::REDIRECT, 5));
    view.advance(sets());
    assert_eq!(get(&flow).verdict, Verdict::Allow);
    tables.rule(2, says(verdict::REDIRECT, 6));
    let decision = get(&flow);
    assert!(matches!(decision.verdict, Verdict::Deny(_)));
    assert_eq!(
        decision.attribution.rules,
        [RuleId(60)],
        "by a rule, not a failure"
    );

    let standing = flow.standing();
    view.advance(sets());
    tables.rule(3, says(verdict::ALLOW, 0));
    assert_eq!(get(&flow).verdict, Verdict::Allow);
    assert_eq!(flow.reading(), Reading::Opaque);
    assert!(!flow.stands(&standing));

    view.advance(sets());
    tables.rule(4, says(verdict::DENY, 0));
    let decision = get(&flow);
    assert!(matches!(decision.verdict, Verdict::Deny(_)));
    let told = decision.attribution.error;
    let why = FailureKind::RulesUnknown.because("the flow is no longer admitted");
    assert_eq!(told, Some(why));
    assert_eq!(flow.reading(), Reading::Unknown);
    assert!(flow.is_over(), "the connection ends");
    tables.set_audit(true);
    assert_eq!(get(&flow).verdict, Verdict::Allow, "it is only reported");
}

/// A rule set leads to what is in shadow of its traffic: other rules, or a refusal. Where
/// a destination has several rows, they say it.
#[test]
fn what_is_in_shadow_is_told_of_a_request_that_is_read() {
    use tidegate_ebpf_shared::{identity::reserved::WORLD_IPV4, policy::verdict};
    use tidegate_policy::compiled::{
        Decision as Row, Direction, L7RuleSet, PolicyRow, PortMatch, Rehearsed, Verdict as Said,
    };
    let beside = |verdict, l7| Rehearsed {
        verdict,
        rule: RuleId(90),
        l7,
    };
    let set = |shadow| {
        std::sync::Arc::new(L7RuleSet {
            protocol: HTTP,
            http: Default::default(),
            chain: Vec::new(),
            tls: None,
            contexts: Default::default(),
            shadow: Some(shadow),
        })
    };
    let mut snapshot = snapshot(Generation(1));
    snapshot
        .l7
        .insert(L7Id(5), set(beside(Said::Redirect, L7Id(6))));
    snapshot
        .l7
        .insert(L7Id(7), set(beside(Said::DefaultDeny, L7Id(0))));
    // A set of before, whose number means the same for ever.
    snapshot
        .l7
        .insert(L7Id(8), set(beside(Said::Redirect, L7Id(99))));
    let row = PolicyRow {
        identity: IdentityId(WORLD_IPV4),
        direction: Direction::Egress,
        ports: PortMatch::Any,
        decision: Row {
            verdict: Said::Redirect,
            rule: RuleId(1),
            l7: L7Id(6),
            shadow: Some(beside(Said::Deny, L7Id(0))),
        },
    };
    snapshot.outward.insert(EndpointId(3), [row].into());
    let sets = vec![
        (L7Id(5), HTTP, "allow"),
        (L7Id(6), HTTP, "deny"),
        (L7Id(7), HTTP, "allow"),
        (L7Id(8), HTTP, "allow"),
    ];
    let view = view_of(snapshot, sets);
    let told = |sets| {
        view.admit((proto::TCP, 1), ends(), sets);
        let decision = get(&flow(&view).unwrap());
        let rehearsed = decision.attribution.rehearsed;
        (
            decision.verdict == Verdict::Allow,
            rehearsed.map(|r| (r.allowed, r.rules)),
        )
    };
    assert_eq!(told((5, 0)), (true, Some((false, vec![RuleId(60)]))));
    assert_eq!(told((0, 7)), (true, Some((false, vec![RuleId(90)]))));
    assert_eq!(told((8, 0)), (true, None), "what is not known is not told");
    assert_eq!(told((6, 7)), (false, None), "refused in both");

    // The flow itself would not come about: no request would either.
    let dropped = |sets| {
        view.admit_with((proto::TCP, 1), ends(), sets, (verdict::DENY, 70));
        get(&flow(&view).unwrap()).attribution.rehearsed
    };
    let by = dropped((8, 0)).map(|r| (r.allowed, r.rules));
    assert_eq!(by, Some((false, vec![RuleId(70)])));
    assert!(dropped((6, 7)).is_none(), "refused in both");

    let way = Way {
        endpoint: EndpointId(3),
        identity: IdentityId(WORLD_IPV4),
        destination: ends().1,
        transport: proto::TCP,
    };
    let local = view.current();
    let united = outward::allowed(&local.state, &way, 0).unwrap().unwrap();
    assert_eq!(united.enforced.sets, [L7Id(6)]);
    let side = Side {
        chain: local.chain(L7Id(6)),
        or: Vec::new(),
        open: false,
        rule: RuleId(1),
        ingress: false,
        audit: false,
        tunnels: false,
    };
    let shadow = outward::in_shadow(&side, L7Id(6), Some(&united), &local);
    assert!(matches!(shadow, Ok(InShadow::Refuses(RuleId(90)))));
}

#[test]
fn records_say_who_and_why() {
    let view = view(
        Generation(1),
        vec![(L7Id(5), HTTP, "allow:1"), (L7Id(6), HTTP, "deny")],
    );
    view.admit((proto::TCP, 1), ends(), (5, 6));
    let flow = flow(&view).unwrap();
    let decision = get(&flow);
    let summary = L7Summary::Http {
        version: "HTTP/1.1".into(),
        method: "GET".into(),
        url: "http://a/".repeat(1_000),
        status: 403,
        grpc: None,
        latency_us: 1,
    };
    flow.record(decision.attribution, false, summary);
    let record = view.shared.records.take().records.remove(0);
    assert_eq!(record.identities, (IdentityId(300), IdentityId(301)));
    assert_eq!(record.endpoints, (EndpointId(3), EndpointId(4)));
    assert_eq!((record.source, record.destination), ends());
    assert_eq!(
        (record.rules.as_slice(), record.ingress),
        (&[RuleId(60)][..], true)
    );
    assert_eq!(record.plugin.as_deref(), Some("deny@1"));
    let L7Summary::Http { url, .. } = record.l7 else {
        panic!("{:?}", record.l7);
    };
    assert!(url.len() <= crate::records::MAX_TEXT);
}

/// The upstream leg of a workload's flow, end to end on loopback addresses.
#[tokio::test]
async fn the_upstream_leg_has_the_clients_address() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let source = {
        let free = std::net::TcpListener::bind("127.9.9.9:0").unwrap();
        free.local_addr().unwrap()
    };
    let destination = server.local_addr().unwrap();
    let view = view(Generation(1), vec![(L7Id(5), HTTP, "allow")]);
    view.admit((proto::TCP, 1), (source, destination), (5, 0));
    let flow = FlowContext::of_workload(view, proto::TCP, source, destination)
        .unwrap()
        .unwrap();
    let (leg, accepted) = tokio::join!(flow.connect_upstream(), server.accept());
    let (mut leg, (mut accepted, peer)) = (leg.unwrap(), accepted.unwrap());
    assert_eq!(peer, source);
    leg.write_all(b"hello").await.unwrap();
    let mut text = [0; 5];
    accepted.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"hello");
}

/// A connection goes on with the TLS it was made with, so it ends when that is not what its
/// rules want.
#[test]
fn a_connection_is_held_to_the_tls_its_rules_want() {
    use tidegate_policy::{
        compiled::L7RuleSet,
        tls::{TlsContext, TlsContexts},
    };
    let secret = |name: &str, trusted_ca: Option<&str>| {
        Some(TlsContext {
            namespace: "shop".into(),
            name: name.into(),
            trusted_ca: trusted_ca.map(Into::into),
            certificate: None,
            private_key: None,
        })
    };
    let ends_with = |terminating, originating| TlsContexts {
        terminating,
        originating,
    };
    let contexts = [
        (5, ends_with(None, None)),
        (6, ends_with(secret("web", None), None)),
        (7, ends_with(secret("web", Some("clients.crt")), None)),
        (8, ends_with(None, secret("web", None))),
        (9, ends_with(secret("nowhere", None), None)),
        (10, ends_with(secret("web", None), None)),
    ];
    let mut snapshot = snapshot(Generation(1));
    for (id, contexts) in &contexts {
        let set = L7RuleSet {
            protocol: HTTP,
            http: Default::default(),
            chain: Vec::new(),
            tls: None,
            contexts: contexts.clone(),
            shadow: None,
        };
        snapshot.l7.insert(L7Id(*id), std::sync::Arc::new(set));
    }
    let sets = contexts.iter().map(|(id, _)| (L7Id(*id), HTTP, "allow"));
    let view = view_of(snapshot, sets.collect());
    for (before, _) in &contexts {
        for (after, _) in &contexts {
            view.admit((proto::TCP, 0), ends(), (0, *before));
            let flow = flow(&view).unwrap();
            flow.ends();
            assert_eq!(get(&flow).verdict, Verdict::Allow);
            view.admit((proto::TCP, 0), ends(), (0, *after));
            let same = contexts.iter().find(|(id, _)| id == before).map(|c| &c.1)
                == contexts.iter().find(|(id, _)| id == after).map(|c| &c.1);
            let decision = get(&flow);
            let passes = decision.verdict == Verdict::Allow;
            assert_eq!((passes, flow.is_over()), (same, !same), "{before} {after}");
            let told = decision.attribution.error;
            let other = (!same).then(|| RulesChanged.because(OTHER_TLS));
            assert_eq!(told, other);
            assert_eq!(flow.reading() == Reading::Unknown, !same);
        }
    }
}
