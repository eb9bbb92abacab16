//! Runs the same packets through the programs and the model, and compares.

use std::{
    collections::BTreeMap,
    net::{IpAddr, TcpListener, UdpSocket},
};

use anyhow::Result;
use aya::maps::SockMap;
use tidegate_decide::flow::fingerprint;
use tidegate_ebpf_shared::{
    addr::Addr,
    event::Event,
    flow::{FlowEntry, FlowKey, flags},
    fragment::{FragmentEntry, FragmentKey},
    limits::MAX_CPUS,
    maps::{map, program},
    mark, reason,
    steer::class,
};

use super::{
    frames::{Spec, garbage, lease},
    link::Word,
    link_frames,
    model::{Comes, DROP, Hook, Model, Tag, key_of},
    object::{LOOKUP, Object, TCX},
    random::Random,
    tagged::{Arrival, Tagged},
    wire,
    world::{ENDPOINTS, World},
};

/// How often each outcome was seen, so that a generator that went blind is noticed.
#[derive(Debug, Default)]
pub struct Tally {
    passed: u64,
    checked: u64,
    steered: u64,
    dropped: u64,
    opened: u64,
    closed: u64,
    bypassed: u64,
    kept_in: u64,
    translated: u64,
    reopened: u64,
    fragments: u64,
    unseen: u64,
    elsewhere: u64,
    astray: u64,
    spoken: [u64; 4],
    heard: u64,
    cut: u64,
    unspoken: u64,
    needless: u64,
    asked: u64,
    leased: u64,
    headerless: u64,
    refused_frames: u64,
    pieces_kept_in: u64,
    given_to_proxy: u64,
    without_proxy: u64,
}

impl Tally {
    /// Each count with what it counts.
    pub fn named(&self) -> [(&'static str, u64); 28] {
        [
            ("left alone", self.passed),
            ("checked", self.checked),
            ("steered", self.steered),
            ("dropped", self.dropped),
            ("the first of a flow", self.opened),
            ("the last of a flow", self.closed),
            ("past the proxy, of a known flow", self.bypassed),
            ("kept in by its tag alone", self.kept_in),
            ("delivered after NAT", self.translated),
            ("steered again after its flow was forgotten", self.reopened),
            ("let pass as its first fragment was", self.fragments),
            (
                "a workload's that came by no device of its own",
                self.unseen,
            ),
            (
                "of a flow that was decided for another device",
                self.elsewhere,
            ),
            ("brought to a device that it is not for", self.astray),
            ("ARP that a workload may say", self.spoken[0]),
            ("discovery that a workload may say", self.spoken[1]),
            ("IGMP that a workload may say", self.spoken[2]),
            ("MLD that a workload may say", self.spoken[3]),
            ("of its neighbours, for a workload", self.heard),
            ("cut to what it says", self.cut),
            ("not for neighbours to say", self.unspoken),
            ("for routers only", self.needless),
            ("a question for an address", self.asked),
            ("an answer with an address", self.leased),
            ("of a device without Ethernet headers", self.headerless),
            ("a later fragment that needs the proxy", self.pieces_kept_in),
            ("given to the proxy's socket", self.given_to_proxy),
            ("steered while the proxy has no socket", self.without_proxy),
        ]
    }
}

impl Tally {
    fn count_word(&mut self, hook: Hook, word: Option<&Word>, frame: &[u8]) {
        match word {
            Some(Word::Pass(left)) if matches!(hook, Hook::FromEndpoint(_)) => {
                let protocol = match wire::read(frame) {
                    wire::Frame::Arp(_) => 0,
                    wire::Frame::Discovery(_) => 1,
                    wire::Frame::Ip(packet) if packet.src.is_ipv4() => 2,
                    _ => 3,
                };
                self.spoken[protocol] += 1;
                self.cut += u64::from(*left < frame.len());
            }
            Some(Word::Pass(_)) => self.heard += 1,
            Some(Word::Refused(_)) => self.unspoken += 1,
            Some(Word::Needless) => self.needless += 1,
            Some(Word::Data) | None => {}
        }
    }
}

/// A socket of the proxy: never accepts or reads, as being there is all that is asked.
enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// The loaded programs, the model, and the proxy's sockets, which come and go.
pub struct Comparison {
    object: Object,
    to_endpoint: Tagged,
    to_outside: Tagged,
    to_outside_ip: Tagged,
    /// Is the next packet to meet a device without Ethernet headers, if it may?
    headerless: bool,
    model: Model,
    world: Option<World>,
    generation: u32,
    next_policy: u32,
    /// By class of flows.
    proxy: BTreeMap<u32, Listener>,
}

impl Comparison {
    /// Loads the packet programs.
    pub fn new() -> Result<Self> {
        let object = Object::load(&[&TCX[..], &[program::PICK_LISTENER]].concat())?;
        Ok(Self {
            to_endpoint: Tagged::before(object.program_fd(program::TO_ENDPOINT)?)?,
            to_outside: Tagged::before(object.program_fd(program::TO_OUTSIDE)?)?,
            to_outside_ip: Tagged::before(object.program_fd(program::TO_OUTSIDE_IP)?)?,
            headerless: false,
            object,
            model: Model::default(),
            world: None,
            generation: 0,
            next_policy: 1,
            proxy: BTreeMap::new(),
        })
    }

