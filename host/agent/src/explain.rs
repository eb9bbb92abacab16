//! The kernel's explanation of a flow, told in names.

use std::{net::IpAddr, sync::Arc, time::Instant};

use tidegate_contract::{Concern, Family};
use tidegate_control::view::{EndpointView, View};
use tidegate_datapath::Reader;
use tidegate_ebpf_shared::{addr::proto, flow::flags, identity::reserved, policy::verdict, reason};
use tidegate_observe::{
    assemble::protocol_name as protocol,
    directory::{Directory, LearnedNames},
    explain::{
        ExplainQuery, Explanation, InShadow, L7Question, LiveFlow, PolicyStep, RulePlace,
        ServiceStep, l7_in_words,
    },
    record::{FlowDirection, FlowVerdict, Party},
};
use tidegate_policy::compiled::{Compiled, Direction, Location, PortMatch};
use tidegate_proxy::Exits;
use tidegate_supervisor::ProxySupervisor;

use super::{judge::Asked, learned};

/// Answers from the kernel's tables.
pub(super) struct Explainer {
    pub(super) tables: Reader,
    /// Tell as whom the proxy speaks to servers outside.
    pub(super) exits: Exits,
    pub(super) learned: std::sync::Arc<std::sync::Mutex<LearnedNames>>,
    /// Asked about requests and queries.
    pub(super) proxy: Arc<ProxySupervisor>,
    /// Denied packets pass and are only reported.
    pub(super) audit: bool,
}

impl tidegate_api::Explain for Explainer {
    fn explain<'a>(
        &'a self,
        query: &'a ExplainQuery,
        view: &'a View,
    ) -> tidegate_api::Explaining<'a> {
        Box::pin(async move {
            let (mut explanation, asked) = self.kernel(query, view)?;
            if let Some(asked) = asked.filter(|asked| asked.leaves) {
                let (client, server) = (query.source, asked.server());
                match self.exits.source(query.protocol, client, server).await {
                    Ok(Some(source)) => explanation.upstream_source = Some(source),
                    Ok(None) => explanation.obstacles.push(format!(
                        "what {client} sends to {server} comes to no exit of this node: there is \
                         no neighbour that answers, or a firewall drops it"
                    )),
                    Err(error) => explanation.obstacles.push(format!(
                        "nothing can be sent from {client} to {server}: {error}"
                    )),
                }
            }
            if let Some(message) = &query.message {
                let kernel = (explanation.verdict, explanation.reason.as_deref());
                let answer = self.judge(message, query, kernel, asked, view).await;
                explanation.l7 = Some(answer?);
            }
            Ok(explanation)
        })
    }
}

impl Explainer {
    /// The kernel's answer, and what the proxy is to be asked if the flow would meet it.
    fn kernel(
        &self,
        query: &ExplainQuery,
        view: &View,
    ) -> anyhow::Result<(Explanation, Option<Asked>)> {
        let host_service = match query.host_service {
            0 => only_host_service(query.source, view),
            named => named,
        };
        let answer = self.tables.explain(&tidegate_datapath::Query {
            source: query.source,
            source_endpoint: host_service,
            destination: query.destination,
            port: query.port,
            protocol: query.protocol,
        })?;
        let learned = self
            .learned
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let names = Names {
            directory: &view.directory,
            compiled: &view.compiled,
            learned: &learned,
        };
        let evaluation = &answer.evaluation;
        let drop = refusal(&answer, host_service != 0);
        let reached_policy = !matches!(drop, Some(reason::NO_BACKEND | reason::DENY_LIST));
        let verdict = match drop {
            None if evaluation.is_steered() => FlowVerdict::Redirected,
            None => FlowVerdict::Forwarded,
            Some(_) if self.audit && reached_policy && evaluation.is_policy_denial() => {
                FlowVerdict::Audit
            }
            Some(_) => FlowVerdict::Dropped,
        };
        let asked = (verdict == FlowVerdict::Redirected).then(|| {
            let mut asked = Asked::of(&answer);
            // A host service's connections are the node's own.
            asked.leaves = answer.destination.outside && host_service == 0;
            asked
        });
        let mut notes = query.notes.clone();
        if answer.denied_source {
            notes.extend(on_deny_list(&view.compiled, answer.source.address));
        }
        if let Some(L7Question::Dns { name, .. }) = &query.message {
            let endpoint = answer.source.endpoint;
            let of_query =
                learned::of_query(name, endpoint, &view.compiled, &learned, Instant::now());
            notes.extend(of_query);
        }
        let explanation = Explanation {
            source: names.party(&answer.source, 0),
            destination: names.party(&answer.destination, port_of(query.protocol, answer.port)),
            protocol: protocol(query.protocol),
            service: answer.service.as_ref().map(|hit| names.service(query, hit)),
            steps: if reached_policy {
                names.steps(&answer)
            } else {
                Vec::new()
            },
            learned: learned::selectors(&answer.destination, &view.compiled, &learned),
            live: live(&answer),
            verdict,
            reason: drop.map(|reason| reason::phrase(reason).to_owned()),
            shadow: if reached_policy {
                names.in_shadow(&answer, drop, host_service != 0)
            } else {
                None
            },
            l7: None,
            upstream_source: None,
            notes,
            obstacles: obstacles(view, &answer, verdict, host_service != 0),
            generation: evaluation.generation,
        };
        Ok((explanation, asked))
    }
}

