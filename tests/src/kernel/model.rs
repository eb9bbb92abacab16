//! What the packet programs must do, written plainly from the semantics: no shared
//! code with the kernel side, no care for speed.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
};

use tidegate_ebpf_shared::{
    addr::Addr,
    config::flags as config_flags,
    event::{Event, kind},
    flow::{FlowEntry, FlowKey, flags},
    identity::{AddrInfo, reserved},
    limits::timeout,
    mark,
    policy::{PolicyEntry, PolicyKey, direction, verdict},
    reason,
    steer::class,
};

use super::{
    link::{self, Word},
    object::LOOPBACK,
    wire::{self, Frame, Packet, Part, Transport},
    world::{EXPIRED, World, addr},
};

/// tcx return codes (linux/bpf.h, `enum tcx_action_base`).
pub const NEXT: u32 = u32::MAX;
/// See [`NEXT`]: nobody behind sees it.
pub const PASS: u32 = 0;
/// See [`NEXT`].
pub const DROP: u32 = 2;

/// All DHCP agents and servers of a link, ff02::1:2 (RFC 8415 §7.1).
const SERVERS_6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2));

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// The packet hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// From a workload; its endpoint, if the interface is known.
    FromEndpoint(Option<u32>),
    /// To a workload.
    ToEndpoint(Option<u32>),
    /// From outside.
    FromOutside,
    /// To outside.
    ToOutside,
}

/// What the tag of a packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// Nothing: it came in by a device without a program, or the node made it.
    None,
    /// It came in past a program, which had nothing to decide.
    Seen,
    /// It needs the proxy.
    ToProxy,
    /// It was allowed, under the ends it has now or under others.
    Checked {
        /// The ends are those it was decided for.
        same_ends: bool,
    },
}

/// How a packet comes to a hook.
#[derive(Clone, Copy, Debug)]
pub struct Comes {
    /// Its mark: anybody may have changed it.
    pub mark: u32,
    /// Its tag: only the hooks where packets enter set it.
    pub tag: Tag,
    /// From beyond the node, rather than from its stack.
    pub from_beyond: bool,
}

/// What must happen.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Return code.
    pub code: u32,
    /// Mark afterwards.
    pub mark: u32,
    /// On the event ring, `time` 0.
    pub events: Vec<Event>,
    /// On the deny ring, `time` 0.
    pub denies: Vec<Event>,
    /// Length of the frame afterwards.
    pub length: usize,
}

/// The model's memory.
#[derive(Default)]
pub struct Model {
    /// Live and dead flows; times are the caller's.
    pub flows: HashMap<FlowKey, FlowEntry>,
    /// Is the device that packets came in by a workload's?
    pub by_workload: bool,
    /// What the last frame said of its link, if it was of that kind.
    pub word: Option<Word>,
    /// Was the last packet an answer that gives a workload its address?
    pub leased: bool,
    /// Was the last packet of a flow that was decided for another device, and let through?
    pub elsewhere: bool,
    /// What first fragments said, by hook and datagram.
    heads: HashMap<Datagram, Head>,
}

/// Hook, source, destination, identification and, for IPv4, protocol.
type Datagram = (&'static str, IpAddr, IpAddr, u32, u8);

/// What a first fragment said.
struct Head {
    end: usize,
    protocol: u8,
    src_port: [u8; 2],
    dst_port: [u8; 2],
}

/// One packet being decided.
struct Step<'a> {
    model: &'a mut Model,
    world: &'a World,
    hook: Hook,
    comes: Comes,
    packet: Packet,
    /// Is its frame for more than one neighbour?
    group: bool,
    now: u64,
    expected: Expected,
}

/// What is asked of policy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Judged {
    /// May the flow begin?
    New,
    /// May it go on?
    Live,
    /// May it be delivered where NAT has led it?
    Delivery,
    /// May a host service's socket begin it? Where it leads is its target's affair.
    Socket,
}

/// What policy says of a flow.
#[derive(Clone, Default)]
struct Decision {
    src: AddrInfo,
    dst: AddrInfo,
    egress: Option<PolicyEntry>,
    ingress: Option<PolicyEntry>,
    /// The destination's, where the source's policy refuses what it allows in shadow.
    beyond: Option<PolicyEntry>,
    reason: u8,
    direction: u8,
}

enum Fate {
    Pass,
    Checked,
    ToProxy,
    Drop,
}