    /// A new world, and a few dozen packets in it.
    pub fn case(&mut self, random: &mut Random, tally: &mut Tally) -> Result<()> {
        self.new_world(random)?;
        let mut talk = Spec::random(random);
        for _ in 0..40 {
            if random.one_in(15) {
                self.flip()?;
            }
            if random.one_in(10) {
                self.age(random)?;
            }
            if random.one_in(12) {
                self.evict(random)?;
            }
            if random.one_in(40) {
                self.restart_proxy(random)?;
            }
            if random.one_in(5) {
                self.journey(random, &mut talk, tally)?;
                continue;
            }
            if random.one_in(12) {
                self.journey_in_pieces(random, &mut talk, tally)?;
                continue;
            }
            if random.one_in(8) {
                talk = talk.next(random);
                self.datagram(random, &talk, tally)?;
                continue;
            }
            if random.one_in(9) {
                let frame = link_frames::frame(random);
                self.between_neighbours(random, &talk, &frame, tally)?;
                continue;
            }
            if random.one_in(25) {
                let lease = lease(random);
                let frame = lease.plain(random);
                self.between_neighbours(random, &lease, &frame, tally)?;
                continue;
            }
            let frame = if random.one_in(25) {
                garbage(random)
            } else if random.one_in(12) {
                talk.error(random)
            } else {
                talk = if random.one_in(4) {
                    Spec::random(random)
                } else {
                    talk.next(random)
                };
                talk.build(random)
            };
            self.packet(random, &talk, &frame, tally)?;
        }
        Ok(())
    }

    fn new_world(&mut self, random: &mut Random) -> Result<()> {
        self.generation += 1;
        for (key, _) in self.world.take().into_iter().flat_map(|old| old.policy) {
            self.object.remove_policy(key)?;
        }
        let mut world = World::random(random, self.generation, self.next_policy);
        self.next_policy += 2 * ENDPOINTS.len() as u32;
        world.listeners.extend(self.proxy.keys());
        world.publish(&mut self.object)?;
        self.world = Some(world);
        self.model = Model::default();
        let mut flows = self.object.hash::<FlowKey, FlowEntry>(map::FLOWS)?;
        let old: Vec<FlowKey> = flows.keys().collect::<Result<_, _>>()?;
        for key in old {
            flows.remove(&key)?;
        }
        self.forget_heads()
    }

    /// The next generation: each endpoint's other policy.
    fn flip(&mut self) -> Result<()> {
        self.generation += 1;
        if let Some(world) = &mut self.world {
            world.generation = self.generation;
        }
        self.object.set(map::GENERATION, self.generation)
    }

