//! Frontends, slots, Maglev tables: what the socket hooks will read.

use std::{collections::BTreeSet, net::IpAddr};

use tidegate_ebpf_shared::addr::proto;
use tidegate_policy::{
    compiled::{
        Algorithm, BackendState, Compiled, CompiledBackend, CompiledService, EndpointId, Frontend,
        Generation, ServiceId, Verdict,
    },
    shared::Map,
};

use super::{ENDPOINT, compiled, policy, world};
use crate::{Datapath, Query, ServiceHit};

const FRONTEND: [u8; 4] = [10, 96, 0, 1];

fn backend(last: u8, weight: u32, state: BackendState) -> CompiledBackend {
    CompiledBackend {
        addr: [10, 0, 0, last].into(),
        port: 8080,
        weight,
        state,
        workload: None,
    }
}

fn frontend() -> Frontend {
    Frontend {
        service: "default/web".into(),
        nth: 0,
    }
}

fn service(algorithm: Algorithm, backends: Vec<CompiledBackend>) -> Compiled {
    Compiled {
        services: Map::unit(
            frontend(),
            std::sync::Arc::new(CompiledService {
                port_name: None,
                name: "default/web".into(),
                id: ServiceId(3),
                addr: FRONTEND.into(),
                port: 80,
                protocol: proto::TCP,
                algorithm,
                backends,
            }),
        ),
        ..Compiled::default()
    }
}

fn ask(datapath: &Datapath) -> ServiceHit {
    let query = Query {
        source: [10, 66, 0, 9].into(),
        source_endpoint: EndpointId(0),
        destination: FRONTEND.into(),
        port: 80,
        protocol: proto::TCP,
    };
    let explanation = datapath.explain(&query).unwrap();
    let hit = explanation.service.unwrap();
    let first = hit.backends.first().copied();
    let followed = (explanation.destination.address, explanation.port);
    assert_eq!(first.unwrap_or((query.destination, 80)), followed);
    hit
}

#[test]
fn only_usable_backends_are_offered() {
    use BackendState::{Active, Maintenance, Quarantined, Terminating};
    world::test(|world| {
        let mut datapath = world.open();
        let mut generation = 0;
        let mut check = |states: &[BackendState], expected: &[u8]| {
            generation += 1;
            let backends = (1..).zip(states).map(|(n, state)| backend(n, 1, *state));
            let content = service(Algorithm::Random, backends.collect());
            datapath.publish(Generation(generation), &content).unwrap();
            let hit = ask(&datapath);
            let expected: Vec<(IpAddr, u16)> = expected
                .iter()
                .map(|last| ([10, 0, 0, *last].into(), 8080))
                .collect();
            assert_eq!(hit.backends, expected, "{states:?}");
            assert_eq!((hit.id, hit.maglev), (ServiceId(3), false));
        };
        check(&[Active, Active], &[1, 2]);
        check(&[Active, Terminating, Quarantined], &[1]);
        check(&[Terminating, Maintenance], &[1]);
        check(&[Quarantined], &[]);
        check(&[], &[]);
    });
}

/// A backend without a share, and one whose workload has no device, get nothing new,
/// not even when nobody else is left.
#[test]
fn what_is_not_there_or_weighs_nothing_is_not_chosen() {
    use BackendState::{Active, Terminating};
    world::test(|world| {
        world.unplug();
        let mut datapath = world.open();
        let workload = |last, state| CompiledBackend {
            workload: Some(ENDPOINT),
            ..backend(last, 1, state)
        };
        let chosen = |datapath: &Datapath| -> Vec<String> {
            let backends = ask(datapath).backends.into_iter();
            backends.map(|(addr, _)| addr.to_string()).collect()
        };
        for algorithm in [Algorithm::Random, Algorithm::Maglev] {
            let mut content = service(
                algorithm,
                vec![
                    backend(1, 0, Active),
                    workload(2, Active),
                    backend(3, 1, Terminating),
                    backend(4, 0, Terminating),
                ],
            );
            content.endpoints = compiled(policy(Verdict::Allow)).endpoints;
            let generation = datapath.generation().next();
            datapath.publish(generation, &content).unwrap();
            assert_eq!(chosen(&datapath), ["10.0.0.3"]);
            world.plug_in();
            datapath.attach_pending().unwrap();
            assert_eq!(chosen(&datapath), ["10.0.0.2"], "it has its device");
            world.unplug();
            datapath.attach_pending().unwrap();
            assert_eq!(chosen(&datapath), ["10.0.0.3"], "the device is gone");
            std::sync::Arc::make_mut(&mut content.services[&frontend()]).backends =
                vec![backend(1, 0, Active), workload(2, Terminating)];
            datapath.publish(generation.next(), &content).unwrap();
            assert_eq!(chosen(&datapath), [""; 0]);
        }
    });
}

#[test]
fn weights_become_slots_in_lowest_terms() {
    world::test(|world| {
        let mut datapath = world.open();
        let backends = vec![
            backend(1, 100, BackendState::Active),
            backend(2, 300, BackendState::Active),
        ];
        datapath
            .publish(Generation(1), &service(Algorithm::Random, backends))
            .unwrap();
        assert_eq!(datapath.tables.slots.count().unwrap(), 4);
        assert_eq!(ask(&datapath).backends.len(), 2);
    });
}

#[test]
fn a_maglev_table_is_replaced_not_rewritten() {
    world::test(|world| {
        let mut datapath = world.open();
        let number = |datapath: &Datapath| datapath.tables.services.entries().unwrap()[0].1.maglev;
        let ids = |datapath: &Datapath, table: u32| -> BTreeSet<u32> {
            datapath
                .tables
                .maglev
                .read(table)
                .unwrap()
                .into_iter()
                .collect()
        };
        let two = vec![
            backend(1, 1, BackendState::Active),
            backend(2, 1, BackendState::Active),
        ];
        datapath
            .publish(Generation(1), &service(Algorithm::Maglev, two.clone()))
            .unwrap();
        let first = number(&datapath);
        assert_eq!(ids(&datapath, first).len(), 2);
        assert!(ask(&datapath).maglev);

        drop(datapath);
        let mut datapath = world.open();
        datapath
            .publish(Generation(2), &service(Algorithm::Maglev, two.clone()))
            .unwrap();
        assert_eq!(number(&datapath), first, "same backends, same table");

        let kept = ids(&datapath, first);
        let mut three = two;
        three.push(backend(3, 1, BackendState::Active));
        datapath
            .publish(Generation(3), &service(Algorithm::Maglev, three))
            .unwrap();
        assert_ne!(number(&datapath), first);
        let now = ids(&datapath, number(&datapath));
        assert!(
            kept.is_subset(&now) && now.len() == 3,
            "backends keep their ids"
        );
        datapath
            .publish(Generation(4), &Compiled::default())
            .unwrap();
        assert_eq!(datapath.tables.backends.count().unwrap(), 0);
    });
}
