//! Publishing: all or nothing, and only what changed.

use std::{collections::HashMap, hash::Hash};

use tidegate_bpf::{Pod, map::Map, pin};
use tidegate_ebpf_shared::{
    maps::map,
    policy::{PolicyEntry, PolicyKey},
};
use tidegate_policy::compiled::{Direction, EndpointId, Generation, IdentityId, RuleId, Verdict};

use super::{ENDPOINT, compiled, policy, row, tcp_port, world};
use crate::{DatapathError, table::Table};

#[test]
fn numbers_go_up_and_unchanged_content_costs_nothing() {
    world::test(|world| {
        let mut datapath = world.open();
        assert_eq!(datapath.generation(), Generation(0));
        let content = compiled(policy(Verdict::Allow));
        let first = datapath.publish(Generation(1), &content).unwrap();
        assert_eq!(datapath.generation(), Generation(1));
        assert_eq!(first.attach.attached, ["default/workload (tg-workload)"]);
        assert!(matches!(
            datapath.publish(Generation(1), &content),
            Err(DatapathError::StaleGeneration {
                given: Generation(1),
                active: Generation(1)
            })
        ));
        let again = datapath.publish(Generation(2), &content).unwrap();
        let touched: Vec<_> = again.changes.iter().map(|change| change.table).collect();
        assert_eq!(touched, ["ENDPOINTS"], "only the slot of the generation");
        assert!(again.attach.is_unchanged());
        let third = datapath.publish(Generation(3), &content).unwrap();
        assert_eq!(third.changes, []);
    });
}

#[test]
fn skipped_numbers_switch_as_cleanly() {
    world::test(|world| {
        let mut datapath = world.open();
        datapath
            .publish(Generation(1), &compiled(policy(Verdict::Allow)))
            .unwrap();
        let before = datapath
            .tables
            .endpoints
            .get(&ENDPOINT.get())
            .unwrap()
            .unwrap();
        datapath
            .publish(Generation(3), &compiled(policy(Verdict::Deny)))
            .unwrap();
        assert_eq!(datapath.generation(), Generation(3));
        let after = datapath
            .tables
            .endpoints
            .get(&ENDPOINT.get())
            .unwrap()
            .unwrap();
        assert_eq!(after.policy_id[0], after.policy_id[1]);
        assert_ne!(after.policy_id[1], before.policy_id[1]);
        let rows = datapath.tables.policy.entries().unwrap();
        assert_eq!(rows.len(), 2, "the old rows are gone: {rows:?}");
    });
}

#[test]
fn what_does_not_fit_changes_nothing() {
    world::test(|world| {
        let mut datapath = world.open();
        datapath
            .publish(Generation(1), &compiled(policy(Verdict::Allow)))
            .unwrap();
        let before = (
            from_kernel(&datapath.tables.policy),
            from_kernel(&datapath.tables.endpoints),
            from_kernel(&datapath.tables.ipcache),
        );
        let limit = datapath.tables.policy.limit();
        let mut rows = policy(Verdict::Deny);
        rows.extend(
            (0..limit as u16)
                .map(|port| row(0, Direction::Egress, tcp_port(port + 1), Verdict::Allow)),
        );
        let mut too_much = compiled(rows);
        too_much.ipcache.clear();
        match datapath.publish(Generation(2), &too_much) {
            Err(DatapathError::Full {
                table: "POLICY",
                needed,
                limit: found,
            }) => assert_eq!((needed, found), (limit as usize + 2, limit)),
            other => panic!("{other:?}"),
        }
        let after = (
            from_kernel(&datapath.tables.policy),
            from_kernel(&datapath.tables.endpoints),
            from_kernel(&datapath.tables.ipcache),
        );
        assert_eq!(before, after);
        assert_eq!(datapath.generation(), Generation(1));
    });
}