    /// Makes a flow look as if it had been silent for a while.
    fn age(&mut self, random: &mut Random) -> Result<()> {
        let keys: Vec<FlowKey> = self.model.flows.keys().copied().collect();
        if keys.is_empty() {
            return Ok(());
        }
        let key = keys[random.below(keys.len())];
        // Never exactly a timeout: the kernel's clock is a tick behind the model's.
        let silence = random.pick(&[5, 20, 70]) * 1_000_000_000 + 37_000_000;
        let mut flows = self.object.hash::<FlowKey, FlowEntry>(map::FLOWS)?;
        let mut real = flows.get(&key, 0)?;
        real.last_seen = real.last_seen.saturating_sub(silence);
        flows.insert(key, real, 0)?;
        if let Some(flow) = self.model.flows.get_mut(&key) {
            flow.last_seen = real.last_seen;
        }
        Ok(())
    }

    /// The fragments of one datagram at one hook.
    fn datagram(&mut self, random: &mut Random, talk: &Spec, tally: &mut Tally) -> Result<()> {
        let hook = self.hook(random, talk)?;
        // Few ids: datagrams of the same ends may have the same.
        let id = random.below(2) as u8;
        for frame in talk.fragments(random, id) {
            let comes = Comes {
                mark: random.pick(&[0, 0x5000_0001]),
                tag: random.pick(&[Tag::None, Tag::Checked { same_ends: true }]),
                from_beyond: random.one_in(2),
            };
            let passed = self.meet(hook, comes, talk, &frame, tally)?;
            let later = matches!(
                wire::read(&frame),
                wire::Frame::Ip(wire::Packet {
                    part: wire::Part::Later { .. },
                    ..
                })
            );
            tally.fragments += u64::from(later && passed.is_some_and(|(code, _)| code != DROP));
        }
        Ok(())
    }

    /// One frame that neighbours of a link send each other, whoever they are.
    fn between_neighbours(
        &mut self,
        random: &mut Random,
        talk: &Spec,
        frame: &[u8],
        tally: &mut Tally,
    ) -> Result<()> {
        let hook = random.pick(&[
            Hook::FromEndpoint(Some(10)),
            Hook::FromEndpoint(Some(10)),
            Hook::FromEndpoint(Some(10)),
            Hook::FromEndpoint(Some(11)),
            Hook::ToEndpoint(Some(10)),
            Hook::ToEndpoint(Some(11)),
            Hook::ToEndpoint(Some(11)),
            Hook::FromEndpoint(None),
            Hook::ToEndpoint(None),
            Hook::FromOutside,
        ]);
        let interface = match hook {
            Hook::FromEndpoint(endpoint) | Hook::ToEndpoint(endpoint) => endpoint,
            Hook::FromOutside | Hook::ToOutside => None,
        };
        self.object.set_interface(interface)?;
        self.model.by_workload = interface.is_some();
        let comes = Comes {
            mark: random.pick(&[0, 0, 0x5000_0001, mark::TO_PROXY]),
            tag: random.pick(&[Tag::None, Tag::Seen, Tag::Seen, Tag::ToProxy]),
            from_beyond: random.one_in(2),
        };
        self.meet(hook, comes, talk, frame, tally).map(drop)
    }

    fn packet(
        &mut self,
        random: &mut Random,
        talk: &Spec,
        frame: &[u8],
        tally: &mut Tally,
    ) -> Result<()> {
        let hook = self.hook(random, talk)?;
        let comes = Comes {
            mark: random.pick(&MARKS),
            tag: random.pick(&[
                Tag::None,
                Tag::Seen,
                Tag::ToProxy,
                Tag::Checked { same_ends: true },
                Tag::Checked { same_ends: false },
            ]),
            from_beyond: random.one_in(2),
        };
        self.meet(hook, comes, talk, frame, tally).map(drop)
    }

