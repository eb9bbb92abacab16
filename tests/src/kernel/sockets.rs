//! The hooks of `connect` and of addressed datagrams against the model: a real socket of
//! each kind tries a target, alone or behind a service, in a random world.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, getpeername, sendto,
        socket,
    },
};
use tidegate_ebpf_shared::{
    addr::proto,
    config::flags,
    event::{Event, kind},
    maps::map,
    policy::verdict,
    reason,
    service::{Backend, ServiceEntry, ServiceKey, SlotKey},
    steer::class,
};

use super::{
    compare::without_time,
    model::Model,
    object::Object,
    random::Random,
    wire::{Packet, Part, Transport},
    world::{ENDPOINTS, PORTS, World, addr},
};

/// Targets, and the addresses of services. None of them is this machine's, none answers.
const TARGETS: [&str; 8] = [
    "10.0.0.11",
    "10.0.0.1",
    "192.0.2.9",
    "198.51.100.7",
    "fd00::11",
    "fd00::1",
    "2001:db8::7",
    "2001:db8::8",
];
const FRONTENDS: [&str; 4] = ["10.96.0.1", "10.96.0.2", "fd96::1", "fd96::2"];

/// Addresses of the endpoint that this process is.
const OWN: [&str; 2] = ["10.0.0.10", "fd00::10"];

/// How often each outcome was seen.
#[derive(Debug, Default)]
pub struct Tally(HashMap<&'static str, u64>);

impl Tally {
    /// Outcomes that were never seen.
    pub fn missing(&self) -> Vec<&'static str> {
        let all = [
            "refused",
            "unreachable",
            "steered",
            "translated",
            "opened",
            "audited",
            "rehearsed",
        ];
        let unseen = |what: &&&str| !self.0.contains_key(**what);
        all.iter().filter(unseen).copied().collect()
    }

    fn saw(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

/// The attached programs.
pub struct Comparison<'a> {
    /// With the hooks of `connect`, `sendmsg` and `getpeername` of both families at
    /// `cgroup`.
    pub object: &'a mut Object,
    /// Id of the control group this process is in.
    pub cgroup: u64,
    /// Port of a TCP listener on this namespace's loopback addresses of both families.
    pub proxy: u16,
    /// Ids used so far, of generations, policies and services: none is used again.
    pub used: u32,
}

/// One attempt of a socket.
#[derive(Clone, Copy, Debug)]
struct Try {
    target: SocketAddr,
    protocol: u8,
    /// By `connect`, or with a datagram that has an address.
    connects: bool,
}

/// The services of a world: what may be behind each target.
type Services = HashMap<(SocketAddr, u8), Vec<SocketAddr>>;

impl Comparison<'_> {
    /// Another world, and some attempts in it.
    pub fn case(&mut self, random: &mut Random, tally: &mut Tally) -> Result<()> {
        self.used += 1;
        let mut world = World::random(random, self.used, 10 * self.used);
        let has_proxy = random.one_in(2);
        for class in [class::TCP4, class::TCP6].into_iter().filter(|_| has_proxy) {
            world.config.host_listener[class as usize] = self.proxy.to_be_bytes();
        }
        world.publish(self.object)?;
        let services = self.services(random)?;
        let is_service = !random.one_in(4);
        let mut cgroups = self.object.hash::<u64, u32>(map::CGROUPS)?;
        match is_service {
            true => cgroups.insert(self.cgroup, ENDPOINTS[0], 0)?,
            false => _ = cgroups.remove(&self.cgroup),
        }
        for _ in 0..20 {
            let attempt = Try::random(random);
            self.attempt(&world, &services, is_service, attempt, tally)?;
        }
        for (key, _) in world.policy {
            self.object.remove_policy(key)?;
        }
        for (frontend, protocol) in services.into_keys() {
            let mut table = self
                .object
                .hash::<ServiceKey, ServiceEntry>(map::SERVICES)?;
            table.remove(&key(frontend, protocol))?;
        }
        Ok(())
    }

    /// Services with no, one or two backends.
    fn services(&mut self, random: &mut Random) -> Result<Services> {
        let mut services = Services::new();
        for address in FRONTENDS {
            let frontend = SocketAddr::new(address.parse()?, 80);
            for protocol in [proto::TCP, proto::UDP] {
                self.used += 1;
                let service = self.used;
                let backends: Vec<SocketAddr> = (0..random.below(3))
                    .map(|_| target(random, frontend.is_ipv4()))
                    .collect();
                for (slot, backend) in (0..).zip(&backends) {
                    let id = 4 * service + slot;
                    let value = Backend {
                        addr: addr(backend.ip()),
                        port: backend.port().to_be_bytes(),
                        protocol,
                        state: 0,
                    };
                    self.object.hash(map::BACKENDS)?.insert(id, value, 0)?;
                    let slot = SlotKey { service, slot };
                    self.object.hash(map::SLOTS)?.insert(slot, id, 0)?;
                }
                let entry = ServiceEntry {
                    id: service,
                    backends: backends.len() as u32,
                    ..ServiceEntry::default()
                };
                let mut table = self.object.hash(map::SERVICES)?;
                table.insert(key(frontend, protocol), entry, 0)?;
                services.insert((frontend, protocol), backends);
            }
        }
        Ok(services)
    }

    fn attempt(
        &mut self,
        world: &World,
        services: &Services,
        is_service: bool,
        attempt: Try,
        tally: &mut Tally,
    ) -> Result<()> {
        let (socket, result) = attempt.make()?;
        let events = without_time(self.object.events(map::EVENTS)?);
        let denies = without_time(self.object.events(map::DENIES)?);
        let found = (result, &events[..], &denies[..]);
        let behind = services.get(&(attempt.target, attempt.protocol));
        let possible: Vec<Outcome> = match behind {
            None => vec![expected(world, is_service, attempt, attempt.target, false)],
            Some(backends) if backends.is_empty() => vec![no_backend(attempt)],
            Some(backends) => backends
                .iter()
                .map(|&backend| expected(world, is_service, attempt, backend, true))
                .collect(),
        };
        let fits = |outcome: &&Outcome| {
            (outcome.result, &outcome.events[..], &outcome.denies[..]) == found
        };
        let Some(outcome) = possible.iter().find(fits) else {
            panic!(
                "{attempt:?} (a host service: {is_service}) became\n{found:#?}\nnot one of\n{possible:#?}"
            );
        };
        tally.saw(outcome.what);
        // What the application asked for, not what it got.
        if result == Ok(()) && attempt.connects && attempt.protocol == proto::UDP {
            let peer: SockaddrStorage = getpeername(socket.as_raw_fd())?;
            assert_eq!(peer, SockaddrStorage::from(attempt.target), "{attempt:?}");
        }
        Ok(())
    }
}

