//! The real proxy process under its real supervisor: what it may do, that it comes
//! back when killed, and that the next agent finds it. Needs root, for kernel tables.

use std::{collections::BTreeMap, fs, os::fd::OwnedFd, path::Path, time::Duration};
use tidegate_policy::compiled::Generation;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tidegate_bpf::testing::{MapKind, create};
use tidegate_channel::{Channel, listener};
use tidegate_contract::{
    Limits, ListenerInfo, PROTOCOL_VERSION, PluginInfo, Snapshot, ToAgent, ToProxy, World,
};
use tidegate_ebpf_shared::{
    addr::{Addr, AddrPrefix},
    config::DatapathConfig,
    endpoint::EndpointInfo,
    flow::{FlowEntry, FlowKey},
    identity::{AddrInfo, FqdnInfo},
    maps::map,
    policy::{PolicyEntry, PolicyKey},
    steer::{PeerKey, SteerOrigin, class},
};
use tidegate_policy::shared::Map;
use tidegate_supervisor::{ProxyOptions, ProxyStatus, ProxySupervisor};
use tokio::sync::mpsc;

/// `nobody`.
const USER: u32 = 65_534;
/// `CAP_NET_BIND_SERVICE` and `CAP_NET_RAW`.
const CAPABILITIES: &str = "0000000000002400";

/// A hash table of the kernel.
fn table<K, V>() -> OwnedFd {
    create::<K, V>(MapKind::BPF_MAP_TYPE_HASH, 16).expect("creating a table needs root")
}

async fn supervise(run_dir: &Path) -> (ProxySupervisor, mpsc::Receiver<ToAgent>) {
    let options = ProxyOptions {
        run_dir: run_dir.to_owned(),
        exe: env!("CARGO_BIN_EXE_tidegate").into(),
        user: (USER, USER),
        workers: Some(1),
        connections_per_cpu: 1_024,
        memory_per_cpu_mib: 64,
        http2_header_list_bytes: 65_536,
        hung_after: Duration::from_secs(10),
        plugin_memory_bytes: None,
        log: (false, "warn".to_owned()),
    };
    let maps = BTreeMap::from([
        (map::FLOWS, table::<FlowKey, FlowEntry>()),
        (map::FQDN, table::<Addr, FqdnInfo>()),
        (map::STEERED, table::<i32, SteerOrigin>()),
        (map::STEER_BY_TUPLE, table::<PeerKey, SteerOrigin>()),
        (map::CONFIG, table::<u32, DatapathConfig>()),
        (map::GENERATION, table::<u32, u32>()),
        (map::ENDPOINTS, table::<u32, EndpointInfo>()),
        (map::IPCACHE, table::<AddrPrefix, AddrInfo>()),
        (map::POLICY, table::<PolicyKey, PolicyEntry>()),
    ]);
    ProxySupervisor::start(options, maps).await.unwrap()
}

async fn publish(supervisor: &ProxySupervisor, generation: Generation) {
    let snapshot = Snapshot {
        generation,
        ..Snapshot::default()
    };
    let published = supervisor
        .publish(snapshot, Default::default())
        .await
        .unwrap();
    assert_eq!(
        (published.generation, published.refused.len()),
        (generation, 0)
    );
}

/// Waits until the proxy's status is as wanted.
async fn until(
    supervisor: &ProxySupervisor,
    wanted: impl FnMut(&ProxyStatus) -> bool,
) -> ProxyStatus {
    let mut status = supervisor.status();
    let waiting = status.wait_for(wanted);
    let status = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    status
        .expect("in time")
        .expect("a running supervisor")
        .clone()
}

