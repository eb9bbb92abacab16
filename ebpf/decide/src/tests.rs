//! Tables and properties of every decision. The kernel programs that use them are
//! compared with an independent model in `tests/tests/kernel.rs`.

use std::{collections::HashMap, vec, vec::Vec};

use proptest::prelude::*;
use tidegate_ebpf_shared::{
    addr::{Addr, proto},
    config::flags as config_flags,
    endpoint::EndpointInfo,
    flow::{FlowEntry, FlowKey, flags, hint as hints},
    identity::{AddrInfo, FqdnInfo, reserved},
    limits::{FQDN_GRACE, MAGLEV_TABLE, MAX_CPUS},
    policy::{PolicyEntry, PolicyKey, direction, verdict},
    reason,
};

use crate::{
    Age, Evaluation, Tables, Tuple, evaluate,
    flow::{self, Segment},
    hint, judge,
    rate::TokenBucket,
    service, steer,
    tuple::{icmp, tcp},
};

const SECOND: u64 = 1_000_000_000;
const A: Addr = Addr::v4([10, 0, 0, 10]);
const B: Addr = Addr::v4([10, 0, 0, 11]);
const WORLD: Addr = Addr::v4([192, 0, 2, 9]);

fn tuple(src: Addr, dst: Addr, protocol: u8, src_port: u16, dst_port: u16) -> Tuple {
    Tuple {
        src,
        dst,
        src_port: src_port.to_be_bytes(),
        dst_port: dst_port.to_be_bytes(),
        protocol,
    }
}

fn key_of(tuple: &Tuple) -> (FlowKey, bool) {
    let mut key = FlowKey::default();
    let low = tuple.flow_key(&mut key);
    (key, low)
}

fn any_tuple() -> impl Strategy<Value = Tuple> {
    let protocol = prop_oneof![Just(proto::TCP), Just(proto::UDP), any::<u8>()];
    (
        any::<[u8; 16]>(),
        any::<[u8; 16]>(),
        protocol,
        any::<[u8; 4]>(),
    )
        .prop_map(|(src, dst, protocol, [a, b, c, d])| Tuple {
            src: Addr(src),
            dst: Addr(dst),
            src_port: [a, b],
            dst_port: [c, d],
            protocol,
        })
}

proptest! {
    #[test]
    fn both_directions_have_one_key(tuple in any_tuple()) {
        let mut reply = tuple;
        (reply.src, reply.dst) = (tuple.dst, tuple.src);
        if !tuple.is_icmp() {
            (reply.src_port, reply.dst_port) = (tuple.dst_port, tuple.src_port);
        }
        let ((key, low), (reply_key, reply_low)) = (key_of(&tuple), key_of(&reply));
        prop_assert_eq!(key, reply_key);
        let same_end = tuple.src == tuple.dst && key.low_port == key.high_port;
        prop_assert!(same_end || low != reply_low);
        prop_assert!((key.low_addr.0, key.low_port) <= (key.high_addr.0, key.high_port));
    }

    #[test]
    fn the_opening_packet_is_found_again(tuple in any_tuple()) {
        prop_assume!(!tuple.is_icmp());
        let (key, low) = key_of(&tuple);
        let mut entry = FlowEntry::default();
        flow::open(&mut entry, &Evaluation::default(), low, 5);
        prop_assert_eq!(Tuple::of_flow(&key, &entry), tuple);
        prop_assert!(flow::from_source(&entry, low));
    }

    #[test]
    fn a_flow_ends_at_most_once(packets in prop::collection::vec((any::<bool>(), any::<u8>()), 0..40)) {
        let mut entry = FlowEntry::default();
        let mut ends = 0;
        for (forward, tcp_flags) in &packets {
            let add = |cell: &mut u64, value| *cell += value;
            let segment = Segment {
                len: 60,
                tcp_flags: *tcp_flags,
                ..Segment::default()
            };
            ends += u32::from(flow::account(&mut entry, *forward, segment, 1, add));
        }
        prop_assert_eq!(ends, u32::from(flow::is_closed(&entry)));
        prop_assert_eq!(entry.tx_packets + entry.rx_packets, packets.len() as u64);
        prop_assert_eq!(entry.tx_bytes + entry.rx_bytes, 60 * packets.len() as u64);
    }

    #[test]
    fn a_bucket_never_gives_more_than_its_rate_and_a_burst(
        rate in 0_u32..500,
        steps in prop::collection::vec(0_u64..SECOND / 20, 1..200),
    ) {
        let mut bucket = TokenBucket::default();
        let mut now = 3 * SECOND;
        let start = now;
        let mut given = 0_u64;
        for step in steps {
            now += step;
            given += u64::from(bucket.take(rate, now));
        }
        let earned = (now - start) * u64::from(rate) / SECOND;
        prop_assert!(given <= earned + u64::from(rate));
    }

    #[test]
    fn slots_and_maglev_entries_stay_in_their_table(random: u32, count in 1_u32.., table in 0_u32..1024, cookie: u64) {
        prop_assert!(service::random_slot(random, count) < count);
        let index = service::maglev_index(table, cookie);
        prop_assert_eq!(index / MAGLEV_TABLE, table);
    }
}

