//! Devices and outside devices that come and go.

use std::sync::Arc;

use tidegate_policy::compiled::{Generation, Location, Verdict};

use super::{ENDPOINT, compiled, policy, world};
use crate::{Datapath, attach, bridge, place};

#[test]
fn a_workload_may_appear_after_its_policy() {
    world::test(|world| {
        world.unplug();
        let mut datapath = world.open();
        let report = datapath
            .publish(Generation(1), &compiled(policy(Verdict::Allow)))
            .unwrap();
        let waiting = &report.attach.waiting[0];
        assert_eq!(
            waiting.to_string(),
            "default/workload: no device tg-workload"
        );
        world.plug_in();
        let report = datapath.attach_pending().unwrap();
        assert_eq!(report.attached, ["default/workload (tg-workload)"]);
        assert_eq!(report.waiting, []);
        let ifindex = datapath
            .tables
            .endpoints
            .get(&ENDPOINT.get())
            .unwrap()
            .unwrap()
            .ifindex;
        assert_eq!(
            datapath.tables.interfaces.entries().unwrap(),
            [(ifindex, ENDPOINT.get())]
        );
        assert!(datapath.attach_pending().unwrap().is_unchanged());

        world.unplug();
        let report = datapath.attach_pending().unwrap();
        assert_eq!(report.detached, [format!("device {ifindex}")]);
        assert_eq!(datapath.tables.interfaces.count().unwrap(), 0);
        world.plug_in();
        let report = datapath.attach_pending().unwrap();
        assert_eq!(report.attached, ["default/workload (tg-workload)"]);
    });
}

#[test]
fn outside_devices_say_how_the_deny_list_runs() {
    world::test(|world| {
        world::run("ip link add tg-outside type veth peer name tg-beyond");
        let mut options = world.options();
        options.outside = vec!["tg-outside".into(), "tg-missing".into()];
        let datapath = world.try_open(options).unwrap();
        let status = datapath.status();
        let waiting = status.attach.waiting.iter().map(ToString::to_string);
        assert_eq!(
            waiting.collect::<Vec<_>>(),
            ["no outside device tg-missing"]
        );
        let runs_on = |name| {
            let mut programs = status.programs.iter();
            let program = programs.find(|program| program.name == name).unwrap();
            program.attached.clone()
        };
        assert_eq!(runs_on("from_outside"), ["tg-outside"]);
        // What must not leave must not leave by a device nobody declared, either.
        for exit in ["tg-outside", "tg-beyond"] {
            assert!(runs_on("to_outside").contains(&exit.to_owned()));
        }
        assert!(!runs_on("to_outside").contains(&"lo".to_owned()));
        assert_eq!(status.xdp.len(), 1);
        assert_eq!(
            (status.xdp[0].device.as_str(), status.xdp[0].mode),
            ("tg-outside", "native")
        );
    });
}

/// A key that is gone says nothing about what it said; a list does.
#[test]
fn an_outside_device_stays_one_until_a_list_says_otherwise() {
    world::test(|world| {
        world::run("ip link add tg-outside type veth peer name tg-beyond");
        let open = |outside: &[&str]| {
            let mut options = world.options();
            options.outside = outside.iter().map(ToString::to_string).collect();
            world.try_open(options).unwrap()
        };
        let is_outside = |datapath: &Datapath| {
            let status = datapath.status();
            let mut programs = status.programs.iter();
            let program = programs.find(|program| program.name == "from_outside");
            let attached = !program.unwrap().attached.is_empty();
            assert_eq!(attached, status.xdp.len() == 1, "{:?}", status.xdp);
            attached
        };
        assert!(is_outside(&open(&["tg-outside"])));
        for _ in 0..2 {
            let without = open(&[]);
            assert!(is_outside(&without));
            let notes = without.status().notes;
            assert!(
                notes
                    .iter()
                    .any(|note| note.message.contains("routes: tg-outside")),
                "{notes:?}"
            );
            // And what it means that its sockets are left alone.
            assert!(notes.contains(&crate::without_cgroup()), "{notes:?}");
        }
        assert!(!is_outside(&open(&["tg-missing"])));
        assert!(!is_outside(&open(&[])));
    });
}