impl Model {
    /// Decides one frame that arrives at `now` (monotonic ns).
    pub fn run(
        &mut self,
        world: &World,
        hook: Hook,
        frame: &[u8],
        comes: Comes,
        now: u64,
    ) -> Expected {
        self.elsewhere = false;
        self.leased = false;
        self.word = None;
        let mark = comes.mark;
        let unmarked = mark & !mark::MASK;
        let pass = Expected {
            code: NEXT,
            mark,
            length: frame.len(),
            ..Expected::default()
        };
        let ours = mark & mark::MASK;
        let leaves = matches!(hook, Hook::ToEndpoint(_) | Hook::ToOutside);
        let bypass = leaves && (ours == mark::TO_PROXY || comes.tag == Tag::ToProxy);
        let forged = comes.tag == Tag::None || !world.tagging;
        let past_all = comes.from_beyond && !self.by_workload && forged;
        let unseen = hook == Hook::ToOutside && past_all;
        if unseen
            && !bypass
            && let Frame::Ip(packet) = wire::read(frame)
            && let Some(denies) = self.sent_past_its_device(world, packet, hook, comes)
        {
            return Expected {
                code: DROP,
                denies,
                ..pass
            };
        }
        if hook == Hook::ToOutside && !bypass {
            // What the proxy sends is never refused; here it only advances its flow.
            if let (mark::FROM_PROXY, Frame::Ip(packet)) = (ours, wire::read(frame)) {
                return Expected {
                    events: self.relayed(&packet, now),
                    ..pass
                };
            }
            return pass;
        }
        let read = match wire::read(frame) {
            Frame::Ip(packet) => Frame::Ip(self.assemble(packet, hook)),
            read => read,
        };
        let by_workload = comes.from_beyond && self.by_workload;
        let word = match &read {
            Frame::Ip(_) if bypass => Word::Data,
            read => link::word(world, hook, frame, read, by_workload),
        };
        let dropped = |event: Option<Event>| Expected {
            code: DROP,
            mark,
            denies: event.into_iter().collect(),
            length: frame.len(),
            ..Expected::default()
        };
        let answer = match &word {
            Word::Data => None,
            Word::Pass(length) => Some(Expected {
                code: NEXT,
                mark,
                length: *length,
                ..Expected::default()
            }),
            Word::Needless => Some(dropped(None)),
            Word::Refused(reason) => Some(dropped(Some(refused(world, &read, *reason)))),
        };
        self.word = Some(word).filter(|word| *word != Word::Data);
        if let Some(answer) = answer {
            return answer;
        }
        let packet = match (read, hook) {
            (Frame::Ip(packet) | Frame::Discovery(packet), _) => packet,
            (Frame::Other | Frame::Broken, Hook::FromOutside) => return pass,
            (Frame::Arp(_), _) => return pass,
            (Frame::Other | Frame::Broken, _) => {
                let mut event = Event {
                    kind: kind::DROP,
                    reason: reason::INVALID_PACKET,
                    generation: world.generation,
                    ifindex: LOOPBACK,
                    ..Event::default()
                };
                if hook == Hook::ToOutside {
                    event.reason = reason::NOT_STEERED;
                    event.verdict = verdict::REDIRECT;
                    event.shadow_verdict = verdict::REDIRECT;
                }
                return dropped(Some(event));
            }
        };
        let mut step = Step {
            model: self,
            world,
            hook,
            comes,
            packet,
            group: frame[0] & 1 != 0,
            now,
            expected: Expected::default(),
        };
        let fate = if bypass {
            step.refuse_bypass(reason::NOT_STEERED)
        } else {
            step.decide()
        };
        let mut expected = step.expected;
        expected.length = frame.len();
        (expected.code, expected.mark) = match fate {
            Fate::Pass => (NEXT, mark),
            Fate::Checked => (NEXT, unmarked | mark::CHECKED),
            Fate::ToProxy => (PASS, unmarked | mark::TO_PROXY),
            Fate::Drop => (DROP, mark),
        };
        expected
    }

    /// What policy says of a host service's attempt to reach `packet`'s target, as an
    /// event tells it, without its kind. The source is an address that the service's
    /// endpoint has.
    pub fn attempt(world: &World, packet: Packet) -> Event {
        let port = match &packet.transport {
            Ok(transport) => policy_port(packet.protocol, transport),
            Err(_) => [0; 2],
        };
        let (src, dst) = (packet.src, packet.dst);
        let step = Step {
            model: &mut Self::default(),
            world,
            hook: Hook::FromEndpoint(None),
            comes: Comes {
                mark: 0,
                tag: Tag::None,
                from_beyond: false,
            },
            packet,
            group: false,
            now: 0,
            expected: Expected::default(),
        };
        let decision = step.judge(src, dst, port, 0, 0, Judged::Socket);
        let mut event = Event {
            src: Addr::default(),
            src_port: [0; 2],
            ifindex: 0,
            reason: decision.reason,
            ..step.event(&decision)
        };
        if decision.reason != 0 {
            event.direction = decision.direction;
        }
        event
    }

    /// A packet from a workload's address that no program has seen come in.
    fn sent_past_its_device(
        &mut self,
        world: &World,
        packet: Packet,
        hook: Hook,
        comes: Comes,
    ) -> Option<Vec<Event>> {
        let mut step = Step {
            model: self,
            world,
            hook,
            comes,
            packet,
            group: false,
            now: 0,
            expected: Expected::default(),
        };
        let endpoint = step.address(step.packet.src).endpoint;
        if endpoint == 0 || !world.guarded.contains(&endpoint) {
            return None;
        }
        step.refuse(reason::ENDPOINT_NOT_READY);
        Some(step.expected.denies)
    }

    /// Nothing is known of datagrams any more.
    pub fn forget_heads(&mut self) {
        self.heads.clear();
    }

    /// Later fragments have the ports of their first one, if it was seen at the same hook.
    pub fn assemble(&mut self, mut packet: Packet, hook: Hook) -> Packet {
        let (id, first_end) = match packet.part {
            Part::First { id, end } => (id, Some(end)),
            Part::Later { id, .. } => (id, None),
            Part::Whole | Part::Atomic => return packet,
        };
        let place = match hook {
            Hook::FromEndpoint(_) => "in",
            Hook::FromOutside => "outside",
            Hook::ToEndpoint(_) => "out",
            Hook::ToOutside => return packet,
        };
        let protocol = if packet.src.is_ipv4() {
            packet.protocol
        } else {
            0
        };
        let datagram = (place, packet.src, packet.dst, id, protocol);
        if let Some(end) = first_end {
            match &packet.transport {
                Ok(transport) if !wire::is_error(packet.protocol, transport.src_port[0]) => {
                    let head = Head {
                        end,
                        protocol: packet.protocol,
                        src_port: transport.src_port,
                        dst_port: transport.dst_port,
                    };
                    self.heads.insert(datagram, head);
                }
                _ => _ = self.heads.remove(&datagram),
            }
        } else if let (Some(head), Part::Later { start, .. }) =
            (self.heads.get(&datagram), packet.part)
        {
            if start < head.end {
                packet.transport = Err(reason::INVALID_PACKET);
            } else {
                packet.protocol = head.protocol;
                packet.transport = Ok(Transport {
                    src_port: head.src_port,
                    dst_port: head.dst_port,
                    tcp_flags: 0,
                    numbers: (0, 0),
                    inner: None,
                    at: 0,
                });
            }
        }
        packet
    }

