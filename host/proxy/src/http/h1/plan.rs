//! From a complete request head to what shall happen with it. No IO here.

use std::time::Instant;

use tidegate_contract::{
    Failure,
    FailureKind::{ClientProtocol, Overload},
};
use tidegate_wire::{
    http::HttpHead,
    http1::{Framing, HeadError, Request, Rewrite, Upgrade, with_request},
};

use super::{
    answer::Answer,
    filtered::{Filtered, Head, Of, is_old},
};
use crate::{
    budget::{Budget, NO_MEMORY},
    http::{
        exchange::Exchange,
        inspect::Inspector,
        opening::Opening,
        reply::{Asker, Reply},
        request::{self, Sees},
    },
};

/// Longest request body that is read and forgotten to keep a connection whose
/// request was refused.
pub(super) const DRAINABLE: u64 = 64 * 1024;

/// What shall happen with a request.
pub(super) enum Plan {
    /// Pass it on.
    Forward(Box<Forward>),
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
    /// Who wants to see the response.
    pub(super) sees_response: Sees,
    /// Filters want to see the body: its way through them, in place of the rewritten head.
    pub(super) filtered: Option<Filtered>,
    /// The client waits to be told that it may send the body.
    pub(super) expects: bool,
    /// The client speaks HTTP/1.0.
    pub(super) old: bool,
    /// What the record will need.
    pub(super) exchange: Exchange,
    /// What a tunnel is held to, if this may open one.
    pub(super) opening: Option<Box<Opening>>,
}

/// A request to answer ourselves. Its record is kept already.
pub(super) struct Refuse {
    /// The response.
    pub(super) bytes: Vec<u8>,
    /// Framing of the request body to drain first, if the connection is kept.
    pub(super) keep: Option<Framing>,
}

/// Decides about a complete head.
pub(super) fn plan(head: &[u8], inspector: &impl Inspector, budget: &Budget) -> Plan {
    let began = Instant::now();
    with_request(head, |request| {
        decide((request, head), began, inspector, budget)
    })
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
    fn failure(&self) -> Failure {
        match self {
            Self::Head(error) => ClientProtocol.because(error.to_string()),
            Self::NoMemory => Overload.because(NO_MEMORY),
        }
    }

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
    let bytes = Answer::last(&Reply::error(error.status(), &reason)).encode();
    Exchange::unreadable("HTTP/1.1", error.failure()).denied(error.status(), inspector);
    Plan::Refuse(Refuse { bytes, keep: None })
}

fn decide(
    (request, bytes): (&Request<'_, '_>, &[u8]),
    began: Instant,
    inspector: &impl Inspector,
    budget: &Budget,
) -> Plan {
    let head = HttpHead {
        version: request.version,
        method: request.method,
        path: request.target.path(),
        authority: request.authority,
        headers: request.headers,
    };
    let may_upgrade = request.upgrade == Upgrade::WebSocket;
    let opens = may_upgrade || request.method == "CONNECT";
    let standing = opens.then(|| inspector.standing());
    let passed = match request::decide(head, began, inspector) {
        Ok(passed) => passed,
        Err(reply) => {
            let over = inspector.is_over();
            return refuse(request, &reply, Asker::of(&head), over);
        }
    };
    let (mut exchange, mut edit) = (passed.exchange, passed.edit);
    let tunnel = request.method == "CONNECT";
    let mut line = passed.sees_response.request_line().filter(|_| !tunnel);
    // An offer to upgrade has no body, and is no tunnel before it is taken up.
    if let Some(line) = line.take_if(|_| may_upgrade) {
        match line.unseen(true, edit, &mut exchange.attribution) {
            Ok(changed) => edit = changed,
            Err(stop) => {
                let reply = exchange.stopped(*stop, inspector);
                return refuse(request, &reply, Asker::of(&head), inspector.is_over());
            }
        }
    }
    let filtered = line.map(|line| {
        let head = Head {
            bytes: bytes.to_vec(),
            edit: edit.as_deref().cloned().unwrap_or_default(),
            old: is_old(request.version),
            of: Of::Request(passed.path.clone()),
        };
        Filtered::new(line, request.framing, head, budget)
    });
    let rewrite = Rewrite {
        path: passed.path.as_deref(),
        edit: edit.as_ref(),
        close: false,
    };
    let decided = HttpHead {
        path: passed.path.as_deref().unwrap_or(head.path),
        ..head
    };
    let opening = standing.map(|standing| Box::new(Opening::of(&decided, standing)));
    let as_received = rewrite == Rewrite::default() && request.upgrade != Upgrade::TakenOut;
    Plan::Forward(Box::new(Forward {
        filtered,
        expects: request.expect_continue,
        old: is_old(request.version),
        rewritten: (!as_received).then(|| rewrite.encode_request(request)),
        framing: request.framing,
        persistent: request.persistent,
        may_upgrade,
        sees_response: passed.sees_response,
        exchange,
        opening,
    }))
}

fn refuse(request: &Request<'_, '_>, reply: &Reply, asker: Asker, over: bool) -> Plan {
    let keep = kept_framing(request).filter(|_| !over);
    let answer = Answer {
        reply,
        close: keep.is_none(),
        asker,
    };
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