/// What an attempt may come to.
#[derive(Debug)]
struct Outcome {
    what: &'static str,
    result: Result<(), Errno>,
    events: Vec<Event>,
    denies: Vec<Event>,
}

/// Where an attempt that goes to `backend` ends.
fn expected(
    world: &World,
    is_service: bool,
    attempt: Try,
    backend: SocketAddr,
    translated: bool,
) -> Outcome {
    let mut outcome = Outcome {
        what: "left alone",
        result: Ok(()),
        events: vec![],
        denies: vec![],
    };
    let frontend = |event: Event| Event {
        frontend: addr(attempt.target.ip()),
        frontend_port: attempt.target.port().to_be_bytes(),
        ..event
    };
    let told = |event: Event| if translated { frontend(event) } else { event };
    let packet = attempt.packet(backend);
    let translation = frontend(Event {
        kind: kind::TRANSLATED,
        dst: addr(backend.ip()),
        dst_port: backend.port().to_be_bytes(),
        protocol: attempt.protocol,
        ..Event::default()
    });
    let mut decision = Event::default();
    if is_service {
        decision = Model::attempt(world, packet);
        let mut denied = Event {
            kind: kind::SOCKET_DENIED,
            ..decision
        };
        if decision.reason == 0 && decision.verdict == verdict::REDIRECT {
            let port = world.config.host_listener[match backend.is_ipv4() {
                true => class::TCP4,
                false => class::TCP6,
            } as usize];
            if attempt.protocol == proto::TCP && port != [0; 2] {
                outcome.what = "steered";
                outcome.events.push(Event {
                    kind: kind::SOCKET_OPENED,
                    ..decision
                });
                return outcome;
            }
            denied.reason = reason::PROXY_UNAVAILABLE;
        }
        if denied.reason != 0 {
            outcome.denies.push(told(denied));
            let policy = [reason::POLICY_DENIED, reason::POLICY_DENY];
            let audit = world.config.flags & flags::AUDIT != 0;
            if !(audit && policy.contains(&denied.reason)) {
                outcome.what = "refused";
                outcome.result = Err(Errno::EPERM);
                return outcome;
            }
            outcome.what = "audited";
        }
    }
    if translated {
        outcome.what = "translated";
        outcome.events.push(translation);
    }
    if is_service && decision.reason == 0 {
        if attempt.connects {
            outcome.what = "opened";
            outcome.events.push(Event {
                kind: kind::SOCKET_OPENED,
                ..decision
            });
        } else if ![verdict::ALLOW, verdict::REDIRECT].contains(&decision.shadow_verdict) {
            outcome.what = "rehearsed";
            outcome.events.push(Event {
                kind: kind::REHEARSED,
                ..decision
            });
        }
    }
    outcome
}