    /// The proxy speaks on a leg of a steered flow, to an end outside.
    fn relayed(&mut self, packet: &Packet, now: u64) -> Vec<Event> {
        let Ok(transport) = &packet.transport else {
            return vec![];
        };
        let icmp = packet.protocol == 1 || packet.protocol == 58;
        if icmp && !wire::is_echo(packet.protocol, transport.src_port[0]) {
            return vec![];
        }
        let (key, from_low) = key_of(packet, transport);
        let Some(flow) = self.flows.get_mut(&key) else {
            return vec![];
        };
        if flow.flags & flags::REDIRECT == 0 {
            return vec![];
        }
        let forward = (flow.flags & flags::SRC_IS_LOW != 0) == from_low;
        let was_closed = closed(flow);
        if !forward {
            flow.flags |= flags::REPLIED;
        }
        acknowledge(flow, forward, transport);
        if transport.tcp_flags & RST != 0 && !forward {
            flow.flags |= flags::RST;
        } else if transport.tcp_flags & FIN != 0 {
            flow.flags |= fin_of(forward);
        }
        flow.last_seen = now;
        if closed(flow) && !was_closed {
            vec![closed_event(&key, flow)]
        } else {
            vec![]
        }
    }
}

impl Step<'_> {
    fn decide(&mut self) -> Fate {
        let endpoint = match self.hook {
            Hook::FromOutside => {
                if let Some(fate) = self.continue_flow() {
                    return fate;
                }
                if self.address(self.packet.dst).endpoint == 0 {
                    return Fate::Pass;
                }
                return self.admit();
            }
            Hook::ToEndpoint(Some(endpoint)) => return self.deliver(endpoint),
            Hook::ToEndpoint(None) => None,
            Hook::FromEndpoint(endpoint) => endpoint,
            Hook::ToOutside => return Fate::Pass,
        };
        match endpoint {
            Some(_) => self.admit(),
            None => self.refuse(reason::ENDPOINT_NOT_READY),
        }
    }

    /// A packet on its way to this endpoint. A test run's packets have a socket, which is not
    /// the proxy's.
    fn deliver(&mut self, endpoint: u32) -> Fate {
        let flow = self.flow_of_packet();
        // Decided for whom?
        let elsewhere = flow.is_some_and(|(flow, forward)| {
            endpoint
                != if forward {
                    flow.dst_endpoint
                } else {
                    flow.src_endpoint
                }
        });
        let owner = self.address(self.packet.dst).endpoint;
        if flow.is_some_and(|(flow, _)| flow.flags & flags::REDIRECT != 0) {
            return self.refuse_bypass(if self.comes.from_beyond {
                reason::NOT_STEERED
            } else {
                reason::UNSTEERABLE
            });
        }
        if !elsewhere && self.was_decided(flow, owner == endpoint) {
            return Fate::Pass;
        }
        let alone = self.world.bridged && !self.group && !is_link_local(self.packet.dst);
        if owner != endpoint && (owner != 0 || alone) {
            return self.refuse(reason::INVALID_DESTINATION_MAC);
        }
        match (elsewhere, owner == endpoint) {
            (false, _) => self.admit(),
            (true, true) => self.begin(),
            (true, false) => self.deliver_apart(endpoint),
        }
    }

    /// Was it let through to these ends where it entered?
    fn was_decided(&self, flow: Option<(FlowEntry, bool)>, own: bool) -> bool {
        if self.comes.tag != (Tag::Checked { same_ends: true }) {
            return false;
        }
        let (Some((flow, forward)), Ok(transport)) = (flow, &self.packet.transport) else {
            // What audit mode let in is not reported twice.
            let audit = self.world.config.flags & config_flags::AUDIT != 0;
            return audit && own && self.is_tracked();
        };
        let brought = forward && flow.flags & flags::NATED != 0;
        let over = self.is_dead(&flow) || self.is_opened_again(&flow, forward, transport);
        flow.generation == self.world.generation && !over && !brought
    }

    /// For an endpoint that its flow was not decided for. Nothing is remembered.
    fn deliver_apart(&mut self, endpoint: u32) -> Fate {
        let Ok(transport) = self.packet.transport.clone() else {
            return self.refuse(reason::INVALID_PACKET);
        };
        let judged = if self.is_delivery() {
            Judged::Delivery
        } else {
            Judged::New
        };
        let port = policy_port(self.packet.protocol, &transport);
        let (src, dst) = (self.packet.src, self.packet.dst);
        let mut decision = self.judge(src, dst, port, 0, endpoint, judged);
        if decision.reason == 0 && decision.needs_proxy() {
            decision.reason = reason::UNSTEERABLE;
        }
        if decision.reason != 0 {
            self.deny(&decision);
            if !self.passes_in_audit(&decision) {
                return Fate::Drop;
            }
        }
        self.model.elsewhere = true;
        Fate::Checked
    }

    /// Was the packet allowed where it entered, so that only its delivery is judged?
    fn is_delivery(&self) -> bool {
        matches!(self.hook, Hook::ToEndpoint(_)) && matches!(self.comes.tag, Tag::Checked { .. })
    }

    fn is_opened_again(&self, flow: &FlowEntry, forward: bool, transport: &Transport) -> bool {
        let closing = flow.flags & (flags::TX_FIN | flags::RX_FIN | flags::RST) != 0;
        let steered = flow.flags & flags::REDIRECT != 0;
        self.starts_something(transport) && (if forward { closing } else { !steered })
    }

    fn admit(&mut self) -> Fate {
        match self.continue_flow() {
            Some(fate) => fate,
            None => self.begin(),
        }
    }

    /// A packet of no flow that goes on.
    fn begin(&mut self) -> Fate {
        if !self.may_use_source() {
            return self.refuse(reason::INVALID_SOURCE_IP);
        }
        let transport = match &self.packet.transport {
            Ok(transport) => transport.clone(),
            Err(reason) => return self.refuse(*reason),
        };
        if let Some(inner) = &transport.inner {
            let key = flow_key(
                (inner.src, inner.src_port),
                (inner.dst, inner.dst_port),
                inner.protocol,
            );
            if inner.src == self.packet.dst
                && let Some(flow) = self.model.flows.get(&key)
                && self.may_tell(flow, inner)
            {
                let leaves = matches!(self.hook, Hook::ToEndpoint(_));
                return fate_of(flow.flags & flags::REDIRECT != 0 && !leaves);
            }
        }
        if self.answers_for_address(&transport) {
            self.model.leased = true;
            return Fate::Checked;
        }
        let mut decision = self.judge(
            self.packet.src,
            self.packet.dst,
            policy_port(self.packet.protocol, &transport),
            match self.hook {
                Hook::FromEndpoint(endpoint) => endpoint.unwrap_or(0),
                _ => 0,
            },
            match self.hook {
                Hook::ToEndpoint(endpoint) => endpoint.unwrap_or(0),
                _ => 0,
            },
            if self.is_delivery() {
                Judged::Delivery
            } else {
                Judged::New
            },
        );
        // A packet of an unknown flow may be an answer. If the question needs L7, the
        // table has forgotten it, and the packet is told as its question.
        let asked = self.asked(&transport, &decision);
        let is_answer = asked.is_some();
        if let Some(asked) = asked {
            decision = asked;
            std::mem::swap(&mut self.packet.src, &mut self.packet.dst);
            if let Ok(ports) = &mut self.packet.transport {
                std::mem::swap(&mut ports.src_port, &mut ports.dst_port);
            }
        }
        if decision.reason == 0 && decision.needs_proxy() {
            decision.reason = self.why_not_steerable(&decision);
        }
        if decision.reason != 0 {
            self.deny(&decision);
            return if self.passes_in_audit(&decision) {
                Fate::Checked
            } else {
                Fate::Drop
            };
        }
        let opens = match self.packet.protocol {
            1 => transport.src_port[0] == 8,
            58 => transport.src_port[0] == 128,
            _ => true,
        };
        if opens {
            self.open_flow(&decision, is_answer);
        } else if reason_of(decision.shadow().0) != 0 {
            let event = Event {
                kind: kind::REHEARSED,
                tcp_flags: 0,
                ..self.event(&decision)
            };
            self.expected.events.push(event);
        }
        fate_of(decision.needs_proxy())
    }

    /// Is it what a client asks that has no address (RFC 2131 §4.1, RFC 8415 §7)?
    fn asks_for_address(&self) -> bool {
        let Ok(transport) = &self.packet.transport else {
            return false;
        };
        let ports = (transport.src_port, transport.dst_port);
        let (src, dst) = (self.packet.src, self.packet.dst);
        let v4 = src == IpAddr::from([0; 4])
            && dst == IpAddr::from([255; 4])
            && ports == ([0, 68], [0, 67]);
        let v6 = is_link_local(src)
            && dst == SERVERS_6
            && ports == (546_u16.to_be_bytes(), 547_u16.to_be_bytes());
        self.packet.protocol == 17 && (v4 || v6)
    }

    /// Is it an answer to such a question, which the one that it is for may ask?
    fn answers_for_address(&self, transport: &Transport) -> bool {
        let by_workload = self.comes.from_beyond && self.model.by_workload;
        let endpoint = match self.hook {
            Hook::FromEndpoint(_) | Hook::ToOutside => return false,
            Hook::ToEndpoint(_) if by_workload => return false,
            Hook::ToEndpoint(endpoint) => endpoint.unwrap_or(0),
            Hook::FromOutside => self.address(self.packet.dst).endpoint,
        };
        let (src, dst, server, client): (IpAddr, IpAddr, u16, u16) = match self.packet.dst {
            IpAddr::V4(to) if to.is_multicast() => return false,
            IpAddr::V4(_) => ([0; 4].into(), [255; 4].into(), 67, 68),
            to if !is_link_local(to) => return false,
            to => (to, SERVERS_6, 547, 546),
        };
        let ports = (server.to_be_bytes(), client.to_be_bytes());
        if self.packet.protocol != 17 || (transport.src_port, transport.dst_port) != ports {
            return false;
        }
        let asked = self.judge(src, dst, ports.0, endpoint, 0, Judged::Live);
        asked.reason == 0 && !asked.needs_proxy()
    }

    /// May an error come from here, or be delivered here, about what this packet's sender sent?
    fn may_tell(&self, flow: &FlowEntry, inner: &wire::Inner) -> bool {
        let from = (addr(inner.src).0, inner.src_port);
        let from_low = from <= (addr(inner.dst).0, inner.dst_port);
        let forward = (flow.flags & flags::SRC_IS_LOW != 0) == from_low;
        let (sender, receiver) = if forward {
            (flow.src_endpoint, flow.dst_endpoint)
        } else {
            (flow.dst_endpoint, flow.src_endpoint)
        };
        match self.hook {
            Hook::FromEndpoint(endpoint) => endpoint == Some(receiver),
            Hook::ToEndpoint(endpoint) => endpoint == Some(sender),
            Hook::FromOutside | Hook::ToOutside => true,
        }
    }

    /// A packet of a flow that is known and still alive.
    fn continue_flow(&mut self) -> Option<Fate> {
        let transport = self.packet.transport.as_ref().ok()?.clone();
        let (flow, forward) = self.flow_of_packet()?;
        let (key, _) = self.key(&transport);
        let sender = if forward {
            flow.src_endpoint
        } else {
            flow.dst_endpoint
        };
        let allowed_sender = match self.hook {
            Hook::FromEndpoint(endpoint) => Some(sender) == endpoint,
            Hook::FromOutside => sender == 0,
            Hook::ToEndpoint(_) | Hook::ToOutside => true,
        };
        // What NAT brought is not what its source sends to these ends itself.
        let brought = forward && flow.flags & flags::NATED != 0;
        let allowed_sender = allowed_sender && (!brought || self.is_delivery());
        let steered = flow.flags & flags::REDIRECT != 0;
        if !allowed_sender || self.is_dead(&flow) {
            return None;
        }
        if self.is_opened_again(&flow, forward, &transport) {
            return None;
        }
        if flow.generation != self.world.generation {
            match self.judge_again(&key, flow, forward, &transport) {
                Again::Keep => {}
                Again::Open => return None,
                Again::Fate(fate) => return Some(fate),
            }
        }
        let mut flow = *self.model.flows.get(&key)?;
        let was_closed = closed(&flow);
        self.count(&mut flow, forward, &transport);
        self.model.flows.insert(key, flow);
        if closed(&flow) && !was_closed {
            self.expected.events.push(closed_event(&key, &flow));
        }
        Some(fate_of(steered))
    }

    /// The policy changed since the flow was last judged.
    fn judge_again(
        &mut self,
        key: &FlowKey,
        flow: FlowEntry,
        forward: bool,
        transport: &Transport,
    ) -> Again {
        let (src, dst, port) = opening(key, &flow);
        let judged = if flow.flags & flags::NATED != 0 {
            Judged::Delivery
        } else {
            Judged::Live
        };
        let (src_endpoint, dst_endpoint) = (flow.src_endpoint, flow.dst_endpoint);
        let decision = self.judge(src, dst, port, src_endpoint, dst_endpoint, judged);
        let steered = flow.flags & flags::REDIRECT != 0;
        if decision.reason != 0 {
            self.deny(&decision);
            if self.passes_in_audit(&decision) {
                return Again::Keep;
            }
            self.model.flows.remove(key);
            return Again::Fate(Fate::Drop);
        }
        if decision.needs_proxy() && !steered {
            // Only its initiator can open it again, and TCP only with a SYN.
            if forward && (self.packet.protocol != 6 || self.starts_something(transport)) {
                return Again::Open;
            }
            let mut decision = decision;
            decision.reason = reason::NEEDS_REOPEN;
            self.deny(&decision);
            return Again::Fate(Fate::Drop);
        }
        if let Some(flow) = self.model.flows.get_mut(key) {
            decision.write(flow, self.world.generation);
        }
        let (before, now) = ((flow.shadow_verdict, flow.shadow_rule), decision.shadow());
        if now != before && reason_of(now.0) != 0 {
            let mut of_flow = closed_event(key, &flow);
            match key.protocol {
                1 => of_flow.src_port = [8, 0],
                58 => of_flow.src_port = [128, 0],
                _ => {}
            }
            self.expected.events.push(Event {
                kind: kind::REHEARSED,
                src: of_flow.src,
                src_port: of_flow.src_port,
                dst: of_flow.dst,
                dst_port: of_flow.dst_port,
                tcp_flags: 0,
                ..self.event(&decision)
            });
        }
        Again::Keep
    }

    /// Opens the flow of the packet, which is told as its initiator's although it may
    /// be an answer.
    fn open_flow(&mut self, decision: &Decision, is_answer: bool) {
        let Ok(transport) = self.packet.transport.clone() else {
            return;
        };
        let (key, from_low) = self.key(&transport);
        let mut flow = FlowEntry {
            created: self.now,
            ..FlowEntry::default()
        };
        if from_low {
            flow.flags |= flags::SRC_IS_LOW;
        }
        if self.is_delivery() {
            flow.flags |= flags::NATED;
        }
        decision.write(&mut flow, self.world.generation);
        self.count(&mut flow, !is_answer, &transport);
        self.model.flows.insert(key, flow);
        let mut event = self.event(decision);
        event.kind = kind::FLOW_NEW;
        self.expected.events.push(event);
    }

    /// Counts the packet in its flow.
    fn count(&self, flow: &mut FlowEntry, forward: bool, transport: &Transport) {
        if forward {
            flow.tx_packets += 1;
            flow.tx_bytes += u64::from(self.packet.len);
            flow.tx_tcp_flags |= transport.tcp_flags;
        } else {
            flow.rx_packets += 1;
            flow.rx_bytes += u64::from(self.packet.len);
            flow.rx_tcp_flags |= transport.tcp_flags;
            flow.flags |= flags::REPLIED;
        }
        if flow.flags & flags::REDIRECT == 0 {
            acknowledge(flow, forward, transport);
        }
        let (acked, number) = if forward {
            (flags::ACKED_SRC, flow.ack_to_src)
        } else {
            (flags::ACKED_DST, flow.ack_to_dst)
        };
        if transport.tcp_flags & RST != 0 {
            // RFC 5961: only in the window. Four MiB are taken for it.
            let beyond = transport.numbers.0.wrapping_sub(number);
            if flow.flags & acked == 0 || beyond < 4 * 1024 * 1024 {
                flow.flags |= flags::RST;
            }
        } else if transport.tcp_flags & FIN != 0 {
            flow.flags |= fin_of(forward);
        }
        flow.last_seen = self.now;
    }

    /// The decision about the question, if this packet may be its answer and it needs L7.
    fn asked(&self, transport: &Transport, decision: &Decision) -> Option<Decision> {
        let enters = matches!(self.hook, Hook::FromEndpoint(_) | Hook::FromOutside);
        let itself = decision.reason == 0 && decision.needs_proxy();
        if !enters || itself || self.is_icmp() || self.starts_something(transport) {
            return None;
        }
        let asked = self.judge(
            self.packet.dst,
            self.packet.src,
            transport.src_port,
            0,
            0,
            Judged::Live,
        );
        (asked.reason == 0 && asked.needs_proxy()).then_some(asked)
    }

    fn starts_something(&self, transport: &Transport) -> bool {
        match self.packet.protocol {
            6 => transport.tcp_flags & (SYN | ACK) == SYN,
            1 => transport.src_port[0] == 8,
            58 => transport.src_port[0] == 128,
            _ => false,
        }
    }

    fn is_dead(&self, flow: &FlowEntry) -> bool {
        let seconds = match self.packet.protocol {
            6 if closed(flow) => timeout::TCP_CLOSED,
            6 if flow.flags & flags::REPLIED != 0 => timeout::TCP_ESTABLISHED,
            6 => timeout::TCP_SYN,
            _ => timeout::ANY,
        };
        self.now > flow.last_seen + seconds * 1_000_000_000
    }

    fn may_use_source(&self) -> bool {
        let info = self.lookup(self.packet.src).unwrap_or_default();
        match self.hook {
            Hook::FromEndpoint(endpoint) => {
                Some(info.endpoint) == endpoint || self.asks_for_address()
            }
            Hook::FromOutside => info.endpoint == 0 && info.identity != reserved::HOST,
            Hook::ToEndpoint(_) | Hook::ToOutside => true,
        }
    }

    fn why_not_steerable(&self, decision: &Decision) -> u8 {
        let to_host = decision.dst.identity == reserved::HOST && decision.dst.endpoint == 0;
        if matches!(self.hook, Hook::ToEndpoint(_)) || to_host {
            return reason::UNSTEERABLE;
        }
        let class = match (self.packet.protocol, self.packet.src.is_ipv4()) {
            (6, true) => class::TCP4,
            (6, false) => class::TCP6,
            (17, true) => class::UDP4,
            (17, false) => class::UDP6,
            _ => return reason::PROXY_UNAVAILABLE,
        };
        if self.world.listeners.contains(&class) {
            0
        } else {
            reason::PROXY_UNAVAILABLE
        }
    }

    /// Policy of both ends; for a new flow without the names that have expired.
    fn judge(
        &self,
        src: IpAddr,
        dst: IpAddr,
        port: [u8; 2],
        src_endpoint: u32,
        dst_endpoint: u32,
        judged: Judged,
    ) -> Decision {
        let mut decision = Decision {
            src: self.address(src),
            dst: self.address(dst),
            ..Decision::default()
        };
        if decision.src.endpoint == 0 {
            decision.src.endpoint = src_endpoint;
        }
        if decision.dst.endpoint == 0 {
            decision.dst.endpoint = dst_endpoint;
        }
        if decision.src.endpoint != 0 && judged != Judged::Delivery {
            decision.direction = direction::EGRESS;
            let Some(policy) = self.policy_of(decision.src.endpoint) else {
                decision.reason = reason::ENDPOINT_NOT_READY;
                return decision;
            };
            let mut entry = self.row(policy, decision.dst.identity, direction::EGRESS, port);
            // Names concern the world outside: neither the node nor an endpoint.
            let outside = matches!(
                decision.dst.identity,
                reserved::WORLD | reserved::WORLD_IPV4 | reserved::WORLD_IPV6
            ) || decision.dst.identity >= reserved::LOCAL_SCOPE;
            let names = self.world.fqdn.get(&dst).copied().filter(|_| outside);
            let names = names.unwrap_or_default();
            for (identity, expires) in names.identities.into_iter().zip(names.expires) {
                let begins = matches!(judged, Judged::New | Judged::Socket);
                if identity == 0 || (begins && expires == EXPIRED) {
                    continue;
                }
                let other = self.entry(policy, identity, direction::EGRESS, port);
                let Some(other) = other else { continue };
                // In force and in shadow, each the strongest.
                let (in_force, in_shadow) = (entry, entry);
                if other.verdict > in_force.verdict {
                    entry = other;
                }
                let strongest = match other.shadow_verdict > in_shadow.shadow_verdict {
                    true => other,
                    false => in_shadow,
                };
                entry.shadow_verdict = strongest.shadow_verdict;
                entry.shadow_rule = strongest.shadow_rule;
            }
            decision.egress = Some(entry);
            decision.reason = reason_of(entry.verdict);
            if decision.reason != 0 && reason_of(entry.shadow_verdict) != 0 {
                return decision;
            }
        }
        if judged == Judged::Socket {
            return decision;
        }
        let exempt = decision.src.identity == reserved::HOST
            && self.world.config.flags & config_flags::ALLOW_LOCALHOST != 0;
        if decision.dst.endpoint != 0 && !exempt {
            let policy = self.policy_of(decision.dst.endpoint);
            let row =
                policy.map(|id| self.row(id, decision.src.identity, direction::INGRESS, port));
            if decision.reason != 0 {
                // Refused already; in shadow it might have come this far.
                decision.beyond = Some(row.unwrap_or_default());
                return decision;
            }
            decision.direction = direction::INGRESS;
            let Some(entry) = row else {
                decision.reason = reason::ENDPOINT_NOT_READY;
                return decision;
            };
            decision.ingress = Some(entry);
            decision.reason = reason_of(entry.verdict);
        }
        decision
    }

    fn policy_of(&self, endpoint: u32) -> Option<u32> {
        let info = self.world.endpoints.get(&endpoint)?;
        let id = info.policy_id[(self.world.generation % 2) as usize];
        (id != 0).then_some(id)
    }

    fn row(&self, policy: u32, identity: u32, direction: u8, port: [u8; 2]) -> PolicyEntry {
        self.entry(policy, identity, direction, port)
            .or_else(|| self.entry(policy, reserved::ANY, direction, port))
            .unwrap_or_default()
    }

    /// The most specific entry of a row.
    fn entry(
        &self,
        policy: u32,
        identity: u32,
        direction: u8,
        port: [u8; 2],
    ) -> Option<PolicyEntry> {
        let covers = |key: &PolicyKey| {
            let bits = key.prefix_len.saturating_sub(PolicyKey::PROTOCOL);
            let shift = 16 - bits;
            let ports_equal = bits == 0
                || u16::from_be_bytes(key.port) >> shift == u16::from_be_bytes(port) >> shift;
            let protocol_equal =
                key.prefix_len == PolicyKey::ROW || key.protocol == self.packet.protocol;
            protocol_equal && ports_equal
        };
        self.world
            .policy
            .iter()
            .filter(|(key, _)| {
                key.policy_id == policy.to_be_bytes()
                    && key.identity == identity.to_be_bytes()
                    && key.direction == direction
                    && covers(key)
            })
            .max_by_key(|(key, _)| key.prefix_len)
            .map(|(_, entry)| *entry)
    }

    fn lookup(&self, wanted: IpAddr) -> Option<AddrInfo> {
        lookup(self.world, wanted)
    }

    fn address(&self, wanted: IpAddr) -> AddrInfo {
        self.lookup(wanted).unwrap_or(AddrInfo {
            identity: if wanted.is_ipv4() {
                reserved::WORLD_IPV4
            } else {
                reserved::WORLD_IPV6
            },
            endpoint: 0,
        })
    }

    fn is_tracked(&self) -> bool {
        self.packet.transport.as_ref().is_ok_and(|transport| {
            !self.is_icmp() || wire::is_echo(self.packet.protocol, transport.src_port[0])
        })
    }

    fn is_icmp(&self) -> bool {
        self.packet.protocol == 1 || self.packet.protocol == 58
    }

    fn key(&self, transport: &Transport) -> (FlowKey, bool) {
        key_of(&self.packet, transport)
    }

    /// Drops for a reason that is not policy.
    fn refuse(&mut self, reason: u8) -> Fate {
        let mut event = self.packet_event();
        event.kind = kind::DROP;
        event.reason = reason;
        self.expected.denies.push(event);
        Fate::Drop
    }

    /// Drops a packet for the proxy that went another way, in its flow's words.
    fn refuse_bypass(&mut self, reason: u8) -> Fate {
        let mut event = Event {
            kind: kind::DROP,
            reason,
            verdict: verdict::REDIRECT,
            shadow_verdict: verdict::REDIRECT,
            ..self.packet_event()
        };
        if let Some((flow, forward)) = self.flow_of_packet() {
            let source = (flow.src_identity, flow.src_endpoint);
            let target = (flow.dst_identity, flow.dst_endpoint);
            let (from, to) = if forward {
                (source, target)
            } else {
                (target, source)
            };
            (event.src_identity, event.src_endpoint) = from;
            (event.dst_identity, event.dst_endpoint) = to;
            event.egress_rule = flow.egress_rule;
            event.ingress_rule = flow.ingress_rule;
            if flow.egress_l7 != 0 {
                event.direction = direction::EGRESS;
            }
        }
        self.expected.denies.push(event);
        Fate::Drop
    }

    /// The packet's flow as last seen, alive or not, and whether its source sent it.
    fn flow_of_packet(&self) -> Option<(FlowEntry, bool)> {
        let transport = self.packet.transport.as_ref().ok()?;
        if !self.is_tracked() {
            return None;
        }
        let (key, from_low) = self.key(transport);
        let flow = *self.model.flows.get(&key)?;
        Some((flow, (flow.flags & flags::SRC_IS_LOW != 0) == from_low))
    }

    fn deny(&mut self, decision: &Decision) {
        let mut event = self.event(decision);
        event.kind = kind::DROP;
        event.reason = decision.reason;
        if reason_is_policy(decision.reason) || decision.reason == reason::ENDPOINT_NOT_READY {
            event.direction = decision.direction;
        }
        self.expected.denies.push(event);
    }

    fn passes_in_audit(&self, decision: &Decision) -> bool {
        reason_is_policy(decision.reason) && self.world.config.flags & config_flags::AUDIT != 0
    }

    fn packet_event(&self) -> Event {
        let transport = self.packet.transport.as_ref().ok();
        Event {
            src: addr(self.packet.src),
            dst: addr(self.packet.dst),
            src_port: transport.map_or([0; 2], |t| t.src_port),
            dst_port: transport.map_or([0; 2], |t| t.dst_port),
            tcp_flags: transport.map_or(0, |t| t.tcp_flags),
            protocol: self.packet.protocol,
            generation: self.world.generation,
            ifindex: LOOPBACK,
            ..Event::default()
        }
    }

    fn event(&self, decision: &Decision) -> Event {
        let (shadow_verdict, shadow_rule) = decision.shadow();
        Event {
            src_identity: decision.src.identity,
            dst_identity: decision.dst.identity,
            src_endpoint: decision.src.endpoint,
            dst_endpoint: decision.dst.endpoint,
            egress_rule: decision.egress.map_or(0, |entry| entry.rule),
            ingress_rule: decision.ingress.map_or(0, |entry| entry.rule),
            verdict: decision.verdict(),
            shadow_verdict,
            shadow_rule,
            ..self.packet_event()
        }
    }
}

