//! Why a flow would be allowed or dropped, answered from the tables the kernel
//! reads by the code the kernel runs.

use std::{cell::RefCell, net::IpAddr};

use ipnet::IpNet;
use tidegate_decide::{Age, Evaluation, Tuple, evaluate, flow, policy};
use tidegate_ebpf_shared::{
    addr::Addr,
    endpoint::EndpointInfo,
    flow::{FlowEntry, FlowKey},
    identity::{AddrInfo, FqdnInfo},
    limits::FQDN_GRACE,
    policy::{PolicyEntry, PolicyKey, direction},
    service::{ServiceEntry, ServiceKey, SlotKey},
};
use tidegate_policy::compiled::{Direction, EndpointId, IdentityId, PortMatch, RuleId, ServiceId};

use super::{DatapathError, encode, expire::Clocks, reader::Reader, tables::Tables};

/// A question about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Initiator.
    pub source: IpAddr,
    /// Endpoint id of the initiator where its address does not tell (a host
    /// service), else 0.
    pub source_endpoint: EndpointId,
    /// Where it connects to; may be a service frontend.
    pub destination: IpAddr,
    /// Destination port; for ICMP the type.
    pub port: u16,
    /// IANA protocol.
    pub protocol: u8,
}

/// The kernel's answer, in numbers; names are the caller's to add.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// Service translation, if the destination is a frontend. What follows is about
    /// the first backend.
    pub service: Option<ServiceHit>,
    /// The initiator.
    pub source: Party,
    /// The destination after translation.
    pub destination: Party,
    /// Destination port after translation; for ICMP the type.
    pub port: u16,
    /// Policies consulted, in the kernel's order.
    pub steps: Vec<Step>,
    /// What the kernel program decides for the first packet.
    pub evaluation: Evaluation,
    /// The source is outside and on the deny list: what it sends never meets a policy.
    pub denied_source: bool,
    /// The destination is outside and on the deny list: its answers are dropped.
    pub denied_answers: bool,
    /// Flows like this in the flow table now, latest first.
    pub live: Vec<(FlowKey, FlowEntry)>,
}

/// One end as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Address.
    pub address: IpAddr,
    /// Security identity.
    pub identity: IdentityId,
    /// FQDN identities learned for the address; none count for one that is not outside.
    pub learned: Vec<Learned>,
    /// Endpoint id on this node, or 0.
    pub endpoint: EndpointId,
    /// Neither the node nor an endpoint.
    pub outside: bool,
}

/// An identity an address has because of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learned {
    /// Identity of the selector.
    pub identity: IdentityId,
    /// Seconds for which it counts for new flows, the grace included; 0 if it has expired.
    pub left_s: u32,
}

/// A service frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceHit {
    /// Service id.
    pub id: ServiceId,
    /// Chosen by Maglev table (else at random).
    pub maglev: bool,
    /// Usable backends, each once. None: connects are refused.
    pub backends: Vec<(IpAddr, u16)>,
}

/// One endpoint's policy, consulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Endpoint whose policy it is.
    pub endpoint: EndpointId,
    /// Direction, seen from that endpoint.
    pub direction: Direction,
    /// Row that decided: a peer identity, or 0 for the wildcard row.
    pub identity: IdentityId,
    /// What of protocol and port the deciding entry covers.
    pub ports: PortMatch,
    /// The deciding entry.
    pub entry: PolicyEntry,
    /// False: an earlier policy refuses it, and this one is asked in shadow only.
    pub reached: bool,
    /// The entry that would decide if what is in shadow were enforced.
    pub shadow: InShadow,
}

/// What would decide if what is in shadow were enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InShadow {
    /// Row of the entry.
    pub identity: IdentityId,
    /// What of protocol and port it covers.
    pub ports: PortMatch,
    /// One of [`tidegate_ebpf_shared::policy::verdict`].
    pub verdict: u8,
    /// Rule that would decide, or 0 if that would be the same.
    pub rule: RuleId,
}

