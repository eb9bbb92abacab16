//! The socket hooks on real sockets: in a cgroup and a network namespace of this
//! process's own. Needs root.

use std::{
    collections::HashSet,
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use aya::{
    maps::SkStorage,
    programs::{CgroupAttachMode, Program},
};
use tidegate_decide::service::member_slot;
use tidegate_ebpf_shared::{
    addr::proto,
    config::DatapathConfig,
    endpoint::EndpointInfo,
    event::kind,
    identity::reserved,
    maps::{map, program},
    policy::{PolicyEntry, PolicyKey, direction, verdict},
    service::{Backend, ServiceEntry, ServiceKey, SlotKey},
    steer::{PeerKey, SteerOrigin},
};
use tidegate_tests::kernel::{
    object::Object,
    random::Random,
    sockets::{Comparison, Tally},
    world::addr,
};

const HOST_SERVICE: u32 = 20;
const POLICY: u32 = 1;

/// A cgroup with this process in it; left and removed when dropped.
struct Cgroup {
    parent: PathBuf,
    path: PathBuf,
}

impl Cgroup {
    fn enter() -> Self {
        let parent = PathBuf::from("/sys/fs/cgroup/unified");
        let path = parent.join(format!("tgk{}", std::process::id()));
        fs::create_dir(&path).expect("a child cgroup");
        let cgroup = Self { parent, path };
        fs::write(cgroup.path.join("cgroup.procs"), "0").expect("enter the cgroup");
        cgroup
    }

    fn id(&self) -> u64 {
        fs::metadata(&self.path).expect("the cgroup").ino()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.parent.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.path);
    }
}

#[test]
fn socket_hooks_translate_refuse_and_steer() {
    // On a thread of its own: the namespace goes with it.
    std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace");
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.expect("ip").success());
        let cgroup = Cgroup::enter();
        let mut object = attached(&cgroup);
        listener_port(&mut object, 0);
        translates_tcp(&mut object);
        translates_udp(&mut object);
        keeps_a_sockets_backend(&mut object, "10.96.0.1:55", "127.0.0.1:0");
        keeps_a_sockets_backend(&mut object, "[fd00::96]:56", "[::1]:0");
        refuses_an_empty_service(&mut object);
        become_host_service(&mut object, &cgroup);
        refuses_by_policy(&mut object);
        steers_tcp(&mut object, "127.0.0.1:0", "192.0.2.1:8080");
        steers_tcp(&mut object, "[::1]:0", "[2001:db8::1]:8080");
        steers_datagrams(&mut object, "127.0.0.1:0", "192.0.2.53:53");
        steers_datagrams(&mut object, "[::1]:0", "[2001:db8::53]:53");
        drop(object);
        attempts_agree_with_the_model(&cgroup);
    })
    .join()
    .expect("the test thread");
}

/// Random worlds, each with 20 attempts.
const CASES: usize = 300;

fn attempts_agree_with_the_model(cgroup: &Cgroup) {
    // Everything leads somewhere, and nobody is there.
    let ip = |line: &str| {
        let status = Command::new("ip").args(line.split(' ')).status();
        assert!(status.expect("ip").success(), "{line}");
    };
    for line in [
        "link add away type veth peer name beyond",
        "link set away up",
        "link set beyond up",
        "address add 10.1.0.1/24 dev away",
        "address add fd01::1/64 dev away nodad",
        "route add default dev away",
        "-6 route add default dev away",
    ] {
        ip(line);
    }
    let proxy = TcpListener::bind("[::]:0").expect("the proxy");
    let seed = Random::seed();
    println!("TIDEGATE_SEED={seed}");
    let (mut random, mut tally) = (Random::new(seed), Tally::default());
    let mut comparison = Comparison {
        object: &mut attached(cgroup),
        cgroup: cgroup.id(),
        proxy: proxy.local_addr().expect("bound").port(),
        used: 0,
    };
    for _ in 0..CASES {
        comparison
            .case(&mut random, &mut tally)
            .expect("maps and sockets");
    }
    println!("{tally:?}");
    assert_eq!(tally.missing(), Vec::<&str>::new());
}