    /// One packet at one hook, in the programs and in the model: return code and mark.
    /// `None` if the test run refuses the frame.
    fn meet(
        &mut self,
        hook: Hook,
        comes: Comes,
        talk: &Spec,
        frame: &[u8],
        tally: &mut Tally,
    ) -> Result<Option<(u32, u32)>> {
        let Some(world) = &self.world else {
            return Ok(None);
        };
        let arrival = Arrival {
            mark: comes.mark,
            tag: tag_bits(comes.tag, frame, hook, &mut self.model),
            ingress_ifindex: u32::from(comes.from_beyond),
        };
        let mut length = frame.len();
        self.headerless = !self.headerless;
        let headerless = self.headerless && is_plain_ip(frame);
        let run = match hook {
            Hook::FromOutside if headerless => {
                let ip = &frame[14..];
                tally.headerless += 1;
                self.object.tcx(program::FROM_OUTSIDE_IP, ip, comes.mark, 1)
            }
            Hook::ToOutside if headerless => self.to_outside_ip.run(&frame[14..], arrival),
            Hook::FromEndpoint(_) => {
                let run = self
                    .object
                    .length(program::FROM_ENDPOINT, frame, comes.mark);
                run.map(|(run, left)| {
                    length = left;
                    run
                })
            }
            Hook::FromOutside => self.object.tcx(program::FROM_OUTSIDE, frame, comes.mark, 1),
            Hook::ToOutside => self.to_outside.run(frame, arrival),
            Hook::ToEndpoint(_) => self.to_endpoint.run(frame, arrival),
        };
        let Ok(run) = run else {
            // The harness itself refuses frames too short for their ethertype.
            tally.refused_frames += 1;
            return Ok(None);
        };
        let expected = self.model.run(world, hook, frame, comes, now());
        let context = || format!("{hook:?} {comes:x?} {talk:?}\nframe {frame:02x?}");
        assert_eq!(
            run,
            (expected.code, expected.mark),
            "code and mark: {}\nexpected {expected:?}",
            context()
        );
        assert_eq!(length, expected.length, "length: {}", context());
        let events = without_time(self.object.events(map::EVENTS)?);
        assert_eq!(events, expected.events, "events: {}", context());
        let denies = without_time(self.object.events(map::DENIES)?);
        assert_eq!(denies, expected.denies, "denies: {}", context());
        self.compare_flows(&context)?;
        match (expected.code, expected.mark & mark::MASK) {
            (DROP, _) => tally.dropped += 1,
            (_, mark::CHECKED) => tally.checked += 1,
            (_, mark::TO_PROXY) => tally.steered += 1,
            _ => tally.passed += 1,
        }
        tally.bypassed += denies
            .iter()
            .filter(|event| event.reason == reason::NOT_STEERED && event.src_identity != 0)
            .count() as u64;
        tally.unseen += denies
            .iter()
            .filter(|event| hook == Hook::ToOutside && event.reason == reason::ENDPOINT_NOT_READY)
            .count() as u64;
        for event in &denies {
            tally.astray += u64::from(event.reason == reason::INVALID_DESTINATION_MAC);
        }
        tally.count_word(hook, self.model.word.as_ref(), frame);
        tally.leased += u64::from(self.model.leased);
        tally.asked += u64::from(
            expected.mark & mark::MASK == mark::CHECKED
                && matches!(hook, Hook::FromEndpoint(_))
                && matches!(wire::read(frame), wire::Frame::Ip(packet) if packet.src.is_unspecified()),
        );
        tally.elsewhere += u64::from(self.model.elsewhere);
        for event in events {
            if event.kind == tidegate_ebpf_shared::event::kind::FLOW_NEW {
                tally.opened += 1;
            } else {
                tally.closed += 1;
            }
        }
        Ok(Some(run))
    }