enum Again {
    Keep,
    Open,
    Fate(Fate),
}

impl Decision {
    fn entries(&self) -> impl Iterator<Item = PolicyEntry> {
        self.egress.into_iter().chain(self.ingress)
    }

    fn needs_proxy(&self) -> bool {
        self.entries()
            .any(|entry| entry.verdict == verdict::REDIRECT)
    }

    /// The verdict an event shows: the denial if one denies, else the stronger.
    fn verdict(&self) -> u8 {
        if self.reason == reason::ENDPOINT_NOT_READY {
            return verdict::DEFAULT_DENY;
        }
        let denial = self.entries().find(|entry| reason_of(entry.verdict) != 0);
        match denial {
            Some(entry) => entry.verdict,
            None if self.needs_proxy() => verdict::REDIRECT,
            None => verdict::ALLOW,
        }
    }

    /// Verdict and rule if shadow rules were enforced: the first denial stands, else
    /// the latest that says something other than plain "allow".
    fn shadow(&self) -> (u8, u32) {
        let mut shadow = (verdict::ALLOW, 0);
        for entry in self.entries().chain(self.beyond) {
            if reason_of(shadow.0) != 0 {
                break;
            }
            let denies = reason_of(entry.shadow_verdict) != 0;
            if denies || entry.shadow_rule != 0 {
                shadow.1 = entry.shadow_rule;
            }
            if entry.shadow_verdict != verdict::ALLOW {
                shadow.0 = entry.shadow_verdict;
            }
        }
        if self.reason == reason::ENDPOINT_NOT_READY && reason_of(shadow.0) == 0 {
            shadow = (verdict::DEFAULT_DENY, 0);
        }
        shadow
    }

