//! The way back of one exchange: upstream's heads are read, recorded and passed on.

use std::{cell::RefCell, io};

use tidegate_wire::{
    http::ResponseHead,
    http1::{Asked, Framing, HeadScan, Response, Rewrite, with_response},
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::answer::Answer;
use crate::proxy::http::{
    exchange::Exchange,
    inspect::{Inspector, Verdict},
    pump::{Pump, PumpError},
    watchdog::Activity,
};

/// Most interim responses (1xx) to one request.
const MAX_INTERIM: u32 = 100;

/// How the way back ended.
#[derive(Debug)]
pub(super) enum Received {
    /// A whole response was passed on; the server keeps the connection or not.
    Complete { persistent: bool },
    /// The server agreed: from here on the bytes are opaque.
    Tunnel,
    /// Nothing was passed on, and why.
    Nothing(Silence),
    /// The response broke off, or the client takes no more.
    Broken,
}

/// Why upstream gave no response that could be passed on.
#[derive(Debug)]
pub(super) enum Silence {
    /// It closed or failed before its first byte.
    Gone(io::Error),
    /// It sent something that is not an acceptable response.
    Malformed(String),
}

/// What the way back needs to know of the request.
pub(super) struct Expectation<'a> {
    pub(super) may_upgrade: bool,
    pub(super) sees_response: bool,
    /// Taken when the record is kept.
    pub(super) exchange: &'a RefCell<Option<Exchange>>,
}

/// A head that is ready to be passed on.
struct Ready {
    rewritten: Option<Vec<u8>>,
    framing: Framing,
    after: After,
}

enum After {
    Interim,
    Tunnel,
    Body {
        persistent: bool,
    },
    /// The head is an answer of ours; upstream's body is not wanted.
    Replaced,
}

/// Passes interim responses and the final one to the client.
pub(super) async fn receive(
    pump: &mut Pump,
    upstream: &mut (impl AsyncRead + Unpin),
    client: &mut (impl AsyncWrite + Unpin),
    expected: &Expectation<'_>,
    inspector: &impl Inspector,
    activity: &Activity,
) -> Received {
    for _ in 0..=MAX_INTERIM {
        let head_len = match next_head(pump, upstream, activity).await {
            Ok(head_len) => head_len,
            Err(silence) => return Received::Nothing(silence),
        };
        let head = &pump.buffer.filled()[..head_len];
        let ready = match prepare(head, expected, inspector) {
            Ok(ready) => ready,
            Err(error) => return Received::Nothing(Silence::Malformed(error)),
        };
        let passed = match pump.begin(head_len, ready.rewritten, ready.framing) {
            Ok(()) => pump.run(upstream, client, activity).await,
            Err(error) => Err(error),
        };
        match (passed, ready.after) {
            (Err(PumpError::Sender(_) | PumpError::Receiver(_) | PumpError::Malformed(_)), _)
            | (Ok(()), After::Replaced) => return Received::Broken,
            (Ok(()), After::Interim) => {}
            (Ok(()), After::Tunnel) => return Received::Tunnel,
            (Ok(()), After::Body { persistent }) => return Received::Complete { persistent },
        }
    }
    Received::Nothing(Silence::Malformed("too many interim responses".to_owned()))
}

async fn next_head(
    pump: &mut Pump,
    upstream: &mut (impl AsyncRead + Unpin),
    activity: &Activity,
) -> Result<usize, Silence> {
    let mut scan = HeadScan::default();
    loop {
        if !pump.buffer.is_empty() {
            match scan.advance(pump.buffer.filled()) {
                Ok(Some(head_len)) => return Ok(head_len),
                Ok(None) => {}
                Err(error) => return Err(Silence::Malformed(error.to_string())),
            }
        }
        match pump.buffer.fill(upstream).await {
            Ok(0) => return Err(Silence::Gone(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => activity.progress(),
            Err(error) => return Err(Silence::Gone(error)),
        }
    }
}

/// Decides about a response head, and keeps the record once it is the final one.
fn prepare(
    head: &[u8],
    expected: &Expectation<'_>,
    inspector: &impl Inspector,
) -> Result<Ready, String> {
    let slot = &mut *expected.exchange.borrow_mut();
    let asked = slot
        .as_ref()
        .map_or(Asked::Other, |exchange| exchange.asked);
    with_response(head, asked, |response| {
        if response.is_interim() {
            return Ok(pass(response, After::Interim));
        }
        if response.status == 101 && !expected.may_upgrade {
            return Err("unexpected 101".to_owned());
        }
        let Some(exchange) = slot.take() else {
            return Err("response without a request".to_owned());
        };
        if response.status == 101 || (asked == Asked::Connect && response.status < 300) {
            exchange.answered(response.status, inspector);
            return Ok(pass(response, After::Tunnel));
        }
        let after = After::Body {
            persistent: response.persistent,
        };
        if expected.sees_response {
            return Ok(inspect(response, exchange, after, inspector));
        }
        exchange.answered(response.status, inspector);
        Ok(pass(response, after))
    })
    .map_err(|error| error.to_string())?
}

fn pass(response: &Response<'_, '_>, after: After) -> Ready {
    Ready {
        rewritten: None,
        framing: response.framing,
        after,
    }
}

/// Passes the head through the plugins that asked for it.
fn inspect(
    response: &Response<'_, '_>,
    mut exchange: Exchange,
    after: After,
    inspector: &impl Inspector,
) -> Ready {
    let head = ResponseHead {
        status: response.status,
        headers: response.headers,
    };
    let to_head = exchange.is_to_head();
    let attribution = std::mem::take(&mut exchange.attribution);
    let decision = inspector.decide_response(attribution, &head);
    exchange.attribution = decision.attribution;
    match decision.verdict {
        Verdict::Allow => {
            exchange.answered(response.status, inspector);
            pass(response, after)
        }
        Verdict::Deny(denial) => {
            exchange.denied(denial.status, inspector);
            replaced(Answer::denial(&denial, true, to_head))
        }
        Verdict::Edit(edit) => {
            let rewrite = Rewrite {
                path: None,
                edit: Some(&edit),
            };
            match rewrite.encode_response(response) {
                Ok(head) => {
                    exchange.answered(response.status, inspector);
                    Ready {
                        rewritten: Some(head),
                        ..pass(response, after)
                    }
                }
                Err(error) => {
                    exchange.failed(500, &error.to_string(), inspector);
                    replaced(Answer::error(500, "invalid header edit\r\n"))
                }
            }
        }
    }
}

fn replaced(answer: Answer<'_>) -> Ready {
    Ready {
        rewritten: Some(answer.encode()),
        framing: Framing::Length(0),
        after: After::Replaced,
    }
}
