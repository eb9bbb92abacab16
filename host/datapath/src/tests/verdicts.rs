//! Real packets, and what is told about them.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    time::Duration,
};

use tidegate_ebpf_shared::{
    addr::{Addr, proto},
    event::{Event, kind},
    identity::FqdnInfo,
    maps::program,
    policy::verdict,
    reason,
};
use tidegate_policy::{
    NumbersInUse,
    compiled::{Direction, EndpointId, FqdnSelector, Generation, IdentityId, PortMatch, Verdict},
};

use super::{
    ENDPOINT, IDENTITY, RULE, compiled, policy, row, tcp_port,
    world::{self, NODE, WORKLOAD, World},
};
use crate::{Clocks, Datapath, EventStream, Query, place};

fn connects(world: &World, port: u16) -> bool {
    world.in_workload(move || {
        let to = SocketAddr::from((NODE, port));
        TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_ok()
    })
}

fn query(port: u16) -> Query {
    Query {
        source: WORKLOAD.into(),
        source_endpoint: EndpointId(0),
        destination: NODE.into(),
        port,
        protocol: proto::TCP,
    }
}

/// Waits for the first event of a kind.
fn next_of(events: &mut EventStream, kind: u8) -> Event {
    let runtime = tokio::runtime::Handle::current();
    runtime.block_on(async {
        let wanted = async {
            loop {
                let event = events.next().await.unwrap();
                if event.kind == kind {
                    return event;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), wanted)
            .await
            .expect("the event comes")
    })
}

#[test]
fn packets_meet_the_generation_in_force() {
    world::test(|world| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let _entered = runtime.enter();
        let mut datapath = world.open();
        let mut events = datapath.take_events().unwrap();
        let _listener = TcpListener::bind((NODE, 8080)).unwrap();

        datapath
            .publish(Generation(1), &compiled(policy(Verdict::Allow)))
            .unwrap();
        assert!(connects(world, 8080));
        let admitted = next_of(&mut events, kind::FLOW_NEW);
        assert_eq!(
            (admitted.src_endpoint, admitted.src_identity),
            (ENDPOINT.get(), IDENTITY.get())
        );
        assert_eq!((admitted.generation, admitted.egress_rule), (1, RULE.get()));

        datapath
            .publish(Generation(2), &compiled(policy(Verdict::Deny)))
            .unwrap();
        assert!(!connects(world, 8080));
        let denied = next_of(&mut events, kind::DROP);
        assert_eq!(denied.reason, reason::POLICY_DENY);
        assert_eq!((denied.generation, denied.egress_rule), (2, RULE.get()));
        assert!(datapath.counters().unwrap().drops[&reason::POLICY_DENY].packets > 0);

        datapath
            .publish(Generation(3), &compiled(policy(Verdict::Allow)))
            .unwrap();
        assert!(connects(world, 8080));
        let live = datapath.explain(&query(8080)).unwrap().live;
        assert!(
            live.iter().any(|(_, entry)| entry.generation == 3),
            "{live:?}"
        );
    });
}

#[test]
fn a_workload_without_policy_is_closed() {
    world::test(|world| {
        let mut datapath = world.open();
        let _listener = TcpListener::bind((NODE, 8080)).unwrap();
        assert!(connects(world, 8080), "nothing is declared yet");
        // No rows at all: neither identity nor wildcard row.
        datapath
            .publish(Generation(1), &compiled(Vec::new()))
            .unwrap();
        assert!(!connects(world, 8080));
    });
}

#[test]
fn explain_says_what_the_program_does() {
    world::test(|world| {
        let mut datapath = world.open();
        let egress = |identity, ports, verdict| row(identity, Direction::Egress, ports, verdict);
        let policies = [
            policy(Verdict::Allow),
            policy(Verdict::DefaultDeny),
            vec![
                egress(0, PortMatch::Any, Verdict::DefaultDeny),
                egress(0, tcp_port(80), Verdict::Allow),
                egress(0, tcp_port(443), Verdict::Deny),
            ],
            vec![
                egress(0, PortMatch::Any, Verdict::Allow),
                egress(1, PortMatch::Any, Verdict::DefaultDeny),
                egress(1, PortMatch::Protocol(proto::TCP), Verdict::Allow),
                egress(1, tcp_port(443), Verdict::Deny),
            ],
        ];
        let mut source_port = 40_000;
        for (generation, rows) in (1..).zip(policies) {
            datapath
                .publish(Generation(generation), &compiled(rows))
                .unwrap();
            for port in [80, 443, 9_999] {
                source_port += 1;
                let passed = run_from_endpoint(&datapath, &syn(source_port, port));
                let explained = datapath.explain(&query(port)).unwrap();
                assert_eq!(
                    explained.evaluation.is_allowed(),
                    passed,
                    "generation {generation}, port {port}: {explained:?}"
                );
                assert_eq!(explained.steps.len(), 1);
                assert_eq!(explained.steps[0].direction, Direction::Egress);
                assert_eq!(
                    explained.steps[0].entry.rule,
                    explained.evaluation.egress_rule
                );
            }
        }
        let exact = datapath.explain(&query(443)).unwrap().steps[0];
        assert_eq!(
            (exact.identity, exact.ports),
            (IdentityId(1), tcp_port(443))
        );
        assert_eq!(exact.entry.verdict, verdict::DENY);
        let broad = datapath.explain(&query(80)).unwrap().steps[0];
        assert_eq!(
            (broad.identity, broad.ports),
            (IdentityId(1), PortMatch::Protocol(proto::TCP))
        );
    });
}

