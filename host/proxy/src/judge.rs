//! What would be decided about a message nobody sent. The path is that of real traffic,
//! from the parser to the plugins; only the flow is made up. Instances of plugins are
//! made for the question and end with its thread, so that no answer depends on what was
//! asked before, and a plugin that takes its time keeps nobody waiting.

use std::{
    cell::RefCell,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tidegate_policy::compiled::{Generation, RuleId};

use tidegate_contract::{
    Failure,
    FailureKind::{Overload, RulesUnknown},
    L7Summary,
};
use tidegate_contract::{Judgement, Message, Question, ToAgent};
use tidegate_policy::http_options::HttpOptions;
use tidegate_wire::{
    http::{HttpHead, ResponseHead},
    tls::{Asked, alert},
};
use tokio::sync::mpsc;

use super::{
    decide::{self, Attribution, Facts, InShadow, Side, http::Decision},
    dns::boot_seconds,
    flow::InClear,
    http::{self, Inspector},
    leg::Leg,
    outward::{self, Way},
    state::{Local, State},
    tls,
};

/// Questions answered at a time; people ask them one by one.
const AT_A_TIME: usize = 4;

/// Answers questions, each on a thread of its own.
pub(super) struct Judges {
    busy: Arc<AtomicUsize>,
    answers: mpsc::UnboundedSender<ToAgent>,
}

impl Judges {
    /// The judges, and where their answers come out.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<ToAgent>) {
        let (answers, receiver) = mpsc::unbounded_channel();
        let busy = Arc::default();
        (Self { busy, answers }, receiver)
    }

    /// Answers a question, in its own time.
    pub(super) fn ask(&self, id: u64, question: Question, state: Option<Arc<State>>) {
        let told = move |answers: &mpsc::UnboundedSender<ToAgent>, judgement| {
            // An agent that has left does not need the answer any more.
            let _ = answers.send(ToAgent::Judged { id, judgement });
        };
        let Some(state) = state else {
            return told(
                &self.answers,
                failed(RulesUnknown.because("no generation is in use yet")),
            );
        };
        if self.busy.fetch_add(1, Relaxed) >= AT_A_TIME {
            self.busy.fetch_sub(1, Relaxed);
            return told(
                &self.answers,
                failed(Overload.because("too many questions at a time")),
            );
        }
        let (answers, busy) = (self.answers.clone(), self.busy.clone());
        let work = move || {
            let _done = Done(busy);
            told(&answers, judge(state, &question));
        };
        let thread = std::thread::Builder::new().name("judge".to_owned());
        if let Err(error) = thread.spawn(work) {
            // The closure is dropped unrun, and `Done` was never made.
            self.busy.fetch_sub(1, Relaxed);
            told(
                &self.answers,
                failed(Overload.because(format!("cannot start a thread: {error}"))),
            );
        }
    }
}