    fn write(&self, flow: &mut FlowEntry, generation: u32) {
        let l7 = |entry: Option<PolicyEntry>| {
            entry
                .filter(|entry| entry.verdict == verdict::REDIRECT)
                .map_or(0, |entry| entry.l7)
        };
        flow.generation = generation;
        flow.src_identity = self.src.identity;
        flow.dst_identity = self.dst.identity;
        flow.src_endpoint = self.src.endpoint;
        flow.dst_endpoint = self.dst.endpoint;
        flow.egress_rule = self.egress.map_or(0, |entry| entry.rule);
        flow.ingress_rule = self.ingress.map_or(0, |entry| entry.rule);
        (flow.shadow_verdict, flow.shadow_rule) = self.shadow();
        flow.egress_l7 = l7(self.egress);
        flow.ingress_l7 = l7(self.ingress);
        if self.needs_proxy() {
            flow.flags |= flags::REDIRECT;
        }
    }
}

fn fate_of(steered: bool) -> Fate {
    if steered {
        Fate::ToProxy
    } else {
        Fate::Checked
    }
}

fn reason_of(number: u8) -> u8 {
    match number {
        verdict::ALLOW | verdict::REDIRECT => 0,
        verdict::DEFAULT_DENY => reason::POLICY_DENIED,
        _ => reason::POLICY_DENY,
    }
}