/// Does the program that sees the workload's packets let this one pass?
fn run_from_endpoint(datapath: &Datapath, packet: &[u8]) -> bool {
    /// `struct __sk_buff` up to what matters: `ifindex` is its eleventh word.
    const IFINDEX: usize = 10 * 4;
    let mut context = [0; 192];
    let index = place::interface_index(world::WORKLOAD_DEVICE).unwrap();
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&index.to_ne_bytes());
    let code = &datapath.programs.get(program::FROM_ENDPOINT).unwrap().fd;
    let outcome = tidegate_bpf::testing::run(code.as_fd(), packet, &mut context, 1);
    match outcome.unwrap().answer {
        2 => false,
        0 | u32::MAX => true,
        other => panic!("unknown return code {other}"),
    }
}

/// An Ethernet frame with a TCP SYN from the workload to the node.
fn syn(source_port: u16, port: u16) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00]);
    frame.extend([0x45, 0, 0, 40, 0, 1, 0, 0, 64, proto::TCP, 0, 0]);
    frame.extend(WORKLOAD.octets());
    frame.extend(NODE.octets());
    frame.extend(source_port.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    frame
}

#[test]
fn time_ends_flows_and_learned_addresses() {
    world::test(|world| {
        let mut datapath = world.open();
        datapath
            .publish(Generation(1), &compiled(policy(Verdict::Allow)))
            .unwrap();
        let _listener = TcpListener::bind((NODE, 8080)).unwrap();
        assert!(connects(world, 8080));
        let learned = |identities: [u32; 4], expires: [u32; 4]| {
            let mut info = FqdnInfo::default();
            info.identities[..4].copy_from_slice(&identities);
            info.expires[..4].copy_from_slice(&expires);
            info
        };
        // Both stand for a name that a policy has.
        let name = |text: &str| FqdnSelector::MatchName(text.to_owned());
        let mut content = compiled(policy(Verdict::Allow));
        content
            .fqdn
            .extend([(8, name("a.")), (9, name("b."))].map(|(id, name)| (IdentityId(id), name)));
        datapath.publish(Generation(2), &content).unwrap();
        let now = Clocks::now();
        let later = now.boot_s + 100;
        let used = Addr::v4(NODE.octets());
        let idle = Addr::v4([192, 0, 2, 1]);
        let mixed = Addr::v4([192, 0, 2, 2]);
        let fqdn = &datapath.tables.fqdn;
        // What the kernel goes by is no number for something else.
        let forgotten = (1 << 24) + 5;
        fqdn.put(&idle, &learned([forgotten, 0, 0, 0], [1, 0, 0, 0]))
            .unwrap();
        let mut numbers = NumbersInUse::default();
        numbers.endpoint(ENDPOINT).identity(IDENTITY).rule(RULE);
        numbers.identity(IdentityId(forgotten));
        assert_eq!(datapath.numbers_in_use().unwrap(), numbers);
        fqdn.put(&used, &learned([9, 0, 0, 0], [1, 0, 0, 0]))
            .unwrap();
        fqdn.put(&idle, &learned([9, 0, 0, 0], [1, 0, 0, 0]))
            .unwrap();
        fqdn.put(&mixed, &learned([9, 8, 0, 0], [1, later, 0, 0]))
            .unwrap();

        let sweep = datapath.expire(now).unwrap();
        assert_eq!((sweep.flows, sweep.flows_removed), (1, 0));
        assert_eq!((sweep.fqdn, sweep.fqdn_expired), (2, 2));
        let fqdn: HashMap<_, _> = datapath
            .tables
            .fqdn
            .entries()
            .unwrap()
            .into_iter()
            .collect();
        let one = learned([9, 0, 0, 0], [1, 0, 0, 0]);
        assert_eq!(fqdn[&used], one, "a flow still uses it");
        assert_eq!(fqdn[&mixed], learned([8, 0, 0, 0], [later, 0, 0, 0]));
        assert!(!fqdn.contains_key(&idle));

        // Without the policy the names are nobody's, whoever uses the address.
        content.fqdn.clear();
        datapath.publish(Generation(3), &content).unwrap();
        let sweep = datapath.expire(now).unwrap();
        assert_eq!((sweep.fqdn, sweep.fqdn_expired), (0, 2));

        let a_day = 86_400;
        let tomorrow = Clocks {
            monotonic_ns: now.monotonic_ns + a_day * 1_000_000_000,
            boot_s: now.boot_s + a_day as u32,
        };
        let sweep = datapath.expire(tomorrow).unwrap();
        assert_eq!((sweep.flows, sweep.flows_removed), (0, 1));
        assert_eq!(sweep.fqdn, 0);
    });
}