fn attached(cgroup: &Cgroup) -> Object {
    let names = [
        program::CONNECT4,
        program::CONNECT6,
        program::SENDMSG4,
        program::SENDMSG6,
        program::RECVMSG4,
        program::RECVMSG6,
        program::GETPEERNAME4,
        program::GETPEERNAME6,
        program::SOCKOPS,
    ];
    let mut object = Object::load(&names).expect("load");
    let directory = fs::File::open(&cgroup.path).expect("the cgroup");
    for name in names {
        // A single attachment by link: the kernel lets other links stand beside it.
        let mode = CgroupAttachMode::Single;
        let attached = match object.program_mut(name).expect("loaded") {
            Program::CgroupSockAddr(program) => program.attach(&directory, mode).map(drop),
            Program::SockOps(program) => program.attach(&directory, mode).map(drop),
            _ => panic!("{name} is no cgroup program"),
        };
        attached.unwrap_or_else(|error| panic!("{name} is not attached: {error:?}"));
    }
    object
}

fn service(object: &mut Object, frontend: &str, protocol: u8, backend: Option<SocketAddr>) {
    let frontend: SocketAddr = frontend.parse().expect("literal");
    let id = u32::from(frontend.port());
    let key = ServiceKey {
        addr: addr(frontend.ip()),
        port: frontend.port().to_be_bytes(),
        protocol,
        pad: 0,
    };
    let entry = ServiceEntry {
        id,
        backends: u32::from(backend.is_some()),
        ..ServiceEntry::default()
    };
    let set = |result: Result<(), _>| result.expect("a map write");
    set(object
        .hash(map::SERVICES)
        .expect("map")
        .insert(key, entry, 0));
    if let Some(backend) = backend {
        let slot = SlotKey {
            service: id,
            slot: 0,
        };
        set(object.hash(map::SLOTS).expect("map").insert(slot, id, 0));
        let value = Backend {
            addr: addr(backend.ip()),
            port: backend.port().to_be_bytes(),
            protocol,
            state: 0,
        };
        set(object
            .hash(map::BACKENDS)
            .expect("map")
            .insert(id, value, 0));
    }
}

fn translates_tcp(object: &mut Object) {
    for (frontend, local) in [
        ("10.96.0.1:80", "127.0.0.1:0"),
        ("[fd00::96]:81", "[::1]:0"),
    ] {
        let listener = TcpListener::bind(local).expect("a backend");
        let backend = listener.local_addr().expect("bound");
        service(object, frontend, proto::TCP, Some(backend));
        let client = TcpStream::connect(frontend).expect("connect to the service");
        // What the application asked for, not what it got.
        assert_eq!(client.peer_addr().expect("peer").to_string(), frontend);
        let events = object.events(map::EVENTS).expect("events");
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0].kind, kind::TRANSLATED);
        assert_eq!(events[0].dst, addr(backend.ip()));
    }
}

fn translates_udp(object: &mut Object) {
    for (frontend, local) in [
        ("10.96.0.1:53", "127.0.0.1:0"),
        ("[fd00::96]:54", "[::1]:0"),
    ] {
        let backend = UdpSocket::bind(local).expect("a backend");
        service(object, frontend, proto::UDP, backend.local_addr().ok());
        let frontend: SocketAddr = frontend.parse().expect("literal");
        let client = UdpSocket::bind(unspecified(frontend)).expect("a client");
        client.send_to(b"ask", frontend).expect("send");
        let from = echo(&backend);
        assert!(from.ip().is_loopback());
        let mut buffer = [0; 8];
        client.set_read_timeout(Some(WAIT)).expect("timeout");
        let (length, from) = client.recv_from(&mut buffer).expect("an answer");
        assert_eq!((&buffer[..length], from), (&b"ask"[..], frontend));
    }
    object.events(map::EVENTS).expect("events");
}