/// Where a rule of the generation in force is written, `file:line`.
pub(super) fn place(compiled: &Compiled, rule: u32) -> Option<String> {
    let rule = compiled.rules.get(&rule)?;
    Some(format!("{}:{}", rule.file, rule.line))
}

/// The entry of the deny list that covers an address, and where it is written.
fn on_deny_list(compiled: &Compiled, address: IpAddr) -> Option<String> {
    let covering = compiled
        .deny_list
        .iter()
        .filter(|(net, _)| net.contains(&address));
    let (net, rule) = covering.max_by_key(|(net, _)| net.prefix_len())?;
    let at = place(compiled, *rule).unwrap_or_else(|| "an earlier generation".to_owned());
    Some(format!("{net} is on the deny list ({at})"))
}

/// What may stand in the way of a flow that policy allows, or make the answer stale.
fn obstacles(
    view: &View,
    answer: &tidegate_datapath::Explanation,
    verdict: FlowVerdict,
    host_service: bool,
) -> Vec<String> {
    let mut found = Vec::new();
    let endpoint = |id| view.endpoints.iter().find(|e| e.id == id);
    let ends = [&answer.source, &answer.destination].map(|end| endpoint(end.endpoint));
    for endpoint in ends.iter().flatten().filter(|e| e.state != "ready") {
        found.push(format!("endpoint {}: {}", endpoint.name, endpoint.state));
    }
    if verdict == FlowVerdict::Redirected && view.proxy.state != "serving" {
        found.push(format!(
            "the proxy is not serving ({}): new connections wait for it",
            view.proxy.state
        ));
    }
    if view.generation != view.proxy_generation && verdict == FlowVerdict::Redirected {
        found.push(format!(
            "the kernel decides with generation {}, the proxy with {}",
            view.generation, view.proxy_generation
        ));
    }
    if answer.denied_answers {
        let rules = on_deny_list(&view.compiled, answer.destination.address);
        found.extend(rules.map(|rule| format!("answers are dropped: {rule}")));
    }
    // Nobody's rule denies it: what nobody can read any more may have.
    let by_no_rule = |step: &tidegate_datapath::Step| {
        step.entry.verdict == verdict::DEFAULT_DENY && step.entry.rule == 0
    };
    if answer.steps.iter().any(by_no_rule) {
        let unknown = view.problems.iter();
        let unknown = unknown.filter(|problem| problem.unready && problem.file.is_empty());
        found.extend(unknown.map(|problem| problem.message.clone()));
    }
    let asked = AskedFlow {
        steered: verdict == FlowVerdict::Redirected,
        family: Family::from(answer.source.address),
        names: ends.iter().flatten().map(|e| e.name.as_str()).collect(),
        devices: ends.iter().flatten().filter_map(|e| device(e)).collect(),
        others_devices: view.endpoints.iter().filter_map(device).collect(),
        outside: answer.source.outside || answer.destination.outside,
        node: [&answer.source, &answer.destination]
            .iter()
            .any(|end| end.identity == reserved::HOST),
        sockets: host_service || answer.service.is_some(),
    };
    let notes = view.datapath.notes.iter();
    found.extend(
        notes
            .filter(|note| asked.is_concerned(&note.concerns))
            .map(ToString::to_string),
    );
    found
}

fn device(endpoint: &EndpointView) -> Option<&str> {
    match &endpoint.location {
        Location::Interface(device) => Some(device),
        Location::Cgroup(_) => None,
    }
}

/// What of a flow decides whether a note about the node concerns it.
#[derive(Debug)]
struct AskedFlow<'a> {
    steered: bool,
    family: Family,
    /// Endpoints at its ends.
    names: Vec<&'a str>,
    /// Their devices.
    devices: Vec<&'a str>,
    /// Devices of all endpoints.
    others_devices: Vec<&'a str>,
    /// An end is outside.
    outside: bool,
    /// An end is the node itself.
    node: bool,
    /// Decided or translated at a socket of the node.
    sockets: bool,
}