/// A deny list that reads nothing would be said to be attached, and let everything pass.
#[test]
fn a_node_without_a_way_out_is_told() {
    world::test(|world| {
        let mut options = world.options();
        options.outside.clear();
        let mut datapath = world.try_open(options).unwrap();
        datapath
            .publish(Generation(1), &compiled(policy(Verdict::Allow)))
            .unwrap();
        let told = |datapath: &Datapath| {
            let notes = datapath.status().notes.into_iter();
            let mut notes =
                notes.filter(|note| note.message.contains("node.outsideDevices is not set"));
            notes.next().unwrap().message
        };
        assert!(told(&datapath).contains("there is no default route"));
        world::run("ip link add way type veth peer name way-peer");
        world::run("ip link set way up");
        world::run("ip route add default dev way");
        datapath.attach_pending().unwrap();
        assert!(told(&datapath).contains("by the default routes: way"));

        // Somebody names devices, and not the one that leads out, and one that is not there.
        drop(datapath);
        let mut options = world.options();
        options.outside = vec!["tun-gone".to_owned()];
        let mut datapath = world.try_open(options).unwrap();
        datapath.attach_pending().unwrap();
        let notes = datapath.status().notes;
        for expected in [
            "a default route leads through way, which is not among node.outsideDevices",
            "no outside device tun-gone",
        ] {
            let said = notes.iter().filter(|note| note.message.contains(expected));
            assert_eq!(said.count(), 1, "{expected}: {notes:?}");
        }
    });
}

#[test]
fn a_bridge_of_workloads_is_no_outside_device() {
    world::test(|world| {
        world::run("ip link add br0 type bridge");
        world::run("ip link add web type veth peer name web-peer");
        world::run("ip link add eth9 type veth peer name eth9-peer");
        world::run("ip link set web master br0");
        world::run("ip link set eth9 master br0");
        let mut options = world.options();
        options.outside = vec!["br0".to_owned()];
        let mut datapath = world.try_open(options).unwrap();
        let mut content = compiled(policy(Verdict::Allow));
        let endpoint = Arc::make_mut(content.endpoints.get_mut(&ENDPOINT).unwrap());
        endpoint.location = Location::Interface("web".to_owned());
        datapath.publish(Generation(1), &content).unwrap();
        let report = datapath.attach_pending().unwrap();
        let said = report.failed.join("\n");
        assert!(said.contains("br0 is no outside device"), "{said}");
        assert!(said.contains("instead, of [eth9]"), "{said}");
        // Steered frames of a port are for the bridge itself.
        let ports = datapath.tables.bridge_ports.entries().unwrap();
        let web = place::interface_index("web").unwrap();
        assert_eq!(
            ports.iter().map(|(index, _)| *index).collect::<Vec<_>>(),
            [web]
        );
        assert_eq!(bridge::bridges().unwrap(), ["br0"]);
        world::run("ip link set web nomaster");
        datapath.attach_pending().unwrap();
        assert_eq!(datapath.tables.bridge_ports.count().unwrap(), 0);
    });
}

#[test]
fn a_device_without_ethernet_headers_leads_outside_and_to_no_workload() {
    world::test(|world| {
        world::run("ip tuntap add tg-tunnel mode tun");
        world::run("ip tuntap add tg-other mode tun");
        let mut options = world.options();
        options.outside = vec!["tg-tunnel".into()];
        let mut datapath = world.try_open(options).unwrap();
        let mut generation = compiled(policy(Verdict::Deny));
        let endpoint = Arc::make_mut(generation.endpoints.get_mut(&ENDPOINT).unwrap());
        endpoint.location = Location::Interface("tg-other".into());
        let report = datapath.publish(Generation(1), &generation).unwrap().attach;
        let waiting: Vec<_> = report.waiting.iter().map(ToString::to_string).collect();
        assert!(
            matches!(&waiting[..], [one] if one.contains("tg-other carries packets without an Ethernet header: a workload's device is")),
            "{waiting:?}"
        );
        let status = datapath.status();
        let runs_on = |name| {
            let mut programs = status.programs.iter();
            let program = programs.find(|program| program.name == name).unwrap();
            program.attached.clone()
        };
        assert_eq!(runs_on("from_outside_ip"), ["tg-tunnel"]);
        assert_eq!(runs_on("to_outside_ip"), ["tg-tunnel", "tg-other"]);
        assert_eq!(runs_on("from_outside"), [""; 0]);
        assert!(!runs_on("to_outside").contains(&"tg-other".to_owned()));
        let xdp = &status.xdp[0];
        assert_eq!((xdp.device.as_str(), xdp.mode), ("tg-tunnel", "generic"));
    });
}

