//! An agent that ends, one that comes back, and one that cleans up.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use tidegate_policy::compiled::{Generation, Verdict};

use super::{compiled, policy, world, world::NODE};
use crate::{Datapath, DatapathError};

#[test]
fn a_restarted_agent_takes_over_what_runs() {
    world::test(|world| {
        let mut before = world.open();
        before
            .publish(Generation(1), &compiled(policy(Verdict::Allow)))
            .unwrap();
        let listener = TcpListener::bind((NODE, 8080)).unwrap();
        let mut client = world.in_workload(|| TcpStream::connect((NODE, 8080)).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        let ids = programs(&before);
        let flows = before.flows().unwrap().count();
        assert_eq!(flows, 1);
        assert!(!before.reader().has_other_sources());
        before.set_other_sources(true).unwrap();
        drop(before);

        let mut echo = |text: &[u8; 4]| {
            client.write_all(text).unwrap();
            let mut got = [0; 4];
            server.read_exact(&mut got).unwrap();
            assert_eq!(&got, text);
        };
        echo(b"none");
        let mut after = world.open();
        echo(b"back");
        assert_eq!(after.generation(), Generation(1));
        assert!(after.reader().has_other_sources(), "what it was made of");
        after.set_other_sources(false).unwrap();
        assert!(!after.reader().has_other_sources());
        assert_eq!(after.flows().unwrap().count(), flows);
        let new_ids = programs(&after);
        assert_eq!(ids.len(), new_ids.len());
        assert!(ids.iter().zip(&new_ids).all(|(old, new)| old.1 < new.1));
        let report = after
            .publish(Generation(2), &compiled(policy(Verdict::Allow)))
            .unwrap();
        assert!(report.attach.is_unchanged(), "{:?}", report.attach);
        assert!(
            report
                .changes
                .iter()
                .all(|change| change.table == "ENDPOINTS")
        );
        echo(b"more");
    });
}

/// Names and kernel ids of the programs.
fn programs(datapath: &Datapath) -> Vec<(String, u32)> {
    let programs = datapath.status().programs;
    programs.into_iter().map(|p| (p.name, p.id)).collect()
}

#[test]
fn another_capacity_is_refused_with_a_way_out() {
    world::test(|world| {
        drop(world.open());
        let mut options = world.options();
        options.limits.flows = 2_048;
        let Err(error) = world.try_open(options) else {
            panic!("a live table was resized");
        };
        assert!(matches!(
            error,
            DatapathError::Capacity {
                table: "FLOWS",
                key: "limits.flows",
                found: 1_024,
                wanted: 2_048
            }
        ));
        assert!(error.to_string().contains("tidegate cleanup"));
    });
}

#[test]
fn pins_of_tables_that_somebody_removes_are_made_again_or_told() {
    world::test(|world| {
        let pin = |name: &str| {
            let mut pins = world::files(&world.bpffs()).into_iter();
            let found = pins.find(|pin| pin.file_name().is_some_and(|file| file == name));
            found.unwrap_or_else(|| panic!("no pin {name}"))
        };
        let mut first = world.open();
        first
            .publish(Generation(1), &compiled(policy(Verdict::Allow)))
            .unwrap();
        let _listener = TcpListener::bind((NODE, 8080)).unwrap();
        let connect = || {
            let to = (NODE, 8080).into();
            TcpStream::connect_timeout(&to, std::time::Duration::from_millis(300)).is_ok()
        };
        assert!(world.in_workload(connect));

        // A running agent holds what it needs.
        std::fs::remove_file(pin("POLICY")).unwrap();
        std::fs::remove_file(pin("EVENTS")).unwrap();
        let report = first.attach_pending().unwrap();
        let both = ["EVENTS", "POLICY"].map(|name| format!("the pin of table {name} was removed"));
        assert_eq!(report.restored, both);
        assert!(first.attach_pending().unwrap().is_unchanged());
        drop(first);

        // The next one finds it with the programs.
        let maps = pin("POLICY");
        let maps = maps.parent().expect("a folder").to_owned();
        world::files(&maps)
            .iter()
            .for_each(|pin| std::fs::remove_file(pin).unwrap());
        let mut second = world.open();
        assert_eq!(second.generation(), Generation(1));
        assert_eq!(second.flows().unwrap().count(), 1);
        // No program of this world's uses services.
        let lost = second.lost_tables().unwrap_or_default();
        let restored = second.attach_pending().unwrap().restored.join("\n");
        for name in [
            "GENERATION",
            "ENDPOINTS",
            "POLICY",
            "IPCACHE",
            "FLOWS",
            "EVENTS",
        ] {
            assert!(!lost.contains(name), "{lost}");
            assert!(restored.contains(name), "{restored}");
        }
        assert!(world.in_workload(connect));
        drop(second);

        // Without programs there is nothing to find: that is said, and numbers go on.
        let links = pin("from_endpoint-2");
        let links = links.parent().expect("a folder").to_owned();
        world::files(&links)
            .iter()
            .for_each(|pin| std::fs::remove_file(pin).unwrap());
        std::fs::remove_file(pin("GENERATION")).unwrap();
        std::fs::remove_file(pin("POLICY")).unwrap();
        let third = world.open();
        let lost = third.lost_tables().expect("told");
        assert!(lost.contains("GENERATION, POLICY held is lost"), "{lost}");
        assert!(third.status().notes.iter().any(|note| note.message == lost));
        assert_eq!(third.generation(), Generation(1), "that of the flows");
    });
}

/// Whatever its run folder: same pins, or same network namespace.
#[test]
fn a_second_agent_is_refused() {
    world::test(|world| {
        let first = world.open();
        let mut other_pins = world.options();
        other_pins.bpffs = world.bpffs().join("other");
        for options in [world.options(), other_pins] {
            let Err(error) = world.try_open(options) else {
                panic!("two agents");
            };
            assert!(matches!(error, DatapathError::Owned { .. }), "{error}");
            let pid = format!("pid {}", std::process::id());
            assert!(error.to_string().contains(&pid), "{error}");
        }
        drop(first);
        world.open();
    });
}

#[test]
fn cleaning_up_leaves_nothing() {
    world::test(|world| {
        let mut datapath = world.open();
        datapath
            .publish(Generation(1), &compiled(policy(Verdict::Deny)))
            .unwrap();
        let _listener = TcpListener::bind((NODE, 8080)).unwrap();
        let connect = || {
            let to = (NODE, 8080).into();
            TcpStream::connect_timeout(&to, std::time::Duration::from_millis(300)).is_ok()
        };
        assert!(!world.in_workload(connect));
        // The agent may still be there, holding its links.
        Datapath::remove(&world.bpffs()).unwrap();
        assert!(world.in_workload(connect), "no program decides any more");
        assert_eq!(
            world::files(&world.bpffs()),
            [""; 0].map(std::path::PathBuf::from)
        );
        for family in ["-4", "-6"] {
            assert_eq!(
                world::output(&format!("ip {family} rule show fwmark 0x200/0xf00")),
                ""
            );
            assert_eq!(
                world::output(&format!(
                    "ip {family} route show table all type local table 2005"
                )),
                ""
            );
        }
        let mounts = std::fs::read_to_string("/proc/thread-self/mounts").unwrap();
        assert!(!mounts.contains(world.bpffs().to_str().unwrap()));
        drop(datapath);
        // Twice is fine, and so is a new start.
        Datapath::remove(&world.bpffs()).unwrap();
        assert_eq!(world.open().generation(), Generation(0));
    });
}

#[test]
fn routes_are_made_once_and_foreign_rules_are_told() {
    world::test(|world| {
        world::run("ip rule add pref 7 fwmark 0x200/0x200 lookup 100");
        let first = world.open();
        let notes = first.status().notes;
        assert!(
            notes
                .iter()
                .any(|note| note.message.contains("preference 7")
                    && note.message.contains("table 100")),
            "{notes:?}"
        );
        drop(first);
        world.open();
        for family in ["-4", "-6"] {
            let rules = world::output(&format!("ip {family} rule show"));
            assert_eq!(rules.matches("lookup 2005").count(), 1, "{rules}");
            let routes = world::output(&format!("ip {family} route show table 2005"));
            assert_eq!(
                routes.matches("local default dev lo").count(),
                1,
                "{routes}"
            );
        }
    });
}
