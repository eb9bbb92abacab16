//! The kernel's explanation of a flow, told in names.

mod names;
mod obstacles;

use std::{net::IpAddr, sync::Arc, time::Instant};

use tidegate_control::view::View;
use tidegate_datapath::Reader;
use tidegate_ebpf_shared::{identity::reserved, policy::verdict, reason};
use tidegate_observe::{
    assemble::protocol_name as protocol,
    directory::LearnedNames,
    explain::{ExplainQuery, Explanation, L7Question},
    record::FlowVerdict,
};
use tidegate_policy::compiled::{Compiled, Direction, EndpointId, Generation, RuleId};
use tidegate_proxy::Exits;
use tidegate_supervisor::ProxySupervisor;

use self::{
    names::{Names, live, port_of},
    obstacles::obstacles,
};
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
            EndpointId(0) => only_host_service(query.source, view),
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
        let drop = refusal(&answer, host_service.is_some());
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
            asked.leaves = answer.destination.outside && host_service.is_none();
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
                names.in_shadow(&answer, drop, host_service.is_some())
            } else {
                None
            },
            l7: None,
            upstream_source: None,
            notes,
            obstacles: obstacles(view, &answer, verdict, host_service.is_some()),
            generation: Generation(evaluation.generation),
        };
        Ok((explanation, asked))
    }
}

/// Where a rule of the generation in force is written, `file:line`.
pub(super) fn place(compiled: &Compiled, rule: RuleId) -> Option<String> {
    let rule = compiled.rules.get(&rule)?;
    Some(format!("{}:{}", rule.origin, rule.line))
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
fn only_host_service(source: IpAddr, view: &View) -> EndpointId {
    let mut services = view.endpoints.iter().filter(|endpoint| {
        matches!(
            endpoint.location,
            tidegate_policy::compiled::Location::Cgroup(_)
        ) && endpoint.addresses.contains(&source)
    });
    match (services.next(), services.next()) {
        (Some(only), None) => only.id,
        _ => EndpointId(0),
    }
}