#[test]
fn timeouts_follow_the_state() {
    let check = |flags: u16, protocol: u8, seconds: u64| {
        let entry = FlowEntry {
            flags,
            last_seen: SECOND,
            ..FlowEntry::default()
        };
        let limit = SECOND + seconds * SECOND;
        assert!(
            !flow::is_expired(&entry, protocol, limit),
            "{flags} {protocol}"
        );
        assert!(
            flow::is_expired(&entry, protocol, limit + 1),
            "{flags} {protocol}"
        );
        // A clock that was read earlier than the entry was written.
        assert!(!flow::is_expired(&entry, protocol, 0));
    };
    check(0, proto::TCP, 60);
    check(flags::REPLIED, proto::TCP, 8_000);
    check(flags::REPLIED | flags::TX_FIN, proto::TCP, 8_000);
    check(
        flags::REPLIED | flags::TX_FIN | flags::RX_FIN,
        proto::TCP,
        10,
    );
    check(flags::RST, proto::TCP, 10);
    check(flags::REPLIED, proto::UDP, 60);
}

#[test]
fn who_may_open_a_live_flow_again() {
    let check = |flags: u16, opener: bool, from_source: bool, expected: bool| {
        let entry = FlowEntry {
            flags,
            ..FlowEntry::default()
        };
        assert_eq!(
            flow::is_reopened(&entry, opener, from_source),
            expected,
            "{flags} {opener} {from_source}"
        );
    };
    check(0, true, true, false);
    check(flags::TX_FIN, true, true, true);
    check(flags::RST, true, true, true);
    check(flags::RST, false, true, false);
    check(0, true, false, true);
    check(0, false, false, false);
    check(flags::REDIRECT, true, false, false);
    check(flags::REDIRECT | flags::RST, true, false, false);
}

#[test]
fn packets_that_start_something() {
    let check = |protocol: u8, first: u8, tcp_flags: u8, opener: bool, tracked: bool| {
        let tuple = Tuple {
            protocol,
            src_port: [first, 0],
            ..Tuple::default()
        };
        assert_eq!(
            tuple.is_opener(tcp_flags),
            opener,
            "{protocol} {first} {tcp_flags}"
        );
        assert_eq!(tuple.is_tracked(), tracked, "{protocol} {first}");
    };
    check(proto::TCP, 0, tcp::SYN, true, true);
    check(proto::TCP, 0, tcp::SYN | tcp::ACK, false, true);
    check(proto::TCP, 0, tcp::ACK, false, true);
    check(proto::UDP, 0, 0, false, true);
    check(proto::ICMP, icmp::V4_ECHO, 0, true, true);
    check(proto::ICMP, icmp::V4_ECHO_REPLY, 0, false, true);
    check(proto::ICMP, 13, 0, false, false);
    check(proto::ICMPV6, icmp::V6_ECHO, 0, true, true);
    check(proto::ICMPV6, 8, 0, false, false);
}