/// However full the table: what an edit takes is room for the edit.
#[test]
fn an_almost_full_table_can_be_edited() {
    world::test(|world| {
        let mut datapath = world.open();
        let limit = datapath.tables.policy.limit();
        assert_eq!(limit, world.options().limits.policy_entries);
        let full = |verdict| {
            let mut rows = policy(verdict);
            rows.extend(
                (1..limit as u16 - 1)
                    .map(|port| row(0, Direction::Egress, tcp_port(port), Verdict::Deny)),
            );
            compiled(rows)
        };
        for (generation, verdict) in [(1, Verdict::Allow), (2, Verdict::Deny), (3, Verdict::Allow)]
        {
            datapath
                .publish(Generation(generation), &full(verdict))
                .unwrap();
            assert_eq!(datapath.tables.policy.count().unwrap(), u64::from(limit));
        }
    });
}

/// Endpoints that talk while the first generation comes are not cut off, however many
/// there are and however long attaching to them takes: the flip comes first.
#[test]
fn the_first_generation_cuts_off_nobody_who_talks() {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        time::{Duration, Instant},
    };

    static STOP: AtomicBool = AtomicBool::new(false);
    world::test(|world| {
        let mut options = world.options();
        options.limits.endpoints = 64;
        let mut content = compiled(policy(Verdict::Allow));
        let workload = content.endpoints[&ENDPOINT].clone();
        for number in 0..24u32 {
            world::run(&format!(
                "ip link add tg-d{number} type veth peer name tg-p{number}"
            ));
            let mut endpoint = tidegate_policy::compiled::CompiledEndpoint::clone(&workload);
            endpoint.name = format!("default/d{number}");
            endpoint.location =
                tidegate_policy::compiled::Location::Interface(format!("tg-d{number}"));
            endpoint.addresses.clear();
            content
                .endpoints
                .insert(EndpointId(100 + number), endpoint.into());
        }
        let mut datapath = world.try_open(options).unwrap();
        let node = std::net::UdpSocket::bind((world::NODE, 7000)).unwrap();
        let echo = std::thread::spawn(move || {
            let mut buffer = [0; 8];
            while let Ok((n, from)) = node.recv_from(&mut buffer) {
                if &buffer[..n] == b"end" {
                    return;
                }
                let _ = node.send_to(&buffer[..n], from);
            }
        });
        let (gap, longest) = std::sync::mpsc::channel();
        world.start_in_workload(move || {
            let socket = std::net::UdpSocket::bind((world::WORKLOAD, 7001)).unwrap();
            socket.connect((world::NODE, 7000)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(5)))
                .unwrap();
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !STOP.load(Ordering::Relaxed) {
                let _ = socket.send(b"x");
                if socket.recv(&mut [0; 8]).is_ok() {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
            }
            let _ = socket.send(b"end");
            gap.send(longest).unwrap();
        });
        let started = Instant::now();
        datapath.publish(Generation(1), &content).unwrap();
        let took = started.elapsed();
        STOP.store(true, Ordering::Relaxed);
        let longest = longest.recv().unwrap();
        echo.join().unwrap();
        assert!(
            longest < took / 4 || longest < Duration::from_millis(100),
            "silent for {longest:?} of {took:?}"
        );
    });
}

#[test]
fn deny_list_slots_stay_with_their_prefixes() {
    world::test(|world| {
        let mut datapath = world.open();
        let mut content = compiled(policy(Verdict::Allow));
        let (first, second) = (
            "192.0.2.0/24".parse().unwrap(),
            "2001:db8::/32".parse().unwrap(),
        );
        content.deny_list.insert(first, RuleId(1));
        datapath.publish(Generation(1), &content).unwrap();
        let slot = datapath.tables.deny_list.entries().unwrap()[0].1;
        content.deny_list.insert(second, RuleId(2));
        datapath.publish(Generation(2), &content).unwrap();
        let slots = from_kernel(&datapath.tables.deny_list);
        assert_eq!(slots.len(), 2);
        assert_eq!(slots[&super::super::encode::prefix(first)], slot);
        let counts = datapath.reader().deny_counts().unwrap();
        assert_eq!(
            counts.iter().map(|count| count.net).collect::<Vec<_>>(),
            [first, second]
        );
        content.deny_list.clear();
        datapath.publish(Generation(3), &content).unwrap();
        assert_eq!(datapath.tables.deny_list.count().unwrap(), 0);
    });
}

