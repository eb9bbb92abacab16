//! The flow behind a connection or datagram: who talks to whom, which rule sets apply,
//! and what is written down about it.

mod facts;
mod standing;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    cell::{Cell, OnceCell, RefCell},
    io,
    net::SocketAddr,
    os::fd::BorrowedFd,
    rc::Rc,
    sync::{Arc, Weak},
    time::{SystemTime, UNIX_EPOCH},
};

use tidegate_contract::{
    Failure,
    FailureKind::{RulesChanged, RulesUnknown},
    L7Record, L7Summary,
};
use tidegate_ebpf_shared::{addr::proto, steer::SteerOrigin};
use tidegate_policy::{
    compiled::{EndpointId, Generation, L7Id, L7Protocol, RuleId},
    tls::TlsContexts,
};
use tokio::net::TcpStream;

use self::facts::{Asked, FlowFacts, Origin};
pub(crate) use self::standing::Standing;
pub(super) use self::tls::{Ends, InClear};
use super::{
    decide::{Attribution, Chain, Facts, InShadow, Side},
    dns::boot_seconds,
    outward::{self, United, Way},
    places::Client,
    records::shorten,
    state::{Local, State, View},
    tables::socket_addr,
    upstream::{Speaker, connect_tcp},
};

/// A flow, and everything needed to decide about its messages.
pub(super) struct FlowContext {
    view: Rc<View>,
    /// IANA protocol.
    transport: u8,
    /// Client.
    pub(super) source: SocketAddr,
    /// Original destination.
    pub(super) destination: SocketAddr,
    origin: Origin,
    facts: Cell<FlowFacts>,
    /// What plugins may learn, made once and again with a new generation.
    told: RefCell<Option<(Generation, Arc<Facts>)>>,
    /// What all names and prefixes of the destination allow, found out once and again
    /// with a new generation.
    outward: RefCell<Option<(Generation, Option<Rc<United>>)>>,
    /// What its TLS was made with, both ends, since it was found out; none of them twice.
    made_with: OnceCell<Vec<TlsContexts>>,
}

/// Why a connection ends that goes on as it was made.
const OTHER_TLS: &str = "its rules want other TLS by now than it was made with";

/// How the flow's bytes are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// By a protocol's rules.
    As(L7Protocol),
    /// Not at all: neither policy asks for L7 any more.
    Opaque,
    /// The two policies want it read as different protocols.
    Contradiction,
    /// A rule set is named that this proxy does not have.
    Unknown,
}

impl FlowContext {
    /// The flow of an accepted connection: `listener` is the address of the socket that
    /// accepted it. `None`: nobody knows it, so it must not be relayed.
    pub(super) fn of_connection(
        view: Rc<View>,
        socket: BorrowedFd<'_>,
        (client, local): (SocketAddr, SocketAddr),
        listener: SocketAddr,
    ) -> io::Result<Option<Self>> {
        if local != listener {
            return Self::of_workload(view, proto::TCP, client, local);
        }
        // Nothing but the connect hook sends anybody to the listener's own address.
        let origin = {
            let tables = &view.current().state.tables;
            match tables.steered(socket)? {
                None => tables.take_steered(client)?,
                adopted => adopted,
            }
        };
        Ok(origin.map(|origin| Self::of_host_service(view, proto::TCP, client, &origin)))
    }

    /// The flow of a datagram; as [`FlowContext::of_connection`].
    pub(super) fn of_datagram(
        view: Rc<View>,
        (client, destination): (SocketAddr, SocketAddr),
        listener: SocketAddr,
    ) -> io::Result<Option<Self>> {
        if destination != listener {
            return Self::of_workload(view, proto::UDP, client, destination);
        }
        let origin = view
            .current()
            .state
            .tables
            .steered_peer(proto::UDP, client)?;
        Ok(origin.map(|origin| Self::of_host_service(view, proto::UDP, client, &origin)))
    }