/// Tables in memory, exact keys only: the order of lookups is what is tested.
#[derive(Default)]
struct Memory {
    flags: u32,
    now: u32,
    addresses: HashMap<Addr, AddrInfo>,
    fqdn: HashMap<Addr, FqdnInfo>,
    endpoints: HashMap<u32, EndpointInfo>,
    policy: HashMap<(u32, u32, u8), PolicyEntry>,
}

impl Tables for Memory {
    type Fqdn = FqdnInfo;
    fn generation(&self) -> u32 {
        3
    }
    fn config_flags(&self) -> u32 {
        self.flags
    }
    fn address(&self, addr: &Addr) -> Option<AddrInfo> {
        self.addresses.get(addr).copied()
    }
    fn fqdn(&self, addr: &Addr) -> Option<FqdnInfo> {
        self.fqdn.get(addr).copied()
    }
    fn boot_seconds(&self) -> u32 {
        self.now
    }
    fn endpoint(&self, id: u32) -> Option<EndpointInfo> {
        self.endpoints.get(&id).copied()
    }
    fn policy(&self, key: &PolicyKey) -> Option<PolicyEntry> {
        let (policy, identity) = (
            u32::from_be_bytes(key.policy_id),
            u32::from_be_bytes(key.identity),
        );
        self.policy.get(&(policy, identity, key.direction)).copied()
    }
}

impl Memory {
    /// Endpoint 10 at A with policy 5, endpoint 11 at B with policy 6.
    fn new(rows: &[(u32, u32, u8, u8)]) -> Self {
        let mut memory = Self::default();
        for (addr, id, policy) in [(A, 10, 5), (B, 11, 6)] {
            let identity = 300 + id;
            memory.addresses.insert(
                addr,
                AddrInfo {
                    identity,
                    endpoint: id,
                },
            );
            let info = EndpointInfo {
                identity,
                policy_id: [0, policy],
                ..EndpointInfo::default()
            };
            memory.endpoints.insert(id, info);
        }
        for (i, &(policy, identity, direction, verdict)) in rows.iter().enumerate() {
            let entry = PolicyEntry {
                rule: i as u32 + 1,
                l7: 50,
                verdict,
                shadow_verdict: verdict,
                ..PolicyEntry::default()
            };
            memory.policy.insert((policy, identity, direction), entry);
        }
        memory
    }

    fn decide(&self, src: Addr, dst: Addr) -> Evaluation {
        self.decide_aged(src, dst, Age::New)
    }

    fn decide_aged(&self, src: Addr, dst: Addr, age: Age) -> Evaluation {
        let mut evaluation = Evaluation::default();
        evaluate(
            self,
            &tuple(src, dst, proto::TCP, 4000, 80),
            0,
            0,
            age,
            &mut evaluation,
        );
        evaluation
    }
}

/// A segment of `flags` at `seq` that acknowledges `ack`.
fn segment(tcp_flags: u8, seq: u32, ack: u32) -> Segment {
    Segment {
        len: 40,
        tcp_flags,
        seq,
        ack,
    }
}

