use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::http::Phase;

const A: Client = Client::Endpoint(EndpointId(1));
const B: Client = Client::Endpoint(EndpointId(2));
const C: Client = Client::Address(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

fn places(limit: usize) -> (Rc<Places>, Counters) {
    let capacity = Capacity {
        limit,
        share: limit * 3 / 4,
        memory: 1 << 20,
        header_list: 65_536,
    };
    (Rc::new(Places::new(capacity)), Counters::default())
}

/// Takes so many places for connections in a phase.
fn fill(
    (places, counters): &(Rc<Places>, Counters),
    client: Client,
    phase: Phase,
    count: usize,
) -> Vec<Place> {
    let take = |_| {
        let place = places.take(client, counters).expect("a place");
        place.activity().enter(phase);
        place
    };
    (0..count).map(take).collect()
}

/// Numbers of those that were asked to leave.
fn evicted(places: &[Place]) -> Vec<usize> {
    let numbers = places.iter().enumerate();
    numbers
        .filter(|(_, place)| place.activity().is_evicted())
        .map(|(number, _)| number)
        .collect()
}

#[test]
fn a_client_at_its_share_gives_up_what_idles_longest() {
    let all = places(100);
    let mine = fill(&all, A, Phase::Idle, 75);
    // The oldest has begun to do something.
    mine[0].activity().enter(Phase::Exchange);
    let more = fill(&all, A, Phase::Exchange, 1);
    assert_eq!(evicted(&mine), [1, 2]);
    assert_eq!(all.1.evicted.load(Relaxed), 2);
    drop((mine, more));
    assert_eq!(all.0.table.borrow().open, 0);
    assert!(all.0.table.borrow().clients.is_empty());
}

#[test]
fn a_client_at_its_share_that_is_busy_everywhere_is_turned_away_alone() {
    let all = places(100);
    let mine = fill(&all, A, Phase::Exchange, 75);
    assert!(all.0.take(A, &all.1).is_none());
    assert!(all.0.take(A, &all.1).is_none());
    assert_eq!(evicted(&mine), [] as [usize; 0]);
    assert_eq!(all.1.turned_away.load(Relaxed), 2);
    fill(&all, B, Phase::Idle, 25);
}

#[test]
fn without_room_whoever_has_most_makes_room_for_those_with_fewer() {
    let all = places(100);
    let slow = fill(&all, A, Phase::Exchange, 75);
    let others = fill(&all, B, Phase::Exchange, 25);
    // Slow bodies count like silence.
    let newcomer = fill(&all, C, Phase::Exchange, 12);
    assert_eq!(evicted(&slow), (0..12).collect::<Vec<_>>());
    assert_eq!(evicted(&others), [] as [usize; 0]);
    assert_eq!(evicted(&newcomer), [] as [usize; 0]);
    // A place that somebody leaves is nobody's debt.
    drop(slow);
    fill(&all, B, Phase::Exchange, 30);
}

#[test]
fn equals_do_not_take_busy_places_from_each_other() {
    let all = places(20);
    let (mine, yours) = (
        fill(&all, A, Phase::Exchange, 10),
        fill(&all, B, Phase::Exchange, 10),
    );
    assert!(all.0.take(A, &all.1).is_none());
    assert!(all.0.take(B, &all.1).is_none());
    assert_eq!(evicted(&mine), [] as [usize; 0]);
    assert_eq!(evicted(&yours), [] as [usize; 0]);
}

#[test]
fn those_that_take_their_time_to_leave_are_bounded() {
    let all = places(80);
    let slow = fill(&all, A, Phase::Exchange, 60);
    let others = fill(&all, B, Phase::Exchange, 20);
    // Ten more than the limit may be open, while ten leave.
    let newcomers = fill(&all, C, Phase::Exchange, 10);
    assert!(all.0.is_crowded());
    assert!(all.0.take(C, &all.1).is_none());
    assert_eq!(
        evicted(&slow).len(),
        10,
        "nobody leaves for one that gets no place"
    );
    drop((slow, others, newcomers));
    assert_eq!(all.0.table.borrow().open, 0);
    assert_eq!(all.0.table.borrow().staying, 0);
}

#[test]
fn descriptors_bound_the_places() {
    let capacity = |descriptors, workers| {
        let resources = Resources {
            descriptors,
            connections_per_cpu: 8_192,
            memory_per_cpu_mib: 64,
            header_list: 65_536,
        };
        Capacity::of(resources, workers).ok()
    };
    let limit = |descriptors, workers| capacity(descriptors, workers).map(|c| c.limit);
    assert_eq!(limit(1 << 20, 4), Some(8_192));
    assert_eq!(limit(20_480, 2), Some(4_437));
    assert_eq!(limit(2_048, 2), Some(341));
    assert_eq!(limit(512, 1), None);
    for (descriptors, workers) in [(1_024, 1), (20_480, 2), (65_536, 64)] {
        let capacity = capacity(descriptors, workers).expect("some");
        let open = (capacity.ceiling() * workers) as u64;
        assert!(
            open * PER_CONNECTION + RESERVED <= descriptors,
            "{capacity:?}"
        );
        assert!(capacity.share < capacity.limit);
    }
}

#[test]
fn an_ipv6_host_is_one_client_whatever_address_it_makes_up() {
    let client = |text: &str| Client::outside(text.parse().expect("address"));
    assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:1"));
    assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
    assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
    assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
}