    /// One packet from where it enters the node to where it leaves, while others change
    /// marks and addresses and the table forgets: whatever they do, what needed the proxy
    /// does not leave, and nothing is delivered that ingress policy refuses.
    fn journey(&mut self, random: &mut Random, talk: &mut Spec, tally: &mut Tally) -> Result<()> {
        *talk = talk.next(random);
        let from = endpoint_of(talk.src);
        let enters = match from {
            Some(_) => Hook::FromEndpoint(from),
            None => Hook::FromOutside,
        };
        self.object.set_interface(from)?;
        self.model.by_workload = from.is_some();
        let arrives = Comes {
            // None of ours, so that the one it leaves with says what was decided.
            mark: random.pick(&[0, 0x5000_0001]),
            tag: Tag::None,
            from_beyond: true,
        };
        let before = self.model.flows.len();
        let frame = talk.plain(random);
        let Some((code, mark)) = self.meet(enters, arrives, talk, &frame, tally)? else {
            return Ok(());
        };
        if code == DROP {
            return Ok(());
        }
        let ours = mark & mark::MASK;
        let (steered, checked) = (ours == mark::TO_PROXY, ours == mark::CHECKED);
        if steered && talk.tcp_flags & 0x12 != 2 && self.model.flows.len() > before {
            tally.reopened += 1;
        }
        // The hostile environment.
        if random.one_in(3) {
            self.evict(random)?;
        }
        if random.one_in(10) {
            self.restart_proxy(random)?;
        }
        if steered {
            self.meet_a_socket(talk, &frame, tally)?;
        }
        let mut translated = talk.clone();
        if random.one_in(2) {
            translated.translate(random);
        }
        let to = endpoint_of(translated.dst);
        let leaves = match to {
            Some(_) => Hook::ToEndpoint(to),
            None => Hook::ToOutside,
        };
        self.object.set_interface(to)?;
        self.model.by_workload = to.is_some();
        let same_ends = (translated.src, translated.dst, translated.dst_port)
            == (talk.src, talk.dst, talk.dst_port);
        let comes = Comes {
            mark: random.pick(&MARKS),
            tag: match (steered, checked) {
                (true, _) => Tag::ToProxy,
                (_, true) => Tag::Checked { same_ends },
                _ => Tag::Seen,
            },
            from_beyond: true,
        };
        let frame = translated.plain(random);
        let Some((code, _)) = self.meet(leaves, comes, &translated, &frame, tally)? else {
            return Ok(());
        };
        if steered {
            assert_eq!(code, DROP, "left past the proxy: {translated:?}");
            tally.kept_in += u64::from(comes.mark & mark::MASK != mark::TO_PROXY);
        } else if code != DROP && to.is_some() && !same_ends && checked {
            tally.translated += 1;
        }
        Ok(())
    }