#[test]
fn a_reset_is_believed_only_near_what_its_receiver_acknowledged() {
    let add = |cell: &mut u64, value| *cell += value;
    for (initiator, seq, believed) in [
        (true, 1000, true),
        (true, 1400, true),
        (true, 999, false),
        (true, 0x8000_0000, false),
        // Around the end of the sequence space.
        (false, u32::MAX - 10, true),
        (false, 5, true),
        (false, u32::MAX - 11, false),
        (false, 0x8000_0000, false),
    ] {
        let mut plain = FlowEntry::default();
        let ack_of = |from_source| if from_source { u32::MAX - 10 } else { 1000 };
        for from_source in [true, false] {
            let answer = segment(tcp::ACK, 0, ack_of(from_source));
            flow::account(&mut plain, from_source, answer, 1, add);
        }
        let reset = segment(tcp::RST, seq, 0);
        let ended = flow::account(&mut plain, initiator, reset, 2, add);
        assert_eq!(ended, believed, "{initiator} {seq}");
        assert_eq!(flow::is_closed(&plain), believed);

        // Steered: what the proxy acknowledges on the leg counts, and nothing else.
        let mut steered = FlowEntry {
            flags: flags::REDIRECT,
            ..FlowEntry::default()
        };
        for from_source in [true, false] {
            let answer = segment(tcp::ACK, 0, ack_of(from_source));
            flow::relayed(&mut steered, from_source, answer, 1);
            let other_leg = segment(tcp::ACK, 0, 0x4000_0000);
            flow::account(&mut steered, from_source, other_leg, 1, add);
        }
        let ended = flow::account(&mut steered, initiator, reset, 2, add);
        assert_eq!(ended, believed, "steered, {initiator} {seq}");
    }
    // A connection refused: nothing has been acknowledged yet.
    let mut refused = FlowEntry::default();
    flow::account(&mut refused, true, segment(tcp::SYN, 7, 0), 1, add);
    let reset = segment(tcp::RST | tcp::ACK, 0, 8);
    assert!(flow::account(&mut refused, false, reset, 2, add));
}

#[test]
fn what_the_proxy_closes_towards_the_client_is_over() {
    let add = |cell: &mut u64, value| *cell += value;
    let steered = FlowEntry {
        flags: flags::REDIRECT,
        ..FlowEntry::default()
    };
    // Refused, so without an upstream leg; whoever closes first.
    for proxy_first in [true, false] {
        let mut entry = steered;
        let fin = segment(tcp::FIN | tcp::ACK, 1, 1);
        let ended = if proxy_first {
            assert!(!flow::relayed(&mut entry, false, fin, 1));
            flow::account(&mut entry, true, fin, 1, add)
        } else {
            assert!(!flow::account(&mut entry, true, fin, 1, add));
            flow::relayed(&mut entry, false, fin, 1)
        };
        assert!(ended && flow::is_closed(&entry));
        assert_eq!((entry.tx_packets, entry.rx_packets), (1, 0));
    }
    let mut reset = steered;
    assert!(flow::relayed(&mut reset, false, segment(tcp::RST, 1, 0), 1));
    // The upstream leg's reset leaves the client's.
    let mut upstream = steered;
    assert!(!flow::relayed(
        &mut upstream,
        true,
        segment(tcp::RST, 1, 0),
        1
    ));
}

#[test]
fn delivery_is_decided_by_ingress_policy_alone() {
    let memory = Memory::new(&[
        (5, reserved::ANY, direction::EGRESS, verdict::DENY),
        (6, 310, direction::INGRESS, verdict::ALLOW),
    ]);
    let decide = |delivery: bool| {
        let mut evaluation = Evaluation::default();
        let tuple = tuple(A, B, proto::TCP, 4000, 80);
        let age = (!delivery).then_some(Age::New);
        judge(&memory, &tuple, 0, 0, age, &mut evaluation);
        evaluation.reason
    };
    assert_eq!(decide(false), reason::POLICY_DENY);
    assert_eq!(decide(true), 0);
}