fn reason_is_policy(reason: u8) -> bool {
    reason == reason::POLICY_DENIED || reason == reason::POLICY_DENY
}

fn closed(flow: &FlowEntry) -> bool {
    let fins = flags::TX_FIN | flags::RX_FIN;
    flow.flags & flags::RST != 0 || flow.flags & fins == fins
}

fn policy_port(protocol: u8, transport: &Transport) -> [u8; 2] {
    match protocol {
        1 | 58 => [transport.src_port[0], 0],
        _ => transport.dst_port,
    }
}

/// Key of a packet's flow, and whether its source is the low end.
pub fn key_of(packet: &Packet, transport: &Transport) -> (FlowKey, bool) {
    let (src_port, dst_port) = if packet.protocol == 1 || packet.protocol == 58 {
        (transport.dst_port, transport.dst_port)
    } else {
        (transport.src_port, transport.dst_port)
    };
    let (src, dst) = ((packet.src, src_port), (packet.dst, dst_port));
    (
        flow_key(src, dst, packet.protocol),
        (addr(src.0).0, src.1) <= (addr(dst.0).0, dst.1),
    )
}

/// Remembers the acknowledgment that a segment towards the source (or the destination)
/// carries.
fn acknowledge(flow: &mut FlowEntry, forward: bool, transport: &Transport) {
    if transport.tcp_flags & ACK == 0 || transport.tcp_flags & RST != 0 {
        return;
    }
    if forward {
        flow.ack_to_dst = transport.numbers.1;
        flow.flags |= flags::ACKED_DST;
    } else {
        flow.ack_to_src = transport.numbers.1;
        flow.flags |= flags::ACKED_SRC;
    }
}

