//! What becomes of a request or query on a flow: asked of the proxy, which answers with
//! the rule sets and plugins that decide about real ones.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Context as _;
use tidegate_contract::{Message, Question};
use tidegate_control::{standing::ProxyState, view::View};
use tidegate_ebpf_shared::policy::{PolicyEntry, verdict};
use tidegate_observe::{
    explain::{self, ExplainQuery, InShadow, L7Answer, L7Question, RulePlace},
    record::FlowVerdict,
};
use tidegate_policy::compiled::{
    Direction, EndpointId, IdentityId, L7Id, L7Protocol, L7RuleSet, RuleId,
};
use tokio::time::timeout;

use super::explain::{Explainer, place};

impl Explainer {
    /// What becomes of a message on the flow: asked of the proxy, if it gets there.
    pub(super) async fn judge(
        &self,
        message: &L7Question,
        query: &ExplainQuery,
        (kernel, refusal): (FlowVerdict, Option<&str>),
        asked: Option<Asked>,
        view: &View,
    ) -> anyhow::Result<L7Answer> {
        let answer = L7Answer {
            asked: message.to_string(),
            verdict: FlowVerdict::Dropped,
            code: None,
            reason: None,
            reason_kind: None,
            rules: Vec::new(),
            none_matched: false,
            plugin: None,
            shadow: None,
        };
        let Some(asked) = asked else {
            return Ok(unread(answer, kernel, refusal));
        };
        let sets = [asked.egress.0, asked.ingress.0];
        let mut sets = sets.iter().filter_map(|id| view.compiled.l7.get(id));
        let names = |set: &L7RuleSet| set.tls.as_ref().is_some_and(|tls| tls.in_clear);
        let in_clear = sets.clone().any(|set| names(set));
        let speaks_tls = sets
            .clone()
            .any(|set| set.tls.is_some() || set.contexts.terminating.is_some());
        let wanted = match message {
            // The host of a request is one of the names, or not.
            L7Question::Http { .. } if in_clear => L7Protocol::Stream,
            L7Question::Http { .. } => L7Protocol::Http,
            L7Question::Dns { .. } => L7Protocol::Dns,
            L7Question::Tls { .. } => L7Protocol::Stream,
        };
        let read_as = sets.next().map(|set| set.protocol);
        let read_as = read_as.filter(|_| !matches!(message, L7Question::Tls { .. }) || !speaks_tls);
        if read_as.is_some_and(|protocol| protocol != wanted) {
            return Ok(L7Answer {
                verdict: FlowVerdict::Error,
                reason: Some(format!(
                    "policy has this flow read as {}, which the message is not",
                    protocol_word(read_as.unwrap_or(wanted))
                )),
                ..answer
            });
        }
        let question = Question {
            source: SocketAddr::new(query.source, 0),
            destination: SocketAddr::new(asked.destination.0, asked.destination.1),
            source_identity: asked.source_identity,
            source_endpoint: asked.source_endpoint,
            destination_identity: asked.destination_identity,
            transport: query.protocol,
            egress: asked.egress,
            ingress: asked.ingress,
            message: match as_sent(message, SocketAddr::new(query.destination, query.port))? {
                Message::Http(_) if in_clear => Message::Tls {
                    server_name: match message {
                        L7Question::Http { host, .. } => host.clone().unwrap_or_default(),
                        _ => String::new(),
                    },
                    in_clear,
                },
                message => message,
            },
        };
        let unanswered = |why| L7Answer {
            verdict: FlowVerdict::Error,
            reason: Some(why),
            ..answer.clone()
        };
        // One that is known to hang would be waited for in vain.
        if view.proxy.state != ProxyState::Serving {
            let why = format!("the proxy cannot be asked: it is {}", view.proxy.state);
            return Ok(unanswered(why));
        }
        let judgement = match timeout(JUDGEMENT, self.proxy.judge(question)).await {
            Ok(Ok(judgement)) => judgement,
            Ok(Err(error)) => return Ok(unanswered(format!("the proxy cannot be asked: {error}"))),
            Err(_) => {
                let why = format!("the proxy did not answer within {} s", JUDGEMENT.as_secs());
                return Ok(unanswered(why));
            }
        };
        let rule = |id: &RuleId| {
            Some(RulePlace {
                rule: view.directory.rule(*id)?,
                place: place(&view.compiled, *id),
            })
        };
        Ok(L7Answer {
            verdict: match (&judgement.error, judgement.allowed) {
                (_, true) if judgement.audited => FlowVerdict::Audit,
                (_, true) => FlowVerdict::Forwarded,
                (Some(_), false) => FlowVerdict::Error,
                (None, false) => FlowVerdict::Dropped,
            },
            code: (!judgement.allowed).then_some(judgement.code),
            reason: judgement.error.as_ref().map(ToString::to_string),
            reason_kind: judgement.error.map(|error| error.kind),
            rules: judgement.rules.iter().filter_map(rule).collect(),
            none_matched: judgement.unmatched,
            shadow: judgement.rehearsed.map(|rehearsed| InShadow {
                verdict: match (rehearsed.allowed, &rehearsed.error) {
                    (true, _) => FlowVerdict::Forwarded,
                    (false, Some(_)) => FlowVerdict::Error,
                    (false, None) => FlowVerdict::Dropped,
                },
                rule: rehearsed.rules.first().and_then(rule),
                reason: rehearsed
                    .error
                    .map(|error| error.to_string())
                    .or_else(|| rehearsed.unmatched.then(|| "no rule matches it".to_owned())),
                l7: Vec::new(),
            }),
            plugin: judgement.plugin,
            ..answer
        })
    }
}