    /// As [`Self::journey`], of a datagram in pieces, each with the environment's doings between
    /// where it enters and where it leaves: what one piece needs, all need.
    fn journey_in_pieces(
        &mut self,
        random: &mut Random,
        talk: &mut Spec,
        tally: &mut Tally,
    ) -> Result<()> {
        *talk = talk.next(random);
        let mut translated = talk.clone();
        if random.one_in(3) {
            translated.translate(random);
        }
        let same_ends = (translated.src, translated.dst, translated.dst_port)
            == (talk.src, talk.dst, talk.dst_port);
        let (from, to) = (endpoint_of(talk.src), endpoint_of(translated.dst));
        let enters = match from {
            Some(_) => Hook::FromEndpoint(from),
            None => Hook::FromOutside,
        };
        let leaves = match to {
            Some(_) => Hook::ToEndpoint(to),
            None => Hook::ToOutside,
        };
        let id = random.below(2) as u8;
        let (data, cuts) = talk.cuts(random);
        // The first piece was steered: by the rules of now, or as its flow was once.
        let (mut by_rules, mut by_flow) = (false, false);
        for cut in cuts {
            self.object.set_interface(from)?;
            self.model.by_workload = from.is_some();
            let arrives = Comes {
                mark: random.pick(&[0, 0x5000_0001]),
                tag: Tag::None,
                from_beyond: true,
            };
            let frame = talk.piece(random, &data, cut, id);
            let flows = self.model.flows.len();
            let met = self.meet(enters, arrives, talk, &frame, tally)?;
            let opened = self.model.flows.len() > flows;
            let code = met.map_or(DROP, |(code, _)| code);
            let ours = met.map_or(0, |(_, mark)| mark & mark::MASK);
            let steered = code != DROP && ours == mark::TO_PROXY;
            // What comes before its first piece is decided as a datagram before it was, and the
            // destination puts it together with that.
            assert!(
                code == DROP || steered || !(by_rules || by_flow),
                "not as its first piece: {cut:?} of {talk:?}"
            );
            if steered && cut.0 == 0 && cut.2 {
                (by_rules, by_flow) = (opened, true);
            }
            if random.one_in(4) {
                self.evict(random)?;
                by_flow = false;
            }
            if random.one_in(8) {
                self.forget_heads()?;
            }
            if random.one_in(10) {
                self.restart_proxy(random)?;
            }
            if code == DROP {
                continue;
            }
            self.object.set_interface(to)?;
            self.model.by_workload = to.is_some();
            let comes = Comes {
                mark: random.pick(&MARKS),
                tag: match ours {
                    mark::TO_PROXY => Tag::ToProxy,
                    mark::CHECKED => Tag::Checked { same_ends },
                    _ => Tag::Seen,
                },
                from_beyond: true,
            };
            let frame = translated.piece(random, &data, cut, id);
            let met = self.meet(leaves, comes, &translated, &frame, tally)?;
            if let (true, Some((code, _))) = (steered, met) {
                assert_eq!(code, DROP, "{cut:?} left past the proxy: {translated:?}");
                tally.pieces_kept_in += u64::from(cut.0 != 0);
            }
        }
        Ok(())
    }

    /// A steered packet is looked up a socket for: one of the proxy's, or none at all if it
    /// needs the proxy, whoever else listens there.
    fn meet_a_socket(&mut self, talk: &Spec, frame: &[u8], tally: &mut Tally) -> Result<()> {
        let wire::Frame::Ip(packet) = wire::read(frame) else {
            return Ok(());
        };
        let Ok(transport) = &packet.transport else {
            return Ok(());
        };
        let (chosen, answer) = self
            .object
            .lookup(program::PICK_LISTENER, &lookup_of(talk))?;
        let flow = self.model.flows.get(&key_of(&packet, transport).0);
        let expected = match flow.map(|flow| flow.flags & flags::REDIRECT != 0) {
            Some(true) => {
                let served = class_of(talk).is_some_and(|class| self.proxy.contains_key(&class));
                tally.given_to_proxy += u64::from(served);
                tally.without_proxy += u64::from(!served);
                (served, u32::from(served))
            }
            // Forgotten meanwhile: no process of the node listens for a workload.
            Some(false) | None => (false, u32::from(endpoint_of(talk.dst).is_none())),
        };
        assert_eq!((chosen, answer), expected, "{talk:?}, flow {flow:?}");
        Ok(())
    }

    /// The proxy's socket of some class closes, or a new one is there.
    fn restart_proxy(&mut self, random: &mut Random) -> Result<()> {
        let class = random.pick(&[class::TCP4, class::TCP6, class::UDP4, class::UDP6]);
        if self.proxy.remove(&class).is_none() {
            let listener = match class {
                class::TCP4 => Listener::Tcp(TcpListener::bind("127.0.0.1:0")?),
                class::TCP6 => Listener::Tcp(TcpListener::bind("[::1]:0")?),
                class::UDP4 => Listener::Udp(UdpSocket::bind("127.0.0.1:0")?),
                _ => Listener::Udp(UdpSocket::bind("[::1]:0")?),
            };
            let mut listeners: SockMap<_> = self.object.map(map::LISTENERS)?.try_into()?;
            for cpu in 0..MAX_CPUS {
                let slot = class * MAX_CPUS + cpu;
                match &listener {
                    Listener::Tcp(socket) => listeners.set(slot, socket, 0)?,
                    Listener::Udp(socket) => listeners.set(slot, socket, 0)?,
                }
            }
            self.proxy.insert(class, listener);
        }
        if let Some(world) = &mut self.world {
            world.listeners = self.proxy.keys().copied().collect();
        }
        Ok(())
    }