/// What is in shadow has no effect, and the verdict beside is that of all of it.
#[test]
fn what_is_in_shadow_is_decided_beside() {
    use direction::{EGRESS, INGRESS};
    use verdict::{ALLOW, DEFAULT_DENY, DENY, REDIRECT};
    let any = reserved::ANY;
    // Per row: policy, identity, direction, verdict, verdict in shadow and its rule.
    type Row = (u32, u32, u8, u8, u8, u32);
    let check = |rows: &[Row], dst, expected: (u8, u32, u32, u8, u32)| {
        let plain: Vec<_> = rows.iter().map(|r| (r.0, r.1, r.2, r.3)).collect();
        let mut memory = Memory::new(&plain);
        for (policy, identity, direction, _, shadow, rule) in rows {
            let entry = memory.policy.get_mut(&(*policy, *identity, *direction));
            let entry = entry.unwrap();
            (entry.shadow_verdict, entry.shadow_rule) = (*shadow, *rule);
        }
        let mut names = FqdnInfo::default();
        names.identities[..2].copy_from_slice(&[777, 888]);
        names.expires[..2].fill(u32::MAX);
        memory.fqdn.insert(WORLD, names);
        let e = memory.decide(A, dst);
        let got = (
            e.verdict,
            e.egress_rule,
            e.ingress_rule,
            e.shadow_verdict,
            e.shadow_rule,
        );
        assert_eq!(got, expected, "{rows:?}");
    };
    // Refused beside what passes, at either end.
    let open = (6, any, INGRESS, ALLOW, ALLOW, 0);
    check(
        &[(5, any, EGRESS, ALLOW, DENY, 70), open],
        B,
        (ALLOW, 1, 2, DENY, 70),
    );
    let plain = (5, any, EGRESS, ALLOW, ALLOW, 0);
    let refused = (6, any, INGRESS, ALLOW, DEFAULT_DENY, 71);
    check(&[plain, refused], B, (ALLOW, 1, 2, DEFAULT_DENY, 71));
    // Allowed beside what is refused: then the other end is asked, in shadow only.
    let opened = (5, any, EGRESS, DEFAULT_DENY, ALLOW, 72);
    check(&[opened, open], B, (DEFAULT_DENY, 1, 0, ALLOW, 72));
    check(
        &[opened, refused],
        B,
        (DEFAULT_DENY, 1, 0, DEFAULT_DENY, 71),
    );
    check(&[opened], B, (DEFAULT_DENY, 1, 0, DEFAULT_DENY, 0));
    let denies = (6, any, INGRESS, DENY, DENY, 0);
    check(&[opened, denies], B, (DEFAULT_DENY, 1, 0, DENY, 0));
    // Steered in shadow by either end.
    let read = (5, any, EGRESS, ALLOW, REDIRECT, 73);
    check(&[read, open], B, (ALLOW, 1, 2, REDIRECT, 73));
    // Of an address's names and prefixes the strongest, in force and in shadow apart.
    let name = |identity, verdict, shadow, rule| (5, identity, EGRESS, verdict, shadow, rule);
    let own = name(any, ALLOW, ALLOW, 0);
    check(
        &[
            own,
            name(777, REDIRECT, REDIRECT, 0),
            name(888, ALLOW, DENY, 74),
        ],
        WORLD,
        (REDIRECT, 2, 0, DENY, 74),
    );
    check(
        &[
            own,
            name(777, DENY, DENY, 0),
            name(888, ALLOW, REDIRECT, 75),
        ],
        WORLD,
        (DENY, 2, 0, DENY, 0),
    );
}

#[test]
fn the_order_of_policy_lookups() {
    use direction::{EGRESS, INGRESS};
    use verdict::{ALLOW, DEFAULT_DENY, DENY, REDIRECT};
    let any = reserved::ANY;
    // Rows; source and destination; verdict, reason, egress rule, ingress rule.
    let cases: Vec<(Vec<(u32, u32, u8, u8)>, Addr, Addr, (u8, u8, u32, u32))> = vec![
        // The wildcard row decides where the identity has none.
        (vec![(5, any, EGRESS, ALLOW)], A, WORLD, (ALLOW, 0, 1, 0)),
        // The identity's own row decides alone.
        (
            vec![(5, any, EGRESS, ALLOW), (5, 9, EGRESS, DENY)],
            A,
            WORLD,
            (DENY, reason::POLICY_DENY, 2, 0),
        ),
        // No row at all denies.
        (
            vec![],
            A,
            WORLD,
            (DEFAULT_DENY, reason::POLICY_DENIED, 0, 0),
        ),
        // Both ends: either may ask for the proxy.
        (
            vec![(5, any, EGRESS, ALLOW), (6, 310, INGRESS, REDIRECT)],
            A,
            B,
            (REDIRECT, 0, 1, 2),
        ),
        // Both ends: either may deny; the source is asked first.
        (
            vec![(5, any, EGRESS, REDIRECT), (6, any, INGRESS, DENY)],
            A,
            B,
            (DENY, reason::POLICY_DENY, 1, 2),
        ),
        (
            vec![(5, any, EGRESS, DENY), (6, any, INGRESS, ALLOW)],
            A,
            B,
            (DENY, reason::POLICY_DENY, 1, 0),
        ),
        // From outside only the destination is asked.
        (vec![(6, 9, INGRESS, ALLOW)], WORLD, B, (ALLOW, 0, 0, 1)),
    ];
    for (rows, src, dst, expected) in cases {
        let evaluation = Memory::new(&rows).decide(src, dst);
        let got = (
            evaluation.verdict,
            evaluation.reason,
            evaluation.egress_rule,
            evaluation.ingress_rule,
        );
        assert_eq!(got, expected, "{rows:?}");
        assert_eq!(evaluation.is_allowed(), expected.1 == 0);
    }
}