#[test]
fn an_endpoint_that_goes_takes_its_rows_along() {
    world::test(|world| {
        let mut datapath = world.open();
        datapath
            .publish(Generation(1), &compiled(policy(Verdict::Allow)))
            .unwrap();
        let report = datapath
            .publish(Generation(2), &Default::default())
            .unwrap();
        assert_eq!(report.attach.detached.len(), 1);
        let left: Vec<_> = datapath
            .tables()
            .unwrap()
            .into_iter()
            .filter(|gauge| gauge.entries > 0)
            .collect();
        assert_eq!(left, []);
    });
}

#[test]
fn tables_of_many_batches_are_read_whole() {
    world::test(|world| {
        let mut options = world.options();
        options.limits.policy_entries = 10_000;
        options.limits.ipcache_entries = 10_000;
        let mut datapath = world.try_open(options).unwrap();
        let mut rows = policy(Verdict::Allow);
        rows.extend(
            (1..=9_000).map(|port| row(0, Direction::Egress, tcp_port(port), Verdict::Deny)),
        );
        let mut content = compiled(rows);
        for number in 0..9_000u32 {
            let address = std::net::Ipv4Addr::from(0xc000_0000 + number);
            let identity = tidegate_policy::compiled::AddrIdentity {
                identity: IdentityId(400 + number),
                endpoint: None,
            };
            let net = ipnet::IpNet::from(std::net::IpAddr::from(address));
            content.ipcache.insert(net, identity);
        }
        datapath.publish(Generation(1), &content).unwrap();
        assert_eq!(from_kernel(&datapath.tables.policy).len(), 9_002);
        assert_eq!(datapath.tables.policy.count().unwrap(), 9_002);
        assert_eq!(from_kernel(&datapath.tables.ipcache).len(), 9_002);
        datapath.publish(Generation(2), &content).unwrap();
        assert_eq!(
            datapath.publish(Generation(3), &content).unwrap().changes,
            []
        );

        let report = datapath
            .publish(Generation(4), &compiled(policy(Verdict::Allow)))
            .unwrap();
        let policy = report
            .changes
            .iter()
            .find(|change| change.table == "POLICY")
            .unwrap();
        assert_eq!((policy.written, policy.deleted), (2, 9_002));
    });
}

/// What the kernel has, whatever is known of it.
fn from_kernel<K: Pod + Eq + Hash, V: Pod>(table: &Table<K, V>) -> HashMap<K, V> {
    table.entries().unwrap().into_iter().collect()
}

/// What an agent remembers of the tables is what is in them, and what somebody else wrote
/// is found when it looks, and put right by the next generation.
#[test]
fn what_is_remembered_is_what_the_kernel_has() {
    world::test(|world| {
        let mut datapath = world.open();
        for (generation, verdict) in [(1, Verdict::Allow), (2, Verdict::Deny), (3, Verdict::Allow)]
        {
            datapath
                .publish(Generation(generation), &compiled(policy(verdict)))
                .unwrap();
            assert_eq!(datapath.read_back().unwrap(), [""; 0]);
        }
        let rows = from_kernel(&datapath.tables.policy);
        let stranger = pin::open(&datapath.pins.maps.join(map::POLICY)).unwrap();
        let stranger = Map::<PolicyKey, PolicyEntry>::new(stranger).unwrap();
        stranger
            .delete_all(&rows.keys().copied().collect::<Vec<_>>())
            .unwrap();

        let same = compiled(policy(Verdict::Allow));
        datapath.publish(Generation(4), &same).unwrap();
        assert!(
            from_kernel(&datapath.tables.policy).is_empty(),
            "nobody looked"
        );
        assert_eq!(datapath.read_back().unwrap(), [map::POLICY]);
        datapath.publish(Generation(5), &same).unwrap();
        assert_eq!(from_kernel(&datapath.tables.policy).len(), rows.len());
    });
}