    /// The tables forget what first fragments said.
    fn forget_heads(&mut self) -> Result<()> {
        self.model.forget_heads();
        let mut heads = self
            .object
            .hash::<FragmentKey, FragmentEntry>(map::FRAGMENTS)?;
        let old: Vec<FragmentKey> = heads.keys().collect::<Result<_, _>>()?;
        for key in old {
            heads.remove(&key)?;
        }
        Ok(())
    }

    /// The table forgets a flow.
    fn evict(&mut self, random: &mut Random) -> Result<()> {
        let keys: Vec<FlowKey> = self.model.flows.keys().copied().collect();
        if !keys.is_empty() {
            let key = keys[random.below(keys.len())];
            self.model.flows.remove(&key);
            self.object
                .hash::<FlowKey, FlowEntry>(map::FLOWS)?
                .remove(&key)?;
        }
        Ok(())
    }

    /// A hook the packet may plausibly meet; at times another one.
    fn hook(&mut self, random: &mut Random, talk: &Spec) -> Result<Hook> {
        let (from, to) = (endpoint_of(talk.src), endpoint_of(talk.dst));
        let hook = match (from, to) {
            _ if random.one_in(10) => random.pick(&[
                Hook::FromEndpoint(Some(10)),
                Hook::FromEndpoint(None),
                Hook::ToEndpoint(Some(11)),
                Hook::FromOutside,
            ]),
            _ if random.one_in(20) => Hook::ToOutside,
            // Who listens to a group may be behind any device.
            (_, None) if talk.group && random.one_in(6) => {
                Hook::ToEndpoint(Some(random.pick(&ENDPOINTS)))
            }
            (Some(from), _) if !random.one_in(4) => Hook::FromEndpoint(Some(from)),
            (_, Some(to)) if random.one_in(3) => Hook::ToEndpoint(Some(to)),
            _ => Hook::FromOutside,
        };
        let interface = match hook {
            Hook::FromEndpoint(endpoint) | Hook::ToEndpoint(endpoint) => endpoint,
            Hook::ToOutside if random.one_in(3) => Some(10),
            Hook::FromOutside | Hook::ToOutside => None,
        };
        self.object.set_interface(interface)?;
        self.model.by_workload = interface.is_some();
        Ok(hook)
    }