#[test]
fn an_expired_name_is_for_those_who_began_in_time() {
    use verdict::{ALLOW, DEFAULT_DENY};
    let name = reserved::LOCAL_SCOPE | 1;
    let rows = [
        (5, 9, direction::EGRESS, DEFAULT_DENY),
        (5, name, direction::EGRESS, ALLOW),
    ];
    let mut memory = Memory::new(&rows);
    let mut info = FqdnInfo::default();
    (info.identities[2], info.expires[2]) = (name, 100);
    memory.fqdn.insert(WORLD, info);
    for (now, age, allowed) in [
        (99, Age::New, true),
        // A TTL of 0 is enough for the connection the answer was asked for.
        (100, Age::New, true),
        (99 + FQDN_GRACE, Age::New, true),
        (100 + FQDN_GRACE, Age::New, false),
        (u32::MAX, Age::New, false),
        (u32::MAX, Age::Live, true),
    ] {
        memory.now = now;
        let evaluation = memory.decide_aged(A, WORLD, age);
        assert_eq!(evaluation.is_allowed(), allowed, "{now} {age:?}");
    }
}

#[test]
fn workers_share_the_flows_and_both_directions_meet_one() {
    let mut met = vec![0_u32; MAX_CPUS as usize];
    for port in 0..16_384 {
        let there = tuple(A, WORLD, proto::UDP, 32_768 + port, 53);
        let back = tuple(WORLD, A, proto::UDP, 53, 32_768 + port);
        let [there, back] = [there, back].map(|tuple| {
            let mut key = FlowKey::default();
            tuple.flow_key(&mut key);
            steer::place(&key)
        });
        assert_eq!(there, back);
        met[there as usize] += 1;
    }
    // 64 on average; the consecutive ports of one client must not crowd one worker.
    assert!(met.iter().all(|count| (24..128).contains(count)), "{met:?}");
}

#[test]
fn the_strongest_identity_of_a_name_wins() {
    use direction::EGRESS;
    use verdict::{ALLOW, DEFAULT_DENY, DENY, REDIRECT};
    let name = |i: u32| reserved::LOCAL_SCOPE | i;
    let check = |base: u8, names: &[u8], expected: (u8, u32)| {
        let mut rows = vec![(5, 9, EGRESS, base)];
        let mut info = FqdnInfo::default();
        for (i, &verdict) in names.iter().enumerate() {
            rows.push((5, name(i as u32), EGRESS, verdict));
            info.identities[i] = name(i as u32);
            info.expires[i] = 1;
        }
        let mut memory = Memory::new(&rows);
        memory.fqdn.insert(WORLD, info);
        let evaluation = memory.decide(A, WORLD);
        assert_eq!(
            (evaluation.verdict, evaluation.egress_rule),
            expected,
            "{base} {names:?}"
        );
    };
    check(DEFAULT_DENY, &[ALLOW], (ALLOW, 2));
    check(DEFAULT_DENY, &[ALLOW, REDIRECT, ALLOW], (REDIRECT, 3));
    check(ALLOW, &[DEFAULT_DENY], (ALLOW, 1));
    check(ALLOW, &[ALLOW], (ALLOW, 1));
    check(DENY, &[REDIRECT], (DENY, 1));
    check(ALLOW, &[REDIRECT, DENY], (DENY, 3));
}

