//! The kernel programs against the verifier and against a plain model of what they
//! must do. Needs root; attaches nothing.

use tidegate_ebpf_shared::{
    maps::{map, program},
    mark::{self, tag},
};
use tidegate_tests::kernel::{
    compare::{Comparison, Tally},
    deny_list,
    model::{NEXT, PASS},
    object::Object,
    random::Random,
    tagged::{Arrival, Tagged},
};

/// Worlds per run, each with 40 packets.
const CASES: usize = 1_000;
/// Instructions the verifier may walk to accept a program. An agent's start waits for it,
/// a quarter of a second for each hundred thousand.
const VERIFIED: u32 = 100_000;

#[test]
fn the_verifier_accepts_every_program() {
    let names = Object::load(&[]).expect("maps").programs();
    let mut expected = [
        program::FROM_ENDPOINT,
        program::TO_ENDPOINT,
        program::FROM_OUTSIDE,
        program::TO_OUTSIDE,
        program::HANDED_UP,
        program::DENY_LIST,
        program::FROM_OUTSIDE_IP,
        program::TO_OUTSIDE_IP,
        program::DENY_LIST_IP,
        program::PICK_LISTENER,
        program::CONNECT4,
        program::CONNECT6,
        program::SENDMSG4,
        program::SENDMSG6,
        program::RECVMSG4,
        program::RECVMSG6,
        program::GETPEERNAME4,
        program::GETPEERNAME6,
        program::SOCKOPS,
        program::OPEN_SOCKET,
        program::HOST_PACKET,
        program::TO_SOCKET,
        program::FIRST_BYTES,
    ];
    expected.sort_unstable();
    assert_eq!(names, expected);
    let mut slow = Vec::new();
    for name in expected {
        let object = Object::load(&[name]).unwrap_or_else(|error| panic!("{error:?}"));
        let verified = object.verified(name).expect("instructions");
        println!("{name}: {verified}");
        if verified > VERIFIED {
            slow.push((name, verified));
        }
    }
    assert!(slow.is_empty(), "more than {VERIFIED}: {slow:?}");
}

#[test]
fn every_map_the_agent_names_exists() {
    let names = Object::load(&[]).expect("maps").maps();
    for name in map::ALL {
        assert!(names.iter().any(|found| found == name), "no map {name}");
    }
}

#[test]
fn programs_agree_with_the_model() {
    let seed = Random::seed();
    println!("TIDEGATE_SEED={seed}");
    let mut random = Random::new(seed);
    let mut tally = Tally::default();
    let mut comparison = Comparison::new().expect("load");
    for _ in 0..CASES {
        comparison.case(&mut random, &mut tally).expect("maps");
    }
    println!("{tally:?}");
    // The generators reach what they are for.
    for (what, count) in tally.named() {
        assert!(count > 0, "no packet was {what}");
    }
}

/// What a bridge hands up keeps its verdict, whatever became of its mark.
#[test]
fn what_needs_the_proxy_is_shown_to_nobody_where_a_bridge_hands_it_up() {
    let object = Object::load(&[program::HANDED_UP]).expect("load");
    let fd = object.program_fd(program::HANDED_UP).expect("loaded");
    let tagged = Tagged::before(fd).expect("load");
    for (kind, steered) in [
        (tag::TO_PROXY, true),
        (tag::CHECKED | 7, false),
        (tag::SEEN, false),
        (0, false),
    ] {
        for before in [0, mark::FROM_PROXY, mark::TO_PROXY | 0x5000_0001] {
            let arrival = Arrival {
                mark: before,
                tag: kind,
                ingress_ifindex: 1,
            };
            let expected = match steered {
                true => (PASS, before & !mark::MASK | mark::TO_PROXY),
                false => (NEXT, before),
            };
            let run = tagged.run(&[2; 60], arrival).expect("run");
            assert_eq!(run, expected, "{kind:#x} {before:#x}");
        }
    }
}

#[test]
fn the_deny_list_agrees_with_its_model() {
    let seed = Random::seed();
    println!("TIDEGATE_SEED={seed}");
    let mut random = Random::new(seed);
    let mut tally = deny_list::Tally::default();
    let mut comparison = deny_list::Comparison::new().expect("load");
    for _ in 0..CASES {
        comparison.case(&mut random, &mut tally).expect("maps");
    }
    println!("{tally:?}");
    assert!(tally.nested > 0 && tally.refused > tally.nested && tally.passed > 0);
}