/// How long the proxy may take to judge: plugins are instantiated and configured for it.
/// Of the rest of the answer nobody waits longer for its sake.
const JUDGEMENT: Duration = Duration::from_secs(5);

/// What the proxy is asked about a flow that would meet it.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    source_identity: IdentityId,
    source_endpoint: EndpointId,
    destination_identity: IdentityId,
    /// After service translation.
    destination: (IpAddr, u16),
    /// Rule set and the rule that asks for it.
    egress: (L7Id, RuleId),
    ingress: (L7Id, RuleId),
    /// Does the proxy's own connection leave the node?
    pub(super) leaves: bool,
}

impl Asked {
    /// Of a flow the kernel would steer.
    pub(super) fn of(answer: &tidegate_datapath::Explanation) -> Self {
        let side = |direction| {
            let step = answer.steps.iter().find(|step| {
                step.direction == direction && step.entry.verdict == verdict::REDIRECT
            });
            let of = |entry: &PolicyEntry| (L7Id(entry.l7), RuleId(entry.rule));
            step.map_or_else(Default::default, |step| of(&step.entry))
        };
        Self {
            source_identity: answer.source.identity,
            source_endpoint: answer.source.endpoint,
            destination_identity: answer.destination.identity,
            destination: (answer.destination.address, answer.port),
            egress: side(Direction::Egress),
            ingress: side(Direction::Ingress),
            leaves: false,
        }
    }

    /// The other end of the proxy's own connection.
    pub(super) fn server(&self) -> SocketAddr {
        SocketAddr::new(self.destination.0, self.destination.1)
    }
}

/// The answer for a message that no proxy would read.
fn unread(answer: L7Answer, kernel: FlowVerdict, refusal: Option<&str>) -> L7Answer {
    let (verdict, reason) = match kernel {
        FlowVerdict::Forwarded | FlowVerdict::Audit => (
            FlowVerdict::Forwarded,
            "no L7 rule covers this connection: it stays in the kernel, whatever is sent"
                .to_owned(),
        ),
        _ => (
            FlowVerdict::Dropped,
            format!(
                "the connection does not come about: {}",
                refusal.unwrap_or("it is dropped")
            ),
        ),
    };
    L7Answer {
        verdict,
        reason: Some(reason),
        ..answer
    }
}

/// The message as a client would send it to `to`.
fn as_sent(message: &L7Question, to: SocketAddr) -> anyhow::Result<Message> {
    match message {
        L7Question::Http {
            method,
            target,
            host,
            headers,
        } => {
            let host = host.clone().unwrap_or_else(|| to.to_string());
            let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n");
            for field in headers {
                head.push_str(field);
                head.push_str("\r\n");
            }
            head.push_str("\r\n");
            Ok(Message::Http(head))
        }
        L7Question::Tls { server_name } => Ok(Message::Tls {
            server_name: server_name.clone(),
            in_clear: false,
        }),
        L7Question::Dns { name, qtype } => Ok(Message::Dns {
            name: format!("{}.", name.trim_end_matches('.').to_ascii_lowercase()),
            qtype: explain::qtype(qtype).context("no such type of DNS record")?,
        }),
    }
}

fn protocol_word(protocol: L7Protocol) -> &'static str {
    match protocol {
        L7Protocol::Http => "HTTP",
        L7Protocol::Dns => "DNS",
        L7Protocol::Stream => "a byte stream",
    }
}