    pub(super) fn of_workload(
        view: Rc<View>,
        transport: u8,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> io::Result<Option<Self>> {
        let tables = view.current().state.tables.clone();
        let entry = tables.flow(transport, source, destination)?;
        Ok(entry.map(|entry| Self {
            view,
            transport,
            source,
            destination,
            origin: Origin::Workload,
            facts: Cell::new(FlowFacts::from(&entry)),
            told: RefCell::default(),
            outward: RefCell::default(),
            made_with: OnceCell::new(),
        }))
    }

    fn of_host_service(
        view: Rc<View>,
        transport: u8,
        source: SocketAddr,
        origin: &SteerOrigin,
    ) -> Self {
        Self {
            view,
            transport,
            source,
            destination: socket_addr(origin.dst, origin.dst_port),
            origin: Origin::HostService,
            facts: Cell::new(FlowFacts::from(origin)),
            told: RefCell::default(),
            outward: RefCell::default(),
            made_with: OnceCell::new(),
        }
    }

    /// Was it steered at `connect` rather than by packet mark?
    pub(super) fn is_host_service(&self) -> bool {
        self.origin == Origin::HostService
    }

    /// Whose connections are counted together.
    pub(super) fn client(&self) -> Client {
        match self.facts.get().endpoints.0 {
            EndpointId(0) => Client::outside(self.source.ip()),
            endpoint => Client::Endpoint(EndpointId(endpoint.get())),
        }
    }

    /// The thread's view, for what else the connection needs.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// The address the upstream leg speaks from.
    pub(super) async fn speaker(&self) -> Speaker {
        if self.origin == Origin::HostService {
            return Speaker::Node;
        }
        let (_, to_endpoint) = self.facts.get().endpoints;
        if to_endpoint.is_some() {
            // It does not leave the node, and the destination's policy knows the client.
            return Speaker::As(self.source);
        }
        let local = self.view.current();
        let (tables, masquerade) = (&local.state.tables, &self.view.masquerade);
        masquerade
            .speaker(tables, self.transport, self.source, self.destination)
            .await
    }

    /// Opens the upstream leg.
    pub(super) async fn connect_upstream(&self) -> io::Result<TcpStream> {
        connect_tcp(self.speaker().await, self.destination).await
    }

    /// How the bytes are to be read, by what the kernel has decided last.
    pub(super) fn reading(&self) -> Reading {
        let local = self.view.current();
        let Ok(sides) = self.refresh(&local).and_then(|()| self.sides(&local)) else {
            return Reading::Unknown;
        };
        let state = &local.state;
        let all = || sides.iter().filter_map(|side| side.chain);
        let ended = |chain: &&Chain| state.ended(chain.id);
        let terminates = all().filter_map(|chain| ended(&chain)?.terminating.as_ref());
        let terminates = terminates.count() > 0;
        // What ends TLS, or asks for names before it is ended, does not say what is inside.
        let indifferent = |chain: &Chain| {
            let opaque = chain.protocol == L7Protocol::Stream && chain.filters.is_empty();
            opaque && (terminates || ended(&chain).is_some())
        };
        let mut protocols: Vec<_> = all()
            .map(|chain| (indifferent(chain), chain.protocol))
            .collect();
        // What says something of it is first.
        protocols.sort_by_key(|(indifferent, _)| *indifferent);
        let loose = protocols
            .get(1)
            .is_some_and(|(indifferent, _)| *indifferent);
        let mut protocols = protocols.into_iter().map(|(_, protocol)| protocol);
        match (protocols.next(), protocols.next().filter(|_| !loose)) {
            (None, _) => Reading::Opaque,
            (Some(one), Some(other)) if one != other => Reading::Contradiction,
            (Some(protocol), _) => Reading::As(protocol),
        }
    }

    /// The rules of both directions, egress first, for a record nobody else decided.
    pub(super) fn asking_rules(&self) -> Vec<RuleId> {
        let facts = self.facts.get();
        [facts.egress.rule, facts.ingress.rule]
            .into_iter()
            .filter(|rule| rule.is_some())
            .collect()
    }

    /// Finds out what is decided about the flow, while what is known is of an older
    /// generation than ours: the kernel evaluates a workload's flow again with its next
    /// packet after a change, and a host service's socket only when it is opened.
    fn refresh(&self, local: &Local) -> Result<(), Failure> {
        let facts = self.facts.get();
        let state = &local.state;
        if facts.generation == state.generation {
            return Ok(());
        }
        let tables = &state.tables;
        let admitted = match self.origin {
            Origin::Workload => {
                let entry = tables.flow(self.transport, self.source, self.destination);
                entry.map(|entry| entry.as_ref().map(FlowFacts::from))
            }
            Origin::HostService => {
                let (endpoint, _) = facts.endpoints;
                let judged = tables.of_host_service(endpoint, self.transport, self.destination);
                judged.map(|(judged, audit)| {
                    let passes = judged.is_allowed() || (audit && judged.is_policy_denial());
                    passes.then(|| FlowFacts::from(&judged))
                })
            }
        };
        match admitted {
            Ok(Some(facts)) => {
                self.facts.set(facts);
                Ok(())
            }
            Ok(None) => Err(RulesUnknown.because("the flow is no longer admitted")),
            Err(error) => Err(RulesUnknown.because(format!("cannot read the flow: {error}"))),
        }
    }

    /// Is what was decided about the flow of this state's generation?
    fn is_of(&self, state: &State) -> bool {
        self.facts.get().generation == state.generation
    }

    /// Both directions, egress first, with their rule sets.
    fn sides<'l>(&self, local: &'l Local) -> Result<[Side<'l>; 2], Failure> {
        let side = |asked: Asked, ingress| -> Result<Side<'l>, Failure> {
            let chain: Option<&'l Chain> = match (asked.l7, local.chain(asked.l7)) {
                (L7Id(0), _) => None,
                (_, Some(chain)) => Some(chain),
                (id, None) => return Err(outward::unknown(id)),
            };
            Ok(Side {
                chain,
                or: Vec::new(),
                open: false,
                rule: if chain.is_some() {
                    asked.rule
                } else {
                    RuleId(0)
                },
                ingress,
                audit: local.state.audit,
                tunnels: local.state.tunnels.contains(&asked.l7),
            })
        };
        let facts = self.facts.get();
        if self.wants_other_tls(local) {
            return Err(RulesChanged.because(OTHER_TLS));
        }
        let mut egress = side(facts.egress, false)?;
        if egress.chain.is_some()
            && let Some(any) = self.outward(local)?
        {
            outward::unite(&mut egress, facts.egress.l7, &any.enforced, local)?;
        }
        Ok([egress, side(facts.ingress, true)?])
    }

    /// What is in shadow for both. Without effect on anything, so what cannot be told of it
    /// is not told: a generation may be older than the rule sets it names.
    pub(super) fn shadows<'l>(&self, local: &'l Local, sides: &[Side<'l>; 2]) -> [InShadow<'l>; 2] {
        let facts = self.facts.get();
        if let Some(rule) = facts.dropped_in_shadow {
            // There would be no flow for a message to come on.
            return [InShadow::Refuses(rule), InShadow::Same];
        }
        let [egress, ingress] = sides;
        let united = match egress.chain {
            Some(_) => self.outward(local).ok().flatten(),
            None => None,
        };
        [
            outward::in_shadow(egress, facts.egress.l7, united.as_deref(), local),
            outward::in_shadow(ingress, facts.ingress.l7, None, local),
        ]
        .map(Result::unwrap_or_default)
    }

    /// The endpoint the client is, on this node, or 0.
    pub(super) fn source_endpoint(&self) -> EndpointId {
        self.facts.get().endpoints.0
    }

    /// What all names and prefixes of the destination allow together, if it has names.
    fn outward(&self, local: &Local) -> Result<Option<Rc<United>>, Failure> {
        let (facts, state) = (self.facts.get(), &local.state);
        let mut known = self.outward.borrow_mut();
        if let Some((generation, any)) = known.as_ref()
            && *generation == state.generation
        {
            return Ok(any.clone());
        }
        let way = Way {
            endpoint: facts.endpoints.0,
            identity: facts.identities.1,
            destination: self.destination,
            transport: self.transport,
        };
        // As in the kernel: what has expired is nothing to begin with, and no reason to end.
        let now = match *known {
            None => boot_seconds(),
            Some(_) => 0,
        };
        let any = outward::allowed(state, &way, now)?.map(Rc::new);
        *known = Some((state.generation, any.clone()));
        Ok(any)
    }

    /// What plugins may learn about the connection.
    fn told(&self, local: &Local) -> Arc<Facts> {
        let generation = local.state.generation;
        let mut told = self.told.borrow_mut();
        if let Some((of, facts)) = told.as_ref()
            && *of == generation
        {
            return facts.clone();
        }
        let source_identity = self.facts.get().identities.0;
        let labels = local.state.identities.get(&source_identity);
        let facts = Arc::new(Facts {
            source: self.source,
            destination: self.destination,
            source_identity: source_identity.get(),
            source_labels: labels.cloned().unwrap_or_default(),
            imagined: false,
        });
        *told = Some((generation, facts.clone()));
        facts
    }

    /// Decides with the latest state. If it cannot say by which rules, `refuse` is told
    /// why, and by which generation.
    pub(super) fn with_sides<R>(
        &self,
        decide: impl FnOnce(&Local, &[Side<'_>; 2], &Arc<Facts>) -> R,
        refuse: impl FnOnce(Failure, Generation) -> R,
    ) -> R {
        let local = self.view.current();
        match self.refresh(&local).and_then(|()| self.sides(&local)) {
            Ok(sides) => decide(&local, &sides, &self.told(&local)),
            Err(error) => refuse(error, local.state.generation),
        }
    }

    /// Keeps a record of one message.
    pub(super) fn record(&self, attribution: Attribution, allowed: bool, mut summary: L7Summary) {
        match &mut summary {
            L7Summary::Http { url, method, .. } => {
                shorten(url);
                shorten(method);
            }
            L7Summary::Dns { query, .. } => shorten(query),
            // Who reads them has seen to it.
            L7Summary::Stream { .. } | L7Summary::Tls { .. } => {}
        }
        let facts = self.facts.get();
        self.view.keep(L7Record {
            time_ns: now_ns(),
            transport: self.transport,
            source: self.source,
            destination: self.destination,
            identities: facts.identities,
            endpoints: facts.endpoints,
            allowed,
            audited: attribution.audited,
            rehearsed: attribution.rehearsed.map(|rehearsed| *rehearsed),
            rules: attribution.rules,
            unmatched: attribution.unmatched,
            plugin: attribution.plugin,
            error: attribution.error,
            ingress: attribution.ingress,
            generation: attribution.generation,
            l7: summary,
        });
    }
}

/// Whether what was found about a flow still holds: so long, nothing is looked up again for
/// each of its bytes.
#[derive(Default)]
pub(super) struct Settled(RefCell<Weak<State>>);

impl Settled {
    /// Is the state that it was found with the one in use, `seen`?
    pub(super) fn is(&self, seen: &Weak<State>) -> bool {
        seen.ptr_eq(&self.0.borrow())
    }

    /// Something was found since `seen` was in use. It holds until another state is
    /// published, unless the kernel has not decided about the flow by this one yet, which it
    /// does with the next packet.
    pub(super) fn settle(&self, flow: &FlowContext, seen: Weak<State>) {
        if seen.upgrade().is_some_and(|seen| flow.is_of(&seen)) {
            *self.0.borrow_mut() = seen;
        }
    }
}

/// Nanoseconds since 1970-01-01T00:00:00Z.
pub(super) fn now_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
