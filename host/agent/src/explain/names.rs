//! The kernel's numbers by the names people have for them.

use std::net::IpAddr;

use tidegate_ebpf_shared::{addr::proto, flow::flags, policy::verdict, reason};
use tidegate_observe::{
    assemble::protocol_name as protocol,
    directory::{Directory, LearnedNames},
    explain::{ExplainQuery, InShadow, LiveFlow, PolicyStep, RulePlace, ServiceStep, l7_in_words},
    record::{FlowDirection, FlowVerdict, Party},
};
use tidegate_policy::compiled::{
    Compiled, Direction, Generation, IdentityId, L7Id, PortMatch, RuleId,
};

use super::{place, unsteerable};

/// What numbers are called by.
pub(super) struct Names<'a> {
    pub(super) directory: &'a Directory,
    pub(super) compiled: &'a Compiled,
    pub(super) learned: &'a LearnedNames,
}

impl Names<'_> {
    pub(super) fn party(&self, party: &tidegate_datapath::Party, port: u16) -> Party {
        Party {
            address: party.address,
            port,
            identity: party.identity,
            endpoint: self.directory.endpoint(party.endpoint).map(str::to_owned),
            labels: self.directory.labels(party.identity).to_vec(),
            names: self.learned.names(party.address),
        }
    }

    pub(super) fn service(
        &self,
        query: &ExplainQuery,
        hit: &tidegate_datapath::ServiceHit,
    ) -> ServiceStep {
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
    pub(super) fn in_shadow(
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
            rule: self.rule_place(RuleId(evaluation.shadow_rule)),
            l7: Vec::new(),
        })
    }

    pub(super) fn rule_place(&self, rule: RuleId) -> Option<RulePlace> {
        Some(RulePlace {
            rule: self.directory.rule(rule)?,
            place: place(self.compiled, rule),
        })
    }

    /// What one policy would say in shadow, where it is not what it says: another verdict,
    /// or other L7 rules.
    pub(super) fn step_in_shadow(&self, step: &tidegate_datapath::Step) -> Option<InShadow> {
        let shadow = &step.shadow;
        if shadow.rule.is_none() && becomes(shadow.verdict) == becomes(step.entry.verdict) {
            return None;
        }
        // The kernel keeps no number of the rule set: nothing is asked by it.
        let endpoint = self.compiled.endpoints.get(&step.endpoint);
        let mut rows = endpoint
            .into_iter()
            .flat_map(|endpoint| endpoint.table.iter());
        let row = rows.find(|row| {
            (row.identity, row.direction, row.ports)
                == (shadow.identity, step.direction, shadow.ports)
        });
        let set = row.and_then(|row| self.compiled.l7.get(&row.decision.rehearsed().l7));
        Some(InShadow {
            verdict: becomes(shadow.verdict),
            reason: None,
            rule: self.rule_place(shadow.rule),
            l7: set.map(|set| l7_in_words(set)).unwrap_or_default(),
        })
    }

    pub(super) fn steps(&self, answer: &tidegate_datapath::Explanation) -> Vec<PolicyStep> {
        let step = |step: &tidegate_datapath::Step| {
            let rule = step.entry.rule;
            let place = place(self.compiled, RuleId(rule));
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
                    true => outcome(step.entry.verdict, RuleId(rule)),
                    false => "not asked",
                }
                .to_owned(),
                shadow: self.step_in_shadow(step),
                rule: self.directory.rule(RuleId(rule)),
                place,
                l7: self
                    .compiled
                    .l7
                    .get(&L7Id(step.entry.l7))
                    .map(|set| l7_in_words(set))
                    .unwrap_or_default(),
            }
        };
        answer.steps.iter().map(step).collect()
    }
}

/// What becomes of a flow by a verdict of the kernel's tables.
pub(super) fn becomes(decided: u8) -> FlowVerdict {
    match decided {
        verdict::ALLOW => FlowVerdict::Forwarded,
        verdict::REDIRECT => FlowVerdict::Redirected,
        _ => FlowVerdict::Dropped,
    }
}

fn outcome(decided: u8, rule: RuleId) -> &'static str {
    match decided {
        verdict::DEFAULT_DENY => "no rule allows it",
        verdict::DENY => "denied by rule",
        verdict::REDIRECT => "needs L7",
        verdict::ALLOW if rule.is_none() => "not enforced",
        _ => "allow",
    }
}

/// The table entry in words: `identity 256, tcp ports 8080-8095`.
fn entry(step: &tidegate_datapath::Step) -> String {
    let peer = match step.identity {
        IdentityId(0) => "any identity".to_owned(),
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

pub(super) fn live(answer: &tidegate_datapath::Explanation) -> Option<LiveFlow> {
    let (_, latest) = answer.live.first()?;
    let mut flow = LiveFlow {
        flows: answer.live.len(),
        generation: Generation(latest.generation),
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

pub(super) fn port_of(protocol: u8, port: u16) -> u16 {
    match protocol {
        proto::ICMP | proto::ICMPV6 => 0,
        _ => port,
    }
}

fn socket(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}