/// Datagrams of one unconnected socket go to one backend, until the service has it no more.
fn keeps_a_sockets_backend(object: &mut Object, frontend: &str, local: &str) {
    const BACKENDS: u32 = 4;
    let backends: Vec<UdpSocket> = (0..BACKENDS)
        .map(|_| UdpSocket::bind(local).expect("a backend"))
        .collect();
    let frontend: SocketAddr = frontend.parse().expect("literal");
    let service_id = u32::from(frontend.port());
    service(
        object,
        &frontend.to_string(),
        proto::UDP,
        backends[0].local_addr().ok(),
    );
    let key = ServiceKey {
        addr: addr(frontend.ip()),
        port: frontend.port().to_be_bytes(),
        protocol: proto::UDP,
        pad: 0,
    };
    let entry = ServiceEntry {
        id: service_id,
        backends: BACKENDS,
        ..ServiceEntry::default()
    };
    let mut services = object.hash(map::SERVICES).expect("map");
    services.insert(key, entry, 0).expect("a map write");
    let members: Vec<SlotKey> = (0..BACKENDS)
        .map(|slot| {
            let local = backends[slot as usize].local_addr().expect("bound");
            let backend = Backend {
                addr: addr(local.ip()),
                port: local.port().to_be_bytes(),
                protocol: proto::UDP,
                state: 0,
            };
            let id = 1_000 * service_id + slot;
            let member = member_slot(&backend.addr, backend.port);
            let mut table = object.hash(map::BACKENDS).expect("map");
            table.insert(id, backend, 0).expect("a map write");
            let mut slots = object.hash(map::SLOTS).expect("map");
            for slot in [slot, member] {
                let key = SlotKey {
                    service: service_id,
                    slot,
                };
                slots.insert(key, id, 0).expect("a map write");
            }
            SlotKey {
                service: service_id,
                slot: member,
            }
        })
        .collect();

    let (mut met, mut moved) = (HashSet::new(), false);
    for _ in 0..8 {
        let client = UdpSocket::bind(unspecified(frontend)).expect("a client");
        let ask = || {
            client.send_to(b"ask", frontend).expect("send");
            backends.iter().position(|backend| {
                backend.set_nonblocking(true).expect("non-blocking");
                backend.recv(&mut [0; 8]).is_ok()
            })
        };
        let first = ask().expect("somebody got it");
        for _ in 0..20 {
            assert_eq!(ask(), Some(first), "{frontend}: another backend");
        }
        let mut slots = object.hash::<SlotKey, u32>(map::SLOTS).expect("map");
        let id = slots.get(&members[first], 0).expect("a member");
        slots.remove(&members[first]).expect("a map write");
        moved |= (0..8).any(|_| ask() != Some(first));
        slots.insert(members[first], id, 0).expect("a map write");
        met.insert(first);
    }
    assert!(met.len() > 1, "{frontend}: every socket has one backend");
    assert!(
        moved,
        "{frontend}: a backend that is gone keeps its sockets"
    );
    object.events(map::EVENTS).expect("events");
}

/// The address that leaves the choice to the kernel, of the family of another.
fn unspecified(family_of: SocketAddr) -> &'static str {
    if family_of.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    }
}

fn refuses_an_empty_service(object: &mut Object) {
    service(object, "10.96.0.1:82", proto::TCP, None);
    let error = TcpStream::connect("10.96.0.1:82").expect_err("nobody there");
    assert_eq!(error.kind(), ErrorKind::HostUnreachable);
    let denies = object.events(map::DENIES).expect("events");
    assert_eq!(denies.len(), 1);
    assert_eq!(denies[0].kind, kind::SOCKET_DENIED);
}

/// From here on this process is a host service that may reach the node itself, and
/// through the proxy 8080/tcp and 53/udp anywhere.
fn become_host_service(object: &mut Object, cgroup: &Cgroup) {
    let info = EndpointInfo {
        identity: 400,
        policy_id: [POLICY; 2],
        ..EndpointInfo::default()
    };
    let mut endpoints = object.hash(map::ENDPOINTS).expect("map");
    endpoints
        .insert(HOST_SERVICE, info, 0)
        .expect("a map write");
    let row = PolicyKey {
        prefix_len: PolicyKey::ROW,
        policy_id: POLICY.to_be_bytes(),
        identity: [0; 4],
        direction: direction::EGRESS,
        protocol: 0,
        port: [0; 2],
    };
    let denied = PolicyEntry {
        rule: 7,
        ..PolicyEntry::default()
    };
    object.set_policy(row, denied).expect("a map write");
    // Loopback is the node itself: this process also plays the proxy, and answers.
    let to_node = PolicyKey {
        identity: reserved::HOST.to_be_bytes(),
        ..row
    };
    let allowed = PolicyEntry {
        rule: 6,
        verdict: verdict::ALLOW,
        ..PolicyEntry::default()
    };
    object.set_policy(to_node, allowed).expect("a map write");
    for (protocol, port) in [(proto::TCP, 8080_u16), (proto::UDP, 53)] {
        let key = PolicyKey {
            prefix_len: PolicyKey::FULL,
            protocol,
            port: port.to_be_bytes(),
            ..row
        };
        let entry = PolicyEntry {
            rule: 8,
            l7: 9,
            verdict: verdict::REDIRECT,
            ..PolicyEntry::default()
        };
        object.set_policy(key, entry).expect("a map write");
    }
    let mut cgroups = object.hash(map::CGROUPS).expect("map");
    cgroups
        .insert(cgroup.id(), HOST_SERVICE, 0)
        .expect("a map write");
}