impl AskedFlow<'_> {
    fn is_concerned(&self, concern: &Concern) -> bool {
        match concern {
            Concern::Node => true,
            Concern::Steered { family, endpoint } => {
                let at_an_end = |endpoint: &String| self.names.contains(&endpoint.as_str());
                self.steered
                    && family.is_none_or(|family| family == self.family)
                    && endpoint.as_ref().is_none_or(at_an_end)
            }
            Concern::Outside => self.outside,
            Concern::Routed { family } => *family == self.family && !self.node,
            // An endpoint's device, or one by which packets come in from outside.
            Concern::Device { device } => {
                let device = device.as_str();
                let leads_outside = !self.others_devices.contains(&device);
                self.family == Family::Ipv4
                    && (self.devices.contains(&device) || self.outside && leads_outside)
            }
            Concern::Sockets => self.sockets,
        }
    }
}

/// Why a new flow like this does not come about, if it does not.
fn refusal(answer: &tidegate_datapath::Explanation, from_host_service: bool) -> Option<u8> {
    let without_backend = |hit: &tidegate_datapath::ServiceHit| hit.backends.is_empty();
    if answer.service.as_ref().is_some_and(without_backend) {
        // At the socket, before a packet could meet a policy.
        return Some(reason::NO_BACKEND);
    }
    if answer.denied_source {
        return Some(reason::DENY_LIST);
    }
    let evaluation = &answer.evaluation;
    if !evaluation.is_allowed() {
        return Some(evaluation.reason);
    }
    let ingress_l7 = |step: &tidegate_datapath::Step| step.entry.verdict == verdict::REDIRECT;
    unsteerable(answer, from_host_service, ingress_l7)
}

/// Nothing brings what the node sends itself to the proxy, if the destination's policy has
/// it read.
fn unsteerable(
    answer: &tidegate_datapath::Explanation,
    from_host_service: bool,
    reads: impl Fn(&tidegate_datapath::Step) -> bool,
) -> Option<u8> {
    let host_stack = from_host_service || answer.evaluation.src_identity == reserved::HOST;
    let mut ingress = answer.steps.iter();
    let read = ingress.any(|step| step.direction == Direction::Ingress && reads(step));
    (host_stack && read).then_some(reason::UNSTEERABLE)
}

/// The host service at an address, if there is exactly one: several share the node's.
fn only_host_service(source: IpAddr, view: &View) -> u32 {
    let mut services = view.endpoints.iter().filter(|endpoint| {
        matches!(
            endpoint.location,
            tidegate_policy::compiled::Location::Cgroup(_)
        ) && endpoint.addresses.contains(&source)
    });
    match (services.next(), services.next()) {
        (Some(only), None) => only.id,
        _ => 0,
    }
}

struct Names<'a> {
    directory: &'a Directory,
    compiled: &'a Compiled,
    learned: &'a LearnedNames,
}

