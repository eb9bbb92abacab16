//! A filter of exchanges on trial: heads and bodies, as the proxy would show them.

use std::sync::Arc;

use tidegate_plugin_host::{
    Binding, BodyVerdict, BodyWish, Facts, Failure, HeadVerdict, HttpExchange, LocalReply, Way,
    Worker,
};
use tidegate_wire::http::{HeaderEdit, HttpHead, ResponseHead};

use crate::subject::{Outcome, Stage};

/// Why a filter has failed, as in the proxy.
const HOLDS_ON: Failure = Failure::Invalid("a window that is full was held on to");
const HOLDS_THE_END: Failure = Failure::Invalid("the end of a body was held on to");

/// What becomes of a request with this body, and of the response, if it passes.
pub(crate) fn run(
    worker: &mut Worker,
    (binding, facts): (&Arc<Binding>, &Arc<Facts>),
    (head, body): (&HttpHead<'_>, &str),
    response: Option<(&ResponseHead<'_>, &str)>,
) -> Vec<(Stage, Outcome)> {
    let exchange = match crate::subject::patient(|| worker.exchange_open(binding, facts)) {
        Ok(exchange) => exchange,
        Err(failure) => return vec![(Stage::Asked, Outcome::failed(&failure))],
    };
    let verdict = worker.exchange_request(&exchange, head);
    let asked = message(worker, &exchange, Way::Request, verdict, body);
    let passes = matches!(asked, Outcome::Allowed { .. });
    let mut outcomes = vec![(Stage::Asked, asked)];
    if let Some((head, body)) = response.filter(|_| passes) {
        let answered = match binding.sees_responses() {
            true => {
                let verdict = worker.exchange_response(&exchange, head);
                message(worker, &exchange, Way::Response, verdict, body)
            }
            false => Outcome::allowed(),
        };
        outcomes.push((Stage::Answered, answered));
    }
    outcomes
}

fn message(
    worker: &mut Worker,
    exchange: &HttpExchange,
    way: Way,
    verdict: Result<HeadVerdict, Failure>,
    body: &str,
) -> Outcome {
    let (rule, mut edit, wish) = match verdict {
        Ok(HeadVerdict::Pass { rule, edit, body }) => (rule, edit, body),
        Ok(HeadVerdict::Reply(reply)) => return denied(reply),
        Err(failure) => return Outcome::failed(&failure),
    };
    let through = match wish {
        BodyWish::Unseen => Ok(Ok(body.as_bytes().to_vec())),
        BodyWish::Whole { most, .. } if body.len() > most => {
            return match wish {
                BodyWish::Whole {
                    skip_overlong: true,
                    ..
                } => allowed(rule, edit, body.as_bytes()),
                _ => Outcome::Denied {
                    status: if way == Way::Request { 413 } else { 502 },
                    body: String::new(),
                    rule: None,
                },
            };
        }
        BodyWish::Whole { .. } => show(worker, (exchange, way), body.len(), body, &mut edit),
        BodyWish::Window { most, .. } => show(worker, (exchange, way), most, body, &mut edit),
    };
    match through {
        Ok(Ok(made)) => allowed(rule, edit, &made),
        Ok(Err(reply)) => denied(reply),
        Err(failure) => Outcome::failed(&failure),
    }
}

/// Shows a body, at most so many bytes at a time.
fn show(
    worker: &mut Worker,
    (exchange, way): (&HttpExchange, Way),
    most: usize,
    body: &str,
    edit: &mut HeaderEdit,
) -> Result<Result<Vec<u8>, LocalReply>, Failure> {
    let (mut rest, mut made) = (body.as_bytes(), Vec::new());
    loop {
        let shown = &rest[..rest.len().min(most)];
        let last = shown.len() == rest.len();
        match worker.exchange_body(exchange, way, shown, last)? {
            BodyVerdict::Reply(reply) => return Ok(Err(reply)),
            BodyVerdict::Take {
                count,
                instead,
                edit: more,
            } => {
                edit.set.extend(more.set);
                edit.remove.extend(more.remove);
                made.extend_from_slice(instead.as_deref().unwrap_or(&shown[..count]));
                match (count < shown.len(), last) {
                    (true, true) => return Err(HOLDS_THE_END),
                    (true, false) if count == 0 => return Err(HOLDS_ON),
                    (false, true) => return Ok(Ok(made)),
                    _ => rest = &rest[count..],
                }
            }
        }
    }
}

fn allowed(rule: Option<u32>, edit: HeaderEdit, body: &[u8]) -> Outcome {
    Outcome::Allowed {
        rule,
        set: edit.set.into_iter().collect(),
        remove: edit.remove,
        body: Some(String::from_utf8_lossy(body).into_owned()),
    }
}

fn denied(reply: LocalReply) -> Outcome {
    Outcome::Denied {
        status: reply.status,
        body: String::from_utf8_lossy(&reply.body).into_owned(),
        rule: reply.rule,
    }
}
