//! From a complete request head to what shall happen with it. No IO here.

use std::time::Instant;

use tidegate_wire::{
    http::HttpHead,
    http1::{Framing, HeadError, Request, Rewrite, Upgrade, with_request},
    path::{Normalised, normalise},
};

use super::answer::Answer;
use crate::http::{
    buffer::NO_MEMORY,
    exchange::Exchange,
    inspect::{Attribution, Inspector, Verdict},
};

/// Longest request body that is read and forgotten to keep a connection whose
/// request was refused.
pub(super) const DRAINABLE: u64 = 64 * 1024;

/// What shall happen with a request.
pub(super) enum Plan {
    /// Pass it on.
    Forward(Forward),
    /// Answer it ourselves.
    Refuse(Refuse),
}

/// A request to pass on.
pub(super) struct Forward {
    /// The head to send instead of the original bytes.
    pub(super) rewritten: Option<Vec<u8>>,
    pub(super) framing: Framing,
    /// The client wants the connection kept.
    pub(super) persistent: bool,
    /// A 101 is in order.
    pub(super) may_upgrade: bool,
    /// Plugins want the response head.
    pub(super) sees_response: bool,
    /// What the record will need.
    pub(super) exchange: Exchange,
}

/// A request to answer ourselves. Its record is kept already.
pub(super) struct Refuse {
    /// The response.
    pub(super) bytes: Vec<u8>,
    /// Framing of the request body to drain first, if the connection is kept.
    pub(super) keep: Option<Framing>,
}

/// Decides about a complete head.
pub(super) fn plan(head: &[u8], inspector: &impl Inspector) -> Plan {
    let began = Instant::now();
    with_request(head, |request| decide(request, began, inspector))
        .unwrap_or_else(|error| unreadable(&error.into(), inspector))
}

/// Why a head could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error(transparent)]
    Head(#[from] HeadError),
    /// It is longer than its client has memory for.
    #[error("{NO_MEMORY}")]
    NoMemory,
}

impl Unreadable {
    fn status(&self) -> u16 {
        match self {
            Self::Head(error) => error.status(),
            Self::NoMemory => 503,
        }
    }
}

/// Refuses a head that could not be read, and ends the connection: where the next
/// request begins is not known.
pub(super) fn unreadable(error: &Unreadable, inspector: &impl Inspector) -> Plan {
    let reason = error.to_string();
    let bytes = Answer::error(error.status(), &format!("{reason}\r\n")).encode();
    Exchange::unreadable("HTTP/1.1", reason).denied(error.status(), inspector);
    Plan::Refuse(Refuse { bytes, keep: None })
}

fn decide(request: &Request<'_, '_>, began: Instant, inspector: &impl Inspector) -> Plan {
    let mut head = HttpHead {
        version: request.version,
        method: request.method,
        path: request.target.path(),
        authority: request.authority,
        headers: request.headers,
    };
    let normalised = normalise(head.path);
    let new_path = match &normalised {
        Ok(Normalised::Unchanged) => None,
        Ok(Normalised::Changed(path)) => Some(path.as_str()),
        Ok(Normalised::Redirect(path)) => {
            let answer = Answer {
                location: Some(path),
                ..Answer::error(307, "")
            };
            return refuse(
                request,
                &head,
                began,
                answer,
                "escaped slash in path",
                inspector,
            );
        }
        Err(error) => {
            let reason = error.to_string();
            let body = format!("{reason}\r\n");
            let answer = Answer::error(400, &body);
            return refuse(request, &head, began, answer, &reason, inspector);
        }
    };
    head.path = new_path.unwrap_or(head.path);

    let decision = inspector.decide_request(&head);
    let edit = match &decision.verdict {
        Verdict::Deny(denial) => {
            let keep = kept_framing(request);
            let answer = Answer::denial(denial, keep.is_none(), request.method == "HEAD");
            let bytes = answer.encode();
            Exchange::new(&head, decision.attribution, began).denied(denial.status, inspector);
            return Plan::Refuse(Refuse { bytes, keep });
        }
        Verdict::Allow => None,
        Verdict::Edit(edit) => Some(edit),
    };
    let as_received = edit.is_none() && new_path.is_none() && request.upgrade != Upgrade::TakenOut;
    let rewrite = Rewrite {
        path: new_path,
        edit,
        close: false,
    };
    let rewritten = match (!as_received).then(|| rewrite.encode_request(request)) {
        None => None,
        Some(Ok(head)) => Some(head),
        Some(Err(error)) => {
            let answer = Answer::error(500, "invalid header edit\r\n");
            return refuse(request, &head, began, answer, &error.to_string(), inspector);
        }
    };
    Plan::Forward(Forward {
        rewritten,
        framing: request.framing,
        persistent: request.persistent,
        may_upgrade: request.upgrade == Upgrade::WebSocket,
        sees_response: decision.sees_response,
        exchange: Exchange::new(&head, decision.attribution, began),
    })
}

/// Refuses for a reason that is not a rule.
fn refuse(
    request: &Request<'_, '_>,
    head: &HttpHead<'_>,
    began: Instant,
    answer: Answer<'_>,
    error: &str,
    inspector: &impl Inspector,
) -> Plan {
    let keep = kept_framing(request);
    let answer = Answer {
        close: keep.is_none(),
        to_head: request.method == "HEAD",
        ..answer
    };
    let exchange = Exchange::new(head, Attribution::default(), began);
    exchange.failed(answer.status, error, inspector);
    Plan::Refuse(Refuse {
        bytes: answer.encode(),
        keep,
    })
}

/// The framing to drain if a refused request lets the connection live: the client
/// wants it, and the body is on its way and small, as far as it says.
fn kept_framing(request: &Request<'_, '_>) -> Option<Framing> {
    let small = match request.framing {
        Framing::Length(length) => length <= DRAINABLE,
        Framing::Chunked | Framing::PaddedChunked => true,
        Framing::UntilClose => false,
    };
    let coming = request.framing == Framing::Length(0) || !request.expect_continue;
    (request.persistent && small && coming).then_some(request.framing)
}