impl Names<'_> {
    fn party(&self, party: &tidegate_datapath::Party, port: u16) -> Party {
        Party {
            address: party.address,
            port,
            identity: party.identity,
            endpoint: self.directory.endpoint(party.endpoint).map(str::to_owned),
            labels: self.directory.labels(party.identity).to_vec(),
            names: self.learned.names(party.address),
        }
    }

    fn service(&self, query: &ExplainQuery, hit: &tidegate_datapath::ServiceHit) -> ServiceStep {
        let name = self
            .directory
            .service(query.destination, query.port, query.protocol);
        ServiceStep {
            frontend: format!(
                "{} {}",
                name.unwrap_or("service"),
                socket(query.destination, query.port)
            ),
            algorithm: if hit.maglev { "maglev" } else { "random" }.to_owned(),
            backends: hit
                .backends
                .iter()
                .map(|(address, port)| socket(*address, *port))
                .collect(),
        }
    }

    /// What the kernel would do with the flow if what is in shadow were enforced, where
    /// that is not what it does now: `drop` is why it does not come about, if so.
    fn in_shadow(
        &self,
        answer: &tidegate_datapath::Explanation,
        drop: Option<u8>,
        from_host_service: bool,
    ) -> Option<InShadow> {
        let evaluation = &answer.evaluation;
        let reads = |step: &tidegate_datapath::Step| step.shadow.verdict == verdict::REDIRECT;
        let (verdict, reason) = match becomes(evaluation.shadow_verdict) {
            FlowVerdict::Redirected => match unsteerable(answer, from_host_service, reads) {
                Some(reason) => (FlowVerdict::Dropped, Some(reason::phrase(reason))),
                None => (
                    FlowVerdict::Redirected,
                    Some(
                        "its L7 rules are not judged meanwhile: nothing that is enforced has \
                         the flow read",
                    ),
                ),
            },
            other => (other, None),
        };
        let now = match drop {
            Some(_) => FlowVerdict::Dropped,
            None => becomes(evaluation.verdict),
        };
        (verdict != now).then(|| InShadow {
            verdict,
            reason: reason.map(str::to_owned),
            rule: self.rule_place(evaluation.shadow_rule),
            l7: Vec::new(),
        })
    }

    fn rule_place(&self, rule: u32) -> Option<RulePlace> {
        Some(RulePlace {
            rule: self.directory.rule(rule)?,
            place: place(self.compiled, rule),
        })
    }

    /// What one policy would say in shadow, where it is not what it says: another verdict,
    /// or other L7 rules.
    fn step_in_shadow(&self, step: &tidegate_datapath::Step) -> Option<InShadow> {
        let shadow = &step.shadow;
        if shadow.rule == 0 && becomes(shadow.verdict) == becomes(step.entry.verdict) {
            return None;
        }
        // The kernel keeps no number of the rule set: nothing is asked by it.
        let endpoint = self.compiled.endpoints.get(&step.endpoint);
        let mut rows = endpoint.into_iter().flat_map(|endpoint| &endpoint.table);
        let row = rows.find(|row| {
            (row.identity, row.direction, row.ports)
                == (shadow.identity, step.direction, shadow.ports)
        });
        let set = row.and_then(|row| self.compiled.l7.get(&row.decision.rehearsed().l7));
        Some(InShadow {
            verdict: becomes(shadow.verdict),
            reason: None,
            rule: self.rule_place(shadow.rule),
            l7: set.map(l7_in_words).unwrap_or_default(),
        })
    }

    fn steps(&self, answer: &tidegate_datapath::Explanation) -> Vec<PolicyStep> {
        let step = |step: &tidegate_datapath::Step| {
            let rule = step.entry.rule;
            let place = place(self.compiled, rule);
            PolicyStep {
                endpoint: self
                    .directory
                    .endpoint(step.endpoint)
                    .map_or_else(|| format!("endpoint {}", step.endpoint), str::to_owned),
                direction: match step.direction {
                    Direction::Ingress => FlowDirection::Ingress,
                    Direction::Egress => FlowDirection::Egress,
                },
                entry: entry(step),
                outcome: match step.reached {
                    true => outcome(step.entry.verdict, rule),
                    false => "not asked",
                }
                .to_owned(),
                shadow: self.step_in_shadow(step),
                rule: self.directory.rule(rule),
                place,
                l7: self
                    .compiled
                    .l7
                    .get(&step.entry.l7)
                    .map(l7_in_words)
                    .unwrap_or_default(),
            }
        };
        answer.steps.iter().map(step).collect()
    }
}

/// What becomes of a flow by a verdict of the kernel's tables.
fn becomes(decided: u8) -> FlowVerdict {
    match decided {
        verdict::ALLOW => FlowVerdict::Forwarded,
        verdict::REDIRECT => FlowVerdict::Redirected,
        _ => FlowVerdict::Dropped,
    }
}

fn outcome(decided: u8, rule: u32) -> &'static str {
    match decided {
        verdict::DEFAULT_DENY => "no rule allows it",
        verdict::DENY => "denied by rule",
        verdict::REDIRECT => "needs L7",
        verdict::ALLOW if rule == 0 => "not enforced",
        _ => "allow",
    }
}

/// The table entry in words: `identity 256, tcp ports 8080-8095`.
fn entry(step: &tidegate_datapath::Step) -> String {
    let peer = match step.identity {
        0 => "any identity".to_owned(),
        identity => format!("identity {identity}"),
    };
    let ports = match step.ports {
        PortMatch::Any => "everything".to_owned(),
        PortMatch::Protocol(number) => format!("all of {}", protocol(number)),
        PortMatch::Ports {
            protocol: number @ (proto::ICMP | proto::ICMPV6),
            port,
            ..
        } => {
            format!("{} type {}", protocol(number), port >> 8)
        }
        PortMatch::Ports {
            protocol: number,
            port,
            bits: 16..,
        } => format!("{} port {port}", protocol(number)),
        PortMatch::Ports {
            protocol: number,
            port,
            bits,
        } => {
            let last = port | (u16::MAX >> bits);
            format!("{} ports {port}-{last}", protocol(number))
        }
    };
    format!("{peer}, {ports}")
}

fn live(answer: &tidegate_datapath::Explanation) -> Option<LiveFlow> {
    let (_, latest) = answer.live.first()?;
    let mut flow = LiveFlow {
        flows: answer.live.len(),
        generation: latest.generation,
        redirected: latest.flags & flags::REDIRECT != 0,
        packets: 0,
        bytes: 0,
    };
    for (_, entry) in &answer.live {
        flow.packets += entry.tx_packets + entry.rx_packets;
        flow.bytes += entry.tx_bytes + entry.rx_bytes;
    }
    Some(flow)
}

fn port_of(protocol: u8, port: u16) -> u16 {
    match protocol {
        proto::ICMP | proto::ICMPV6 => 0,
        _ => port,
    }
}

fn socket(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}