fn no_backend(attempt: Try) -> Outcome {
    let denied = Event {
        kind: kind::SOCKET_DENIED,
        dst: addr(attempt.target.ip()),
        dst_port: attempt.target.port().to_be_bytes(),
        protocol: attempt.protocol,
        reason: reason::NO_BACKEND,
        frontend: addr(attempt.target.ip()),
        frontend_port: attempt.target.port().to_be_bytes(),
        ..Event::default()
    };
    Outcome {
        what: "unreachable",
        result: Err(Errno::EHOSTUNREACH),
        events: vec![],
        denies: vec![denied],
    }
}

impl Try {
    fn random(random: &mut Random) -> Self {
        let protocol = random.pick(&[proto::TCP, proto::UDP]);
        let is_v4 = random.one_in(2);
        let target = if random.one_in(3) {
            let frontends = FRONTENDS.map(|text| text.parse::<IpAddr>().expect("literal"));
            let of_family: Vec<_> = frontends
                .into_iter()
                .filter(|frontend| frontend.is_ipv4() == is_v4)
                .collect();
            SocketAddr::new(random.pick(&of_family), 80)
        } else {
            target(random, is_v4)
        };
        Self {
            target,
            protocol,
            connects: protocol == proto::TCP || random.one_in(2),
        }
    }

    /// The socket, and what the kernel says. A TCP connection that is on its way is well.
    fn make(self) -> Result<(OwnedFd, Result<(), Errno>)> {
        let family = match self.target.is_ipv4() {
            true => AddressFamily::Inet,
            false => AddressFamily::Inet6,
        };
        let kind = match self.protocol {
            proto::TCP => SockType::Stream,
            _ => SockType::Datagram,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(family, kind, flags, None).context("a socket")?;
        let target = SockaddrStorage::from(self.target);
        let result = if self.connects {
            connect(fd.as_raw_fd(), &target)
        } else {
            sendto(fd.as_raw_fd(), b"x", &target, MsgFlags::empty()).map(drop)
        };
        let result = match result {
            Err(Errno::EINPROGRESS) => Ok(()),
            other => other,
        };
        Ok((fd, result))
    }

    /// What the model judges: from an address of this process's endpoint.
    fn packet(self, backend: SocketAddr) -> Packet {
        Packet {
            src: OWN[usize::from(backend.is_ipv6())]
                .parse()
                .expect("literal"),
            dst: backend.ip(),
            protocol: self.protocol,
            len: 0,
            transport: Ok(Transport {
                src_port: [0; 2],
                dst_port: backend.port().to_be_bytes(),
                tcp_flags: 0,
                numbers: (0, 0),
                inner: None,
                at: 0,
            }),
            part: Part::Whole,
        }
    }
}

fn target(random: &mut Random, is_v4: bool) -> SocketAddr {
    let targets = TARGETS.map(|text| text.parse::<IpAddr>().expect("literal"));
    let of_family: Vec<_> = targets
        .into_iter()
        .filter(|target| target.is_ipv4() == is_v4)
        .collect();
    SocketAddr::new(random.pick(&of_family), random.pick(&PORTS))
}

fn key(frontend: SocketAddr, protocol: u8) -> ServiceKey {
    ServiceKey {
        addr: addr(frontend.ip()),
        port: frontend.port().to_be_bytes(),
        protocol,
        pad: 0,
    }
}