fn refuses_by_policy(object: &mut Object) {
    for (to, rule) in [("192.0.2.1:443", 7), ("192.0.2.1:8080", 8)] {
        // The second would need the proxy, and there is none.
        let error = TcpStream::connect(to).expect_err("denied");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let denies = object.events(map::DENIES).expect("events");
        assert_eq!(denies.len(), 1);
        assert_eq!(denies[0].kind, kind::SOCKET_DENIED);
        assert_eq!(denies[0].egress_rule, rule);
        assert_eq!(denies[0].src_endpoint, HOST_SERVICE);
    }
}

fn steers_tcp(object: &mut Object, listen: &str, to: &str) {
    let listener = TcpListener::bind(listen).expect("the proxy");
    listener_port(object, listener.local_addr().expect("bound").port());
    let client = TcpStream::connect(to).expect("steered");
    assert_eq!(client.peer_addr().expect("peer").to_string(), to);
    let (accepted, _) = listener.accept().expect("the proxy's side");
    let storage: SkStorage<_, SteerOrigin> = object
        .map(map::STEERED)
        .expect("map")
        .try_into()
        .expect("storage");
    let origin = storage.get(&accepted, 0).expect("an origin");
    check_origin(&origin, to, proto::TCP);
}

fn steers_datagrams(object: &mut Object, listen: &str, to: &str) {
    let proxy = UdpSocket::bind(listen).expect("the proxy");
    listener_port(object, proxy.local_addr().expect("bound").port());
    let to: SocketAddr = to.parse().expect("literal");
    for connected in [false, true] {
        // Unbound until the hook sees it, as a resolver's socket is.
        let client = if connected {
            unbound(to)
        } else {
            UdpSocket::bind(unspecified(to)).expect("a client")
        };
        client.set_read_timeout(Some(WAIT)).expect("timeout");
        if connected {
            client.connect(to).expect("steered");
            assert_eq!(client.peer_addr().expect("peer"), to);
            client.send(b"ask").expect("send");
        } else {
            client.send_to(b"ask", to).expect("steered");
        }
        let from = echo(&proxy);
        let key = PeerKey {
            addr: addr(from.ip()),
            port: from.port().to_be_bytes(),
            protocol: proto::UDP,
            pad: 0,
        };
        let origins = object.hash::<PeerKey, SteerOrigin>(map::STEER_BY_TUPLE);
        let origin = origins.expect("map").get(&key, 0).expect("an origin");
        check_origin(&origin, &to.to_string(), proto::UDP);
        let mut buffer = [0; 8];
        let (length, from) = client.recv_from(&mut buffer).expect("an answer");
        assert_eq!((&buffer[..length], from), (&b"ask"[..], to));
    }
}

/// A datagram socket that has neither address nor port.
fn unbound(to: SocketAddr) -> UdpSocket {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .expect("a socket")
        .into()
}

fn check_origin(origin: &SteerOrigin, to: &str, protocol: u8) {
    let to: SocketAddr = to.parse().expect("literal");
    assert_eq!(origin.dst, addr(to.ip()));
    assert_eq!(origin.dst_port, to.port().to_be_bytes());
    assert_eq!(origin.protocol, protocol);
    assert_eq!((origin.endpoint, origin.src_identity), (HOST_SERVICE, 400));
    assert_eq!((origin.rule, origin.l7), (8, 9));
}

fn listener_port(object: &mut Object, port: u16) {
    let config = DatapathConfig {
        host_listener: [port.to_be_bytes(); 4],
        deny_events_per_second: 1000,
        ..DatapathConfig::default()
    };
    object.set(map::CONFIG, config).expect("a map write");
}

const WAIT: Duration = Duration::from_secs(5);

/// Sends one datagram back to where it came from, which it returns.
fn echo(socket: &UdpSocket) -> SocketAddr {
    let mut buffer = [0; 64];
    socket.set_read_timeout(Some(WAIT)).expect("timeout");
    let (length, from) = socket.recv_from(&mut buffer).expect("a datagram");
    socket.send_to(&buffer[..length], from).expect("an echo");
    from
}