/// Gives the place back, whatever became of the thread.
struct Done(Arc<AtomicUsize>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn failed(error: Failure) -> Judgement {
    Judgement {
        error: Some(error),
        ..Judgement::default()
    }
}

/// Decides with the instances of the calling thread.
fn judge(state: Arc<State>, question: &Question) -> Judgement {
    let local = Local::new(state);
    let mut flow = Imagined {
        facts: Arc::new(Facts {
            source: question.source,
            destination: question.destination,
            source_identity: question.source_identity.get(),
            source_labels: local
                .state
                .identities
                .get(&question.source_identity)
                .cloned()
                .unwrap_or_default(),
            imagined: true,
        }),
        generation: local.state.generation,
        sides: [(question.egress, false), (question.ingress, true)].map(|((id, rule), ingress)| {
            let chain = local.chain(id);
            Side {
                chain,
                rule: if chain.is_some() { rule } else { RuleId(0) },
                ingress,
                audit: local.state.audit,
                tunnels: local.state.tunnels.contains(&id),
                or: Vec::new(),
                open: false,
            }
        }),
        shadows: Default::default(),
        options: HttpOptions::default(),
        outcome: RefCell::default(),
    };
    let unknown = [question.egress.0, question.ingress.0]
        .into_iter()
        .find(|id| id.is_some() && local.chain(*id).is_none());
    if let Some(id) = unknown {
        return failed(RulesUnknown.because(format!("rule set {id} is not known to the proxy")));
    }
    let way = Way {
        endpoint: question.source_endpoint,
        identity: question.destination_identity,
        destination: question.destination,
        transport: question.transport,
    };
    let united = match outward::allowed(&local.state, &way, boot_seconds()) {
        Ok(united) => united,
        Err(error) => return failed(error),
    };
    if let Some(united) = &united {
        let any = &united.enforced;
        if let Err(error) = outward::unite(&mut flow.sides[0], question.egress.0, any, &local) {
            return failed(error);
        }
    }
    flow.options = local.state.http_options(&flow.sides);
    let (egress, ingress) = (question.egress.0, question.ingress.0);
    let shadows =
        outward::in_shadow(&flow.sides[0], egress, united.as_ref(), &local).and_then(|one| {
            Ok([
                one,
                outward::in_shadow(&flow.sides[1], ingress, None, &local)?,
            ])
        });
    match shadows {
        Ok(shadows) => flow.shadows = shadows,
        Err(error) => return failed(error),
    }
    match &question.message {
        Message::Http(head) => {
            let passes = http::would_pass(head.as_bytes(), &flow);
            let outcome = flow.outcome.into_inner();
            told(outcome.attribution, (!passes).then_some(outcome.status))
        }
        Message::Tls {
            server_name,
            in_clear,
        } => {
            let asked = tls::in_clear::asked_of(server_name);
            let code = match asked {
                Asked::Name(_) => alert::UNRECOGNIZED_NAME,
                _ => alert::ACCESS_DENIED,
            };
            let sides = (&flow.sides[..], &flow.shadows[..]);
            let decided = match in_clear {
                true => {
                    let listed = InClear::of(&local);
                    decide::tls::hello(sides, &listed, flow.generation, Some(&asked))
                }
                false => decide::tls::hello(sides, &*local, flow.generation, Some(&asked)),
            };
            let code = match in_clear {
                true => 403,
                false => code.into(),
            };
            told(decided.1, (!decided.0).then_some(code))
        }
        Message::Dns { name, qtype } => {
            let asked = (name.as_str(), *qtype);
            let how = (flow.generation, local.state.reject);
            let sides = (&flow.sides[..], &flow.shadows[..]);
            let (refused, attribution) = decide::dns::query(sides, how, asked, &flow.facts);
            told(attribution, refused.map(u16::from))
        }
    }
}

fn told(decided: Attribution, refused: Option<u16>) -> Judgement {
    Judgement {
        allowed: refused.is_none(),
        code: refused.unwrap_or_default(),
        rules: decided.rules,
        unmatched: decided.unmatched,
        plugin: decided.plugin,
        error: decided.error,
        ingress: decided.ingress,
        audited: decided.audited,
        rehearsed: decided.rehearsed.map(|rehearsed| *rehearsed),
        generation: decided.generation,
    }
}

/// A flow that does not exist.
struct Imagined<'a> {
    facts: Arc<Facts>,
    generation: Generation,
    sides: [Side<'a>; 2],
    shadows: [InShadow<'a>; 2],
    options: HttpOptions,
    outcome: RefCell<Outcome>,
}

/// What became of the message.
#[derive(Default)]
struct Outcome {
    attribution: Attribution,
    status: u16,
}

impl Inspector for Imagined<'_> {
    async fn connect_upstream(&self) -> io::Result<Leg> {
        Err(io::Error::other("nobody sent this message"))
    }

    fn options(&self) -> HttpOptions {
        self.options
    }

    fn decide_request(&self, head: &HttpHead<'_>) -> Decision {
        let sides = (&self.sides[..], &self.shadows[..]);
        let decision = decide::http::request(sides, self.generation, head, &self.facts);
        self.outcome.borrow_mut().attribution = decision.attribution.clone();
        decision
    }

    fn decide_response(&self, request: Attribution, _: &ResponseHead<'_>) -> Decision {
        // There is no response; asked nevertheless, it would pass as the request did.
        Decision {
            verdict: decide::http::Verdict::Allow,
            attribution: request,
            sees_response: false,
            filters: Default::default(),
        }
    }

    fn record(&self, attribution: Attribution, _allowed: bool, summary: L7Summary) {
        let status = match summary {
            L7Summary::Http { status, grpc, .. } => {
                let call = grpc.and_then(|call| call.status);
                call.map_or(status, |code| u16::try_from(code).unwrap_or(u16::MAX))
            }
            L7Summary::Dns { rcode, .. } => rcode.unwrap_or_default().into(),
            // No such question is asked.
            L7Summary::Stream { .. } | L7Summary::Tls { .. } => 0,
        };
        *self.outcome.borrow_mut() = Outcome {
            attribution,
            status,
        };
    }
}