    fn compare_flows(&mut self, context: &dyn Fn() -> String) -> Result<()> {
        let flows = self.object.hash::<FlowKey, FlowEntry>(map::FLOWS)?;
        let mut count = 0;
        for item in flows.iter() {
            let (key, real) = item?;
            count += 1;
            let Some(expected) = self.model.flows.get_mut(&key) else {
                panic!("a flow nobody opened: {key:?} {real:?} after {}", context());
            };
            // The clocks were read one after the other; a tick of the coarse one and
            // the way to the program lie between.
            let slack = 1_000_000_000;
            assert!(real.last_seen.abs_diff(expected.last_seen) < slack);
            assert!(real.created.abs_diff(expected.created) < slack);
            expected.last_seen = real.last_seen;
            expected.created = real.created;
            assert_eq!(
                &real,
                expected,
                "flow {key:?} (flags {:#x}): {}",
                real.flags & flags::REDIRECT,
                context()
            );
        }
        assert_eq!(count, self.model.flows.len(), "flows: {}", context());
        Ok(())
    }
}

/// Marks that a packet may carry: none, anybody's, any of ours.
const MARKS: [u32; 7] = [
    0,
    0x5000_0001,
    mark::CHECKED,
    mark::FROM_PROXY | 7,
    mark::PROBE,
    mark::TO_PROXY,
    mark::TO_PROXY | 7,
];

/// Is the frame one whose IP packet alone says what it is? (And as short as a program looks:
/// without the Ethernet header it sees fourteen bytes more.)
fn is_plain_ip(frame: &[u8]) -> bool {
    let version = match frame.get(12..15) {
        Some(&[0x08, 0x00, first]) if first >> 4 == 4 => 4,
        Some(&[0x86, 0xdd, first]) if first >> 4 == 6 => 6,
        _ => 0,
    };
    version != 0 && frame.len() <= 256
}

/// The tag as the hooks where packets enter would have written it.
fn tag_bits(tag: Tag, frame: &[u8], hook: Hook, model: &mut Model) -> u16 {
    let mut assembled = |packet| {
        let packet = model.assemble(packet, hook);
        packet
            .transport
            .as_ref()
            .map_or(0, |transport| fingerprint(&key_of(&packet, transport).0))
    };
    let fingerprint = match wire::read(frame) {
        wire::Frame::Ip(packet) => assembled(packet),
        _ => 0,
    };
    match tag {
        Tag::None => 0,
        Tag::Seen => mark::tag::SEEN,
        Tag::ToProxy => mark::tag::TO_PROXY,
        Tag::Checked { same_ends: true } => mark::tag::CHECKED | fingerprint,
        Tag::Checked { same_ends: false } => mark::tag::CHECKED | fingerprint ^ 1,
    }
}

/// Which of the proxy's sockets a flow needs.
fn class_of(talk: &Spec) -> Option<u32> {
    match (talk.protocol, talk.src.is_ipv4()) {
        (6, true) => Some(class::TCP4),
        (6, false) => Some(class::TCP6),
        (17, true) => Some(class::UDP4),
        (17, false) => Some(class::UDP6),
        _ => None,
    }
}

/// What the kernel asks for where a packet of these ends is to get a socket.
fn lookup_of(talk: &Spec) -> [u8; LOOKUP] {
    let mut context = [0; LOOKUP];
    let mut set = |at: usize, bytes: &[u8]| context[at..at + bytes.len()].copy_from_slice(bytes);
    let ends = [(16, talk.src), (40, talk.dst)];
    for (at, address) in ends {
        match address {
            IpAddr::V4(address) => set(at, &address.octets()),
            IpAddr::V6(address) => set(at + 4, &address.octets()),
        }
    }
    let family = match talk.src {
        IpAddr::V4(_) => 2_u32,
        IpAddr::V6(_) => 10,
    };
    set(8, &family.to_ne_bytes());
    set(12, &u32::from(talk.protocol).to_ne_bytes());
    set(36, &talk.src_port);
    set(
        60,
        &u32::from(u16::from_be_bytes(talk.dst_port)).to_ne_bytes(),
    );
    context
}

fn endpoint_of(addr: std::net::IpAddr) -> Option<u32> {
    let octets = super::world::addr(addr).0;
    ENDPOINTS
        .into_iter()
        .find(|&id| Addr(octets) == end_address(id, addr.is_ipv4()))
}

fn end_address(endpoint: u32, is_v4: bool) -> Addr {
    let last = endpoint as u8;
    if is_v4 {
        Addr::v4([10, 0, 0, last])
    } else {
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        // Written in hexadecimal as the decimal digits of the id.
        octets[15] = 0x10 + (last - 10);
        Addr(octets)
    }
}

/// Events as the model has them: that they have a time is all that is asked of it.
pub(super) fn without_time(mut events: Vec<Event>) -> Vec<Event> {
    for event in &mut events {
        assert!(event.time != 0, "an event without a time");
        event.time = 0;
    }
    events
}

/// `CLOCK_MONOTONIC` in ns.
fn now() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
    })
}