impl Reader {
    /// Explains what the kernel does with a flow like this.
    pub fn explain(&self, query: &Query) -> Result<Explanation, DatapathError> {
        let service = self.service(query)?;
        let (destination, port) = service
            .as_ref()
            .and_then(|hit| hit.backends.first().copied())
            .unwrap_or((query.destination, query.port));
        let mut tuple = Tuple {
            src: encode::addr(query.source),
            dst: encode::addr(destination),
            protocol: query.protocol,
            ..Tuple::default()
        };
        if tuple.is_icmp() {
            tuple.src_port = [port.to_be_bytes()[1], 0];
        } else {
            tuple.dst_port = port.to_be_bytes();
        }
        let recorder = Recorder::new(self.raw());
        let mut evaluation = Evaluation::default();
        evaluate(
            &recorder,
            &tuple,
            query.source_endpoint.get(),
            0,
            Age::New,
            &mut evaluation,
        );
        let now = policy::Tables::boot_seconds(&recorder);
        let party = |address: IpAddr, identity, endpoint| Party {
            address,
            identity,
            endpoint,
            outside: policy::is_outside(identity.get()),
            learned: policy::Tables::fqdn(&recorder, &encode::addr(address))
                .into_iter()
                .filter(|_| policy::is_outside(identity.get()))
                .flat_map(|info| info.identities.into_iter().zip(info.expires))
                .filter(|(identity, _)| *identity != 0)
                .map(|(identity, expires)| Learned {
                    identity: IdentityId(identity),
                    left_s: expires.saturating_add(FQDN_GRACE).saturating_sub(now),
                })
                .collect(),
        };
        let source = party(
            query.source,
            IdentityId(evaluation.src_identity),
            EndpointId(evaluation.src_endpoint),
        );
        let destination = party(
            destination,
            IdentityId(evaluation.dst_identity),
            EndpointId(evaluation.dst_endpoint),
        );
        let lookups = recorder.finish()?;
        Ok(Explanation {
            denied_source: self.is_on_deny_list(&source)?,
            denied_answers: self.is_on_deny_list(&destination)?,
            service,
            source,
            destination,
            port,
            steps: self.steps(&lookups, &evaluation)?,
            evaluation,
            live: self.live(&tuple)?,
        })
    }

    /// The deny list holds at outside devices only.
    fn is_on_deny_list(&self, end: &Party) -> Result<bool, DatapathError> {
        let address = encode::prefix(IpNet::from(end.address));
        Ok(end.outside && self.raw().deny_list.get(&address)?.is_some())
    }

    fn service(&self, query: &Query) -> Result<Option<ServiceHit>, DatapathError> {
        let tables = self.raw();
        let key = ServiceKey {
            addr: encode::addr(query.destination),
            port: query.port.to_be_bytes(),
            protocol: query.protocol,
            pad: 0,
        };
        let Some(entry): Option<ServiceEntry> = tables.services.get(&key)? else {
            return Ok(None);
        };
        let mut backends = Vec::new();
        for slot in 0..entry.backends {
            let slot = SlotKey {
                service: entry.id,
                slot,
            };
            let Some(id) = tables.slots.get(&slot)? else {
                continue;
            };
            if let Some(backend) = tables.backends.get(&id)? {
                let place = (encode::ip(backend.addr), u16::from_be_bytes(backend.port));
                if !backends.contains(&place) {
                    backends.push(place);
                }
            }
        }
        Ok(Some(ServiceHit {
            id: ServiceId(entry.id),
            maglev: entry.algorithm == tidegate_ebpf_shared::service::algorithm::MAGLEV,
            backends,
        }))
    }

    /// Per direction the lookup that decided: the strongest verdict, the first of equals;
    /// and the one that would in shadow.
    fn steps(
        &self,
        lookups: &[(PolicyKey, PolicyEntry)],
        evaluation: &Evaluation,
    ) -> Result<Vec<Step>, DatapathError> {
        let ends = [
            (
                direction::EGRESS,
                Direction::Egress,
                evaluation.src_endpoint,
            ),
            (
                direction::INGRESS,
                Direction::Ingress,
                evaluation.dst_endpoint,
            ),
        ];
        let mut steps = Vec::new();
        for (number, direction, endpoint) in ends {
            let strongest = |verdict: fn(&PolicyEntry) -> u8| {
                let of_end = lookups.iter().filter(|(key, _)| key.direction == number);
                of_end.rev().max_by_key(|(_, entry)| verdict(entry))
            };
            let in_force = strongest(|entry| entry.verdict);
            let in_shadow = strongest(|entry| entry.shadow_verdict);
            if let (Some((key, entry)), Some((shadow_key, shadow))) = (in_force, in_shadow) {
                let refused = !evaluation.is_allowed() && evaluation.direction != number;
                steps.push(Step {
                    endpoint: EndpointId(endpoint),
                    direction,
                    identity: IdentityId(u32::from_be_bytes(key.identity)),
                    ports: self.matched(key)?,
                    entry: *entry,
                    reached: number == direction::EGRESS || !refused,
                    shadow: InShadow {
                        identity: IdentityId(u32::from_be_bytes(shadow_key.identity)),
                        ports: self.matched(shadow_key)?,
                        verdict: shadow.shadow_verdict,
                        rule: RuleId(shadow.shadow_rule),
                    },
                });
            }
        }
        Ok(steps)
    }