fn fin_of(forward: bool) -> u16 {
    if forward {
        flags::TX_FIN
    } else {
        flags::RX_FIN
    }
}

fn flow_key(a: (IpAddr, [u8; 2]), b: (IpAddr, [u8; 2]), protocol: u8) -> FlowKey {
    let mut ends = [(addr(a.0).0, a.1), (addr(b.0).0, b.1)];
    ends.sort();
    FlowKey {
        low_addr: tidegate_ebpf_shared::addr::Addr(ends[0].0),
        low_port: ends[0].1,
        high_addr: tidegate_ebpf_shared::addr::Addr(ends[1].0),
        high_port: ends[1].1,
        protocol,
        pad: [0; 3],
    }
}

fn ip(addr: &tidegate_ebpf_shared::addr::Addr) -> IpAddr {
    std::net::Ipv6Addr::from(addr.0).to_canonical()
}

/// Source, destination and policy port of the packet that opened a flow.
fn opening(key: &FlowKey, flow: &FlowEntry) -> (IpAddr, IpAddr, [u8; 2]) {
    let (src, dst, port) = if flow.flags & flags::SRC_IS_LOW != 0 {
        (key.low_addr, key.high_addr, key.high_port)
    } else {
        (key.high_addr, key.low_addr, key.low_port)
    };
    let port = match key.protocol {
        1 => [8, 0],
        58 => [128, 0],
        _ => port,
    };
    (ip(&src), ip(&dst), port)
}