#[test]
fn names_open_nothing_that_is_not_outside() {
    let name = reserved::LOCAL_SCOPE | 7;
    let node = Addr::v4([10, 0, 0, 1]);
    let remote = Addr::v4([10, 0, 9, 9]);
    let prefix = Addr::v4([192, 0, 2, 9]);
    let mut memory = Memory::new(&[
        (5, reserved::ANY, direction::EGRESS, verdict::DEFAULT_DENY),
        (5, name, direction::EGRESS, verdict::ALLOW),
        (6, reserved::ANY, direction::INGRESS, verdict::ALLOW),
    ]);
    for (addr, identity) in [
        (node, reserved::HOST),
        (remote, 400),
        (prefix, reserved::LOCAL_SCOPE | 1),
    ] {
        let info = AddrInfo {
            identity,
            endpoint: 0,
        };
        memory.addresses.insert(addr, info);
    }
    for (addr, allowed) in [
        (WORLD, true),
        (prefix, true),
        (node, false),
        // An endpoint here, and one of another node.
        (B, false),
        (remote, false),
    ] {
        let mut info = FqdnInfo::default();
        info.identities[0] = name;
        memory.fqdn.insert(addr, info);
        assert_eq!(memory.decide(A, addr).is_allowed(), allowed, "{addr:?}");
    }
}

#[test]
fn nothing_passes_before_its_policy_is_in_place() {
    let mut memory = Memory::new(&[(5, reserved::ANY, direction::EGRESS, verdict::ALLOW)]);
    assert!(memory.decide(A, WORLD).is_allowed());
    // This generation's policy is missing, then the endpoint altogether.
    let ready = EndpointInfo {
        policy_id: [5, 0],
        ..memory.endpoints[&10]
    };
    memory.endpoints.insert(10, ready);
    assert_eq!(memory.decide(A, WORLD).reason, reason::ENDPOINT_NOT_READY);
    memory.endpoints.remove(&10);
    let evaluation = memory.decide(A, WORLD);
    assert_eq!(evaluation.reason, reason::ENDPOINT_NOT_READY);
    assert!(
        !evaluation.is_policy_denial(),
        "audit mode must not open it"
    );
}

#[test]
fn the_node_reaches_its_endpoints_if_configured_so() {
    let mut memory = Memory::new(&[]);
    let node = Addr::v4([10, 0, 0, 1]);
    let info = AddrInfo {
        identity: reserved::HOST,
        endpoint: 0,
    };
    memory.addresses.insert(node, info);
    assert!(!memory.decide(node, B).is_allowed());
    memory.flags = config_flags::ALLOW_LOCALHOST;
    assert!(memory.decide(node, B).is_allowed());
    assert!(!memory.decide(WORLD, B).is_allowed());
}

#[test]
fn first_bytes_are_recognised() {
    let check = |text: &[u8], size: u32, expected: u8| {
        let mut bytes = [0; hint::WINDOW];
        let len = text.len().min(hint::WINDOW);
        bytes[..len].copy_from_slice(&text[..len]);
        assert_eq!(hint::classify(&bytes, size), expected, "{text:?}");
    };
    check(b"GET / HTTP/1.1\r\n", 40, hints::HTTP1);
    check(b"OPTIONS * HTTP/1.1", 40, hints::HTTP1);
    check(b"GETAWAY", 40, hints::OTHER);
    check(b"PRI * HTTP/2.0\r\n", 24, hints::HTTP2);
    check(&[0x16, 3, 1, 2, 0, 1, 0, 1], 517, hints::TLS);
    check(&[0x16, 3, 1, 2, 0, 2, 0, 1], 517, hints::OTHER);
    // ApiVersions, version 3, and the same with a length that is not the message's.
    check(&[0, 0, 0, 30, 0, 18, 0, 3, 0, 0, 0, 1], 34, hints::KAFKA);
    check(&[0, 0, 0, 30, 0, 18, 0, 3, 0, 0, 0, 1], 35, hints::OTHER);
    check(b"", 16, hints::OTHER);
}