/// Every kind of hook: whatever somebody else detaches runs again after the next look, and
/// `status` never says otherwise than the kernel does.
#[test]
fn what_somebody_detaches_is_told_and_attached_again() {
    use std::os::fd::AsFd;

    use tidegate_bpf::{link, pin};

    use crate::bpffs;

    world::test(|world| {
        world::run("ip link add tg-outside type veth peer name tg-beyond");
        let mut options = world.options();
        options.outside = vec!["tg-outside".into()];
        options.cgroup = place::cgroup_mount().map(|mount| {
            let child = mount.join(format!("tidegate-links-{}", std::process::id()));
            std::fs::create_dir_all(&child).unwrap();
            child
        });
        let child = options.cgroup.clone().expect("cgroup v2 is mounted");
        let mut datapath = world.try_open(options).unwrap();
        datapath
            .publish(Generation(1), &compiled(policy(Verdict::Deny)))
            .unwrap();
        let attached = |datapath: &Datapath| {
            let programs = datapath.status().programs.into_iter();
            programs
                .map(|program| (program.name, program.attached))
                .collect::<Vec<_>>()
        };
        let before = attached(&datapath);
        assert_eq!(datapath.status().missing, [""; 0]);
        let links = datapath.pins.links.clone();
        let names = bpffs::names(&links).unwrap();
        assert!(names.len() >= 15, "{names:?}");

        // As `bpftool link detach` does it.
        for name in &names {
            let link = pin::open(&links.join(name)).unwrap();
            let detached = link::detach(link.as_fd());
            // A socket map's link has no such operation.
            assert!(
                detached.is_ok() || name.starts_with("first_bytes"),
                "{name}"
            );
        }
        for (name, places) in attached(&datapath) {
            assert!(
                places.is_empty() || name == "first_bytes",
                "{name} on {places:?}"
            );
        }
        let report = datapath.attach_pending().unwrap();
        assert!(report.restored.len() >= names.len() - 1, "{report:?}");
        assert_eq!(attached(&datapath), before);
        assert_eq!(datapath.status().restored, report.restored.len() as u64);

        // Without its pin a link would end with this process.
        for name in &names {
            std::fs::remove_file(links.join(name)).unwrap();
        }
        let report = datapath.attach_pending().unwrap();
        assert_eq!(report.restored.len(), names.len(), "{report:?}");
        assert_eq!(bpffs::names(&links).unwrap(), names);
        assert!(datapath.attach_pending().unwrap().is_unchanged());
        drop(datapath);
        std::fs::remove_dir(&child).unwrap();
    });
}

#[test]
fn a_workload_is_never_behind_a_way_out_of_the_node() {
    world::test(|world| {
        world::run("ip link add tg-outside type veth peer name tg-beyond");
        let mut options = world.options();
        options.outside = vec!["tg-outside".into()];
        let mut datapath = world.try_open(options).unwrap();
        world::run("ip link add tg-bridge type bridge");
        let devices = [(1, "tg-outside"), (2, "lo"), (3, "tg-bridge")];
        for (generation, device) in devices {
            let mut content = compiled(policy(Verdict::Deny));
            let endpoint = Arc::make_mut(content.endpoints.get_mut(&ENDPOINT).unwrap());
            endpoint.location = Location::Interface(device.into());
            let report = datapath.publish(Generation(generation), &content).unwrap();
            assert!(
                report.attach.waiting[0].missing.contains(device),
                "{report:?}"
            );
            assert_eq!(datapath.tables.interfaces.count().unwrap(), 0);
            let programs = datapath.status().programs.into_iter();
            for program in programs.filter(|p| p.name.ends_with("_endpoint")) {
                assert_eq!(program.attached, [""; 0], "{}", program.name);
            }
        }
    });
}