fn closed_event(key: &FlowKey, flow: &FlowEntry) -> Event {
    let low_first = flow.flags & flags::SRC_IS_LOW != 0;
    let low = (key.low_addr, key.low_port);
    let high = (key.high_addr, key.high_port);
    let (src, dst) = if low_first { (low, high) } else { (high, low) };
    let verdict = if flow.flags & flags::REDIRECT != 0 {
        verdict::REDIRECT
    } else {
        verdict::ALLOW
    };
    Event {
        kind: kind::FLOW_CLOSED,
        src: src.0,
        src_port: src.1,
        dst: dst.0,
        dst_port: dst.1,
        protocol: key.protocol,
        verdict,
        shadow_verdict: flow.shadow_verdict,
        shadow_rule: flow.shadow_rule,
        tx_packets: flow.tx_packets,
        tx_bytes: flow.tx_bytes,
        rx_packets: flow.rx_packets,
        rx_bytes: flow.rx_bytes,
        src_identity: flow.src_identity,
        dst_identity: flow.dst_identity,
        src_endpoint: flow.src_endpoint,
        dst_endpoint: flow.dst_endpoint,
        egress_rule: flow.egress_rule,
        ingress_rule: flow.ingress_rule,
        generation: flow.generation,
        tcp_flags: flow.tx_tcp_flags | flow.rx_tcp_flags,
        hint: flow.hint,
        ifindex: LOOPBACK,
        ..Event::default()
    }
}

/// A frame that says of its link what it may not.
fn refused(world: &World, read: &Frame, reason: u8) -> Event {
    let mut event = Event {
        kind: kind::DROP,
        reason,
        generation: world.generation,
        ifindex: LOOPBACK,
        ..Event::default()
    };
    match read {
        Frame::Arp(Some((sender, target))) => {
            (event.src, event.dst) = (addr(*sender), addr(*target));
        }
        Frame::Ip(packet) | Frame::Discovery(packet) => {
            (event.src, event.dst) = (addr(packet.src), addr(packet.dst));
            event.protocol = packet.protocol;
            if let Ok(transport) = &packet.transport {
                event.src_port = transport.src_port;
                event.dst_port = transport.dst_port;
            }
        }
        Frame::Arp(None) | Frame::Other | Frame::Broken => {}
    }
    event
}

/// What the address table knows of an address.
pub fn lookup(world: &World, wanted: IpAddr) -> Option<AddrInfo> {
    let bits = u128::from_be_bytes(addr(wanted).0);
    let covers = |known: &&super::world::Known| {
        let prefix = u128::from_be_bytes(addr(known.addr).0);
        (prefix ^ bits).checked_shr(128 - known.bits).unwrap_or(0) == 0
    };
    let covering = world.known.iter().filter(covers);
    let longest = covering.max_by_key(|known| known.bits)?;
    Some(longest.info)
}

/// Is it known on its link only?
pub fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}