/// Waits for counters of this generation; those of a later one end it.
async fn stats_of(events: &mut mpsc::Receiver<ToAgent>, generation: Generation) -> u32 {
    let next = async {
        loop {
            if let ToAgent::Stats(stats) = events.recv().await.unwrap()
                && stats.generation >= generation
            {
                assert_eq!(stats.generation, generation, "it was never told");
                return stats.pid;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), next)
        .await
        .unwrap()
}

/// The value of a line of `/proc/PID/status`.
fn proc_status(pid: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[tokio::test]
async fn it_has_two_powers_comes_back_and_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let (supervisor, mut events) = supervise(dir.path()).await;
    publish(&supervisor, Generation(1)).await;
    let first = until(&supervisor, |status| status.serving).await;
    assert_eq!(first.starts, 1);

    // Every thread, the workers too.
    for task in fs::read_dir(format!("/proc/{}/task", first.pid)).unwrap() {
        let task = task
            .unwrap()
            .file_name()
            .into_string()
            .unwrap()
            .parse()
            .unwrap();
        let user = [USER.to_string().as_str(); 4].join(" ");
        assert_eq!(proc_status(task, "Uid"), user);
        assert_eq!(proc_status(task, "Gid"), user);
        assert_eq!(proc_status(task, "Groups"), "");
        for set in ["CapEff", "CapPrm"] {
            assert_eq!(proc_status(task, set), CAPABILITIES, "{set}");
        }
        for set in ["CapInh", "CapBnd", "CapAmb"] {
            assert_eq!(proc_status(task, set), "0".repeat(16), "{set}");
        }
        assert_eq!(proc_status(task, "NoNewPrivs"), "1");
        assert_eq!(proc_status(task, "Seccomp"), "2", "filtered");
    }
    assert_eq!(stats_of(&mut events, Generation(1)).await, first.pid);
    let listeners = supervisor.listeners().len();
    assert!(listeners >= class::COUNT as usize);

    // Each generation is told when it is in use, not at the next second.
    for generation in 2..=5 {
        publish(&supervisor, Generation(generation)).await;
    }
    for generation in 2..=5 {
        assert_eq!(
            stats_of(&mut events, Generation(generation)).await,
            first.pid
        );
    }

    // Killed: another one serves the same generation, with the same listeners.
    kill(Pid::from_raw(first.pid as i32), Signal::SIGKILL).unwrap();
    let second = until(&supervisor, |status| {
        status.serving && status.pid != first.pid
    })
    .await;
    assert_eq!(second.starts, 2);
    assert_eq!(stats_of(&mut events, Generation(5)).await, second.pid);
    assert_eq!(supervisor.listeners().len(), listeners);

    // The agent goes, the proxy stays, the next agent takes it over.
    drop((supervisor, events));
    let (supervisor, _events) = supervise(dir.path()).await;
    publish(&supervisor, Generation(6)).await;
    let adopted = until(&supervisor, |status| status.serving).await;
    assert_eq!((adopted.pid, adopted.starts), (second.pid, 0));
    assert_eq!(supervisor.listeners().len(), listeners);

    // Compiled code that is gone from the disk costs its plugin, by name, and no generation.
    let info = PluginInfo {
        version: "1".into(),
        digest: "sha256:gone".into(),
        artifact: "sha256:code".into(),
        world: World::HttpFilter,
        capabilities: Vec::new(),
        limits: Limits::default(),
    };
    let snapshot = Snapshot {
        generation: Generation(7),
        plugins: Map::unit("gone".to_owned(), info),
        ..Snapshot::default()
    };
    let code = [("sha256:code".to_owned(), dir.path().join("gone"))].into();
    let published = supervisor.publish(snapshot, code).await.unwrap();
    assert_eq!(published.generation, Generation(7));
    assert!(
        matches!(&published.refused[..], [(name, _)] if name == "gone"),
        "{:?}",
        published.refused
    );

    drop(supervisor);
    ProxySupervisor::stop(dir.path(), Duration::from_secs(1))
        .await
        .unwrap();
    assert!(!dir.path().join("proxy.sock").exists());
}

/// An upgrade may bring another protocol. The proxy of before is left to its streams, and what
/// waits at its listeners is served by the next one.
#[tokio::test]
async fn a_proxy_of_another_version_makes_room() {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept, bind, listen, socket,
    };
    use std::os::fd::{AsFd, AsRawFd, FromRawFd};
    let dir = tempfile::tempdir().unwrap();
    let flags = SockFlag::SOCK_CLOEXEC;
    let door = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    let path = dir.path().join("proxy.sock");
    bind(door.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&door, Backlog::new(1).unwrap()).unwrap();
    let info = ListenerInfo {
        class: class::TCP4,
        cpu: 0,
    };
    let listener = listener::create(info).unwrap();
    let address = std::net::TcpListener::from(listener.try_clone().unwrap())
        .local_addr()
        .unwrap();
    let former = async {
        let agent = tokio::task::spawn_blocking(move || {
            let agent = accept(door.as_raw_fd()).unwrap();
            // SAFETY: a new descriptor of ours.
            unsafe { OwnedFd::from_raw_fd(agent) }
        });
        let agent = Channel::new(agent.await.unwrap()).unwrap();
        let (greeting, _) = agent.receive::<ToProxy>().await.unwrap().unwrap();
        assert!(matches!(greeting, ToProxy::Hello { .. }), "{greeting:?}");
        let answer = ToAgent::Hello {
            protocol: PROTOCOL_VERSION - 1,
            generation: Generation(7),
            pid: std::process::id(),
            listeners: vec![info],
            artifacts: Vec::new(),
        };
        agent
            .send_plain(&answer, &[listener.as_fd()])
            .await
            .unwrap();
        let (farewell, _) = agent.receive::<ToProxy>().await.unwrap().unwrap();
        assert!(matches!(farewell, ToProxy::Drain { .. }), "{farewell:?}");
    };
    let ((supervisor, _events), ()) = tokio::join!(supervise(dir.path()), former);
    let status = until(&supervisor, |status| status.pid != 0).await;
    assert_eq!(status.starts, 1);
    assert_ne!(status.pid, std::process::id());
    let kept = supervisor.listeners();
    let (_, kept) = kept.iter().find(|(of, _)| *of == info).unwrap();
    let kept = std::net::TcpListener::from(kept.try_clone_to_owned().unwrap());
    assert_eq!(kept.local_addr().unwrap(), address);
    let _ = kill(Pid::from_raw(status.pid.cast_signed()), Signal::SIGKILL);
}
