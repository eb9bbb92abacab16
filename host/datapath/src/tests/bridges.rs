//! A workload on a bridge: what stands above it, and who else has programs there.

use std::{
    os::fd::AsFd as _,
    sync::atomic::{AtomicBool, Ordering},
};

use tidegate_bpf::{
    link::{self, AttachType},
    testing,
};
use tidegate_policy::compiled::{Generation, Verdict};

use super::{compiled, policy, world, world::WORKLOAD_DEVICE};
use crate::{Datapath, place};

/// Whoever takes over from an agent of another version brings programs that ask of tables which
/// that one had not: they are filled before those programs run.
#[test]
fn what_new_programs_ask_of_devices_is_told_before_they_run() {
    world::test(|world| {
        for command in [
            "ip link add br0 type bridge",
            "ip link set br0 up",
            &format!("ip link set {WORKLOAD_DEVICE} master br0"),
        ] {
            world::run(command);
        }
        let mut before = world.open();
        before
            .publish(Generation(1), &compiled(policy(Verdict::Allow)))
            .unwrap();
        let index = |name: &str| place::interface_index(name).expect("a device");
        let (bridge, port) = (index("br0"), index(WORKLOAD_DEVICE));
        let tables = before.tables.clone();
        assert_eq!(tables.tagging.get(&bridge).unwrap(), Some(1));
        let runs = |device| link::programs_at(device, AttachType::TcxIngress).unwrap();
        assert_eq!((runs(bridge).len(), runs(port).len()), (1, 1));
        let old = runs(port);
        drop(before);
        tables.tagging.delete(&bridge).unwrap();
        tables.bridge_ports.delete(&port).unwrap();

        // Looks as often as it can whether new programs run that know nothing.
        let ends = AtomicBool::new(false);
        let (mut looks, mut blind) = (0, 0);
        std::thread::scope(|scope| {
            let after = scope.spawn(|| {
                let after = world.open();
                ends.store(true, Ordering::Relaxed);
                after
            });
            while !ends.load(Ordering::Relaxed) {
                let is_new = runs(port) != old;
                let told = tables.tagging.get(&bridge).unwrap().is_some()
                    && tables.bridge_ports.get(&port).unwrap().is_some();
                looks += 1;
                blind += u32::from(is_new && !told);
            }
            // Nothing is taken away before it is known what should be there.
            let _after = after.join().unwrap();
            assert_eq!(tables.tagging.get(&bridge).unwrap(), Some(1));
            assert!(tables.bridge_ports.get(&port).unwrap().is_some());
        });
        assert!(looks > 100, "{looks}");
        assert_eq!(blind, 0, "of {looks} looks");
        assert_ne!(runs(port), old);
    });
}

/// On a bridge, others' tcx programs may write over tags, as filters do: they are told, and which
/// of them come before ours.
#[test]
fn tcx_programs_of_others_on_a_bridge_are_told() {
    world::test(|world| {
        world::run("ip link add br0 type bridge");
        world::run(&format!("ip link set {WORKLOAD_DEVICE} master br0"));
        let mut datapath = world.open();
        datapath
            .publish(Generation(1), &compiled(policy(Verdict::Allow)))
            .unwrap();
        let told = |datapath: &mut Datapath| {
            datapath.attach_pending().unwrap();
            let notes = datapath.status().notes.into_iter();
            let notes = notes.map(|note| note.message);
            let mut of_tcx = notes.filter(|note| note.contains("may write over `tc_index`"));
            of_tcx.next().unwrap_or_default()
        };
        assert_eq!(told(&mut datapath), "", "ours are nobody else's");
        // r0 = 0 ("pass"); exit.
        let instruction = |code| testing::Instruction {
            code,
            registers: 0,
            offset: 0,
            immediate: 0,
        };
        let pass = [instruction(0xb7), instruction(0x95)];
        let kind = testing::ProgramKind::BPF_PROG_TYPE_SCHED_CLS;
        let program = testing::load(kind, &pass).unwrap();
        let bridge = place::interface_index("br0").expect("a bridge");
        for (flags, place) in [(0, false), (link::TCX_FIRST, true)] {
            let ingress = AttachType::TcxIngress;
            let link = link::create(program.as_fd(), bridge, ingress, flags).unwrap();
            let note = told(&mut datapath);
            assert!(note.contains("the ingress of br0 (tcx program "), "{note}");
            assert_eq!(note.contains("before ours"), place, "{note}");
            drop(link);
        }
        assert_eq!(told(&mut datapath), "");
        // Nothing stands above it any more.
        world::run(&format!("ip link set {WORKLOAD_DEVICE} nomaster"));
        datapath.attach_pending().unwrap();
        let left = link::programs_at(bridge, AttachType::TcxIngress).unwrap();
        assert_eq!(left, [0; 0]);
    });
}