    /// Which entry a lookup hit: the table answers with its value only.
    fn matched(&self, lookup: &PolicyKey) -> Result<PortMatch, DatapathError> {
        let covers = |key: &PolicyKey| {
            let bits = key.prefix_len.saturating_sub(PolicyKey::PROTOCOL).min(16);
            let mask = u16::MAX.checked_shl(16 - bits).unwrap_or(0);
            let port = |key: &PolicyKey| u16::from_be_bytes(key.port) & mask;
            key.policy_id == lookup.policy_id
                && key.identity == lookup.identity
                && key.direction == lookup.direction
                && (key.prefix_len < PolicyKey::PROTOCOL || key.protocol == lookup.protocol)
                && port(key) == port(lookup)
        };
        let longest = self
            .raw()
            .policy
            .entries()?
            .into_iter()
            .map(|(key, _)| key)
            .filter(covers)
            .max_by_key(|key| key.prefix_len);
        Ok(longest.map_or(PortMatch::Any, |key| encode::port_match(&key)))
    }

    /// Flows of any source port with these ends that have not ended.
    fn live(&self, tuple: &Tuple) -> Result<Vec<(FlowKey, FlowEntry)>, DatapathError> {
        let now = Clocks::now().monotonic_ns;
        let mut live: Vec<_> = self
            .flows()?
            .filter(|(_, entry)| {
                !flow::is_closed(entry) && !flow::is_expired(entry, tuple.protocol, now)
            })
            .filter(|(key, entry)| {
                let of = Tuple::of_flow(key, entry);
                (of.src, of.dst, of.protocol) == (tuple.src, tuple.dst, tuple.protocol)
                    && (tuple.is_icmp() || of.dst_port == tuple.dst_port)
            })
            .collect();
        live.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.last_seen));
        Ok(live)
    }
}

/// The pinned tables as the decision code reads them. Keeps what was looked up, and
/// the first failure.
struct Recorder<'a> {
    tables: &'a Tables,
    lookups: RefCell<Vec<(PolicyKey, PolicyEntry)>>,
    failure: RefCell<Option<DatapathError>>,
}

impl<'a> Recorder<'a> {
    fn new(tables: &'a Tables) -> Self {
        Self {
            tables,
            lookups: RefCell::default(),
            failure: RefCell::default(),
        }
    }

    /// A lookup's answer; a failure counts as "nothing there", and ends up in
    /// [`Recorder::finish`].
    fn answer<T>(&self, result: Result<Option<T>, DatapathError>) -> Option<T> {
        result.unwrap_or_else(|error| {
            self.failure.borrow_mut().get_or_insert(error);
            None
        })
    }

    /// Policy lookups that found something, in order.
    fn finish(self) -> Result<Vec<(PolicyKey, PolicyEntry)>, DatapathError> {
        match self.failure.into_inner() {
            Some(error) => Err(error),
            None => Ok(self.lookups.into_inner()),
        }
    }
}

impl policy::Tables for Recorder<'_> {
    type Fqdn = FqdnInfo;

    fn generation(&self) -> u32 {
        self.answer(self.tables.generation.get(&0)).unwrap_or(0)
    }

    fn config_flags(&self) -> u32 {
        self.answer(self.tables.config.get(&0))
            .map_or(0, |config| config.flags)
    }

    fn address(&self, addr: &Addr) -> Option<AddrInfo> {
        self.answer(self.tables.ipcache.get(&encode::host_prefix(*addr)))
    }

    fn fqdn(&self, addr: &Addr) -> Option<FqdnInfo> {
        self.answer(self.tables.fqdn.get(addr))
    }

    fn boot_seconds(&self) -> u32 {
        Clocks::now().boot_s
    }

    fn endpoint(&self, id: u32) -> Option<EndpointInfo> {
        self.answer(self.tables.endpoints.get(&id))
    }

    fn policy(&self, key: &PolicyKey) -> Option<PolicyEntry> {
        let entry = self.answer(self.tables.policy.get(key))?;
        self.lookups.borrow_mut().push((*key, entry));
        Some(entry)
    }
}