/// A workload that came anew while no agent ran has its programs again before anything
/// else is known.
#[test]
fn a_device_made_anew_is_policed_before_the_first_generation() {
    world::test(|world| {
        let content = compiled(policy(Verdict::Deny));
        let mut options = world.options();
        let endpoint = &content.endpoints[&ENDPOINT];
        let home = (endpoint.name.clone(), endpoint.location.clone());
        options.homes = [(ENDPOINT, home)].into();
        // With no table of its own it would be closed: it waits for the first generation.
        let mut datapath = world.try_open(options.clone()).unwrap();
        assert_eq!(datapath.tables.interfaces.count().unwrap(), 0);
        datapath.publish(Generation(1), &content).unwrap();
        drop(datapath);
        world.unplug();
        world.plug_in();
        let datapath = world.try_open(options).unwrap();
        assert_eq!(datapath.generation(), Generation(1));
        let programs = datapath.status().programs.into_iter();
        let on_workload =
            programs.filter(|p| p.attached.contains(&world::WORKLOAD_DEVICE.to_owned()));
        let on_workload: Vec<_> = on_workload.map(|p| p.name).collect();
        assert_eq!(on_workload, ["from_endpoint", "to_endpoint"]);
    });
}

#[test]
fn a_device_without_native_xdp_gets_the_generic_one_and_says_why() {
    world::test(|world| {
        let mut options = world.options();
        options.outside = vec!["lo".into()];
        for expected in ["not supported", "refused when it was attached"] {
            let datapath = world.try_open(options.clone()).unwrap();
            let xdp = datapath.status().xdp;
            let reason = xdp[0].reason.as_deref().unwrap();
            assert_eq!(xdp[0].mode, "generic");
            assert!(reason.contains(expected), "{reason}");
        }
    });
}

#[test]
fn a_host_service_is_known_by_its_cgroup() {
    use std::os::unix::fs::MetadataExt;

    /// A child cgroup that goes with the test.
    struct Child(std::path::PathBuf);
    impl Drop for Child {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir(&self.0);
        }
    }

    world::test(|world| {
        let name = format!("tidegate-datapath-{}", std::process::id());
        let mount = place::cgroup_mount().expect("cgroup v2 is mounted");
        let child = Child(mount.join(&name));
        std::fs::create_dir(&child.0).unwrap();
        let id = std::fs::metadata(&child.0).unwrap().ino();

        let mut options = world.options();
        options.cgroup = Some(child.0.clone());
        let mut datapath = world.try_open(options.clone()).unwrap();
        let mut content = compiled(policy(Verdict::Allow));
        let endpoint = Arc::make_mut(content.endpoints.get_mut(&ENDPOINT).unwrap());
        endpoint.location = Location::Cgroup(name);
        datapath.publish(Generation(1), &content).unwrap();
        assert_eq!(
            datapath.tables.cgroups.entries().unwrap(),
            [(id, ENDPOINT.get())]
        );
        let all_attached = |datapath: &Datapath| {
            let status = datapath.status();
            for program in attach::CGROUP_PROGRAMS {
                let found = status.programs.iter().find(|found| found.name == program);
                assert_eq!(found.unwrap().attached, ["node"], "{program}");
            }
            assert!(
                !status
                    .notes
                    .iter()
                    .any(|note| note.message.contains("cgroup")),
                "{:?}",
                status.notes
            );
        };
        all_attached(&datapath);
        drop(datapath);
        let mut datapath = world.try_open(options).unwrap();
        all_attached(&datapath);
        datapath
            .publish(Generation(2), &Default::default())
            .unwrap();
        assert_eq!(datapath.tables.cgroups.count().unwrap(), 0);
    });
}
