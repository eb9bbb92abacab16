//! The way back of one exchange: upstream's heads are read, recorded and passed on.

use std::{cell::Cell, io};

use tidegate_contract::{
    Failure,
    FailureKind::{ClientClosed, PluginFailed, UpstreamProtocol, UpstreamReset},
};
use tidegate_wire::{
    grpc,
    http::ResponseHead,
    http1::{Asked, Body, Framing, HeadScan, Response, Rewrite, with_response},
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    answer::Answer,
    filtered::{Filtered, Head, Of, is_old},
    refused,
    underway::Underway,
};
use crate::{
    budget::Budget,
    decide::exchange::Stop,
    http::{
        ending::cut_off,
        inspect::Inspector,
        pump::{Pump, PumpError},
        request::{Responded, Sees, respond},
        watchdog::Activity,
    },
    leg::OnSocket,
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
    /// An answer of ours was sent instead.
    Replaced,
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
    pub(super) sees_response: &'a Sees,
    /// The client speaks HTTP/1.0.
    pub(super) old: bool,
    /// Has the whole request been passed on?
    pub(super) request_sent: &'a Cell<bool>,
}

/// A head that is ready to be passed on.
struct Ready {
    rewritten: Option<Vec<u8>>,
    /// Filters want to see the body: its way through them, in place of the rewritten head.
    filtered: Option<Filtered>,
    framing: Framing,
    record: Record,
    after: After,
}

/// What the record shall say once the head is on its way.
enum Record {
    /// Nothing yet.
    None,
    Answered(u16),
    Denied(u16),
    Failed(u16, Failure),
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
    client: &mut (impl AsyncWrite + OnSocket + Unpin),
    expected: &Expectation<'_>,
    underway: &Underway<'_, impl Inspector>,
    activity: &Activity,
) -> Received {
    for _ in 0..=MAX_INTERIM {
        let head_len = match next_head(pump, upstream, activity).await {
            Ok(head_len) => head_len,
            Err(silence) => return Received::Nothing(silence),
        };
        let old = activity.is_old();
        let came = (pump.buffer.filled(), head_len);
        let prepared = prepare(came, old, expected, underway, activity.budget());
        let ready = match prepared {
            Ok(ready) => ready,
            Err(error) => return Received::Nothing(Silence::Malformed(error)),
        };
        let (mut after, mut record) = (ready.after, ready.record);
        let begun = match ready.filtered {
            None => pump.begin(head_len, ready.rewritten, ready.framing),
            Some(filtered) => match pump.begin_filtered(head_len, filtered) {
                Ok(()) => pump.hold(upstream, activity).await,
                stopped => stopped,
            },
        };
        match begun {
            Ok(()) => {
                underway.change(|attribution, _| pump.tell(attribution));
            }
            // Nothing of it has been passed on yet: it can be another answer.
            Err(PumpError::Stopped(stop)) => {
                let answer = stopped(*stop, underway);
                if let Err(error) = pump.begin(0, Some(answer), Framing::Length(0)) {
                    return Received::Nothing(Silence::Malformed(error.to_string()));
                }
                (after, record) = (After::Replaced, Record::None);
            }
            Err(PumpError::Sender(error)) => return Received::Nothing(Silence::Gone(error)),
            // Still nothing has been passed on: a body that is malformed from the start is
            // an answer that never came.
            Err(error) => return Received::Nothing(Silence::Malformed(error.to_string())),
        }
        match record {
            Record::None => {}
            Record::Answered(status) => underway.answered(status, pump.has_come()),
            Record::Denied(status) => underway.denied(status),
            Record::Failed(status, error) => underway.failed(status, error),
        }
        if ready.framing == Framing::UntilClose {
            // Only the manner of the end tells the client that this is the end.
            cut_off(&*client);
        }
        match pump.run(upstream, client, activity).await {
            Ok(()) => {}
            Err(PumpError::Receiver(error)) => {
                underway.abandoned(ClientClosed.because(error.to_string()));
                return Received::Broken;
            }
            Err(PumpError::Stopped(stop)) => {
                underway.failed(0, stop.attribution.error.unwrap_or_else(refused));
                return Received::Broken;
            }
            Err(error) => {
                underway.failed(0, broken(&error));
                return Received::Broken;
            }
        }
        match after {
            After::Interim => {}
            After::Tunnel => return Received::Tunnel,
            After::Replaced => return Received::Replaced,
            After::Body { persistent } => {
                underway.complete();
                return Received::Complete { persistent };
            }
        }
    }
    Received::Nothing(Silence::Malformed("too many interim responses".to_owned()))
}

/// What is said of a response that upstream did not bring to its end.
fn broken(error: &PumpError) -> Failure {
    let kind = match error {
        PumpError::Stopped(_) => PluginFailed,
        PumpError::Malformed(_) => UpstreamProtocol,
        PumpError::Sender(_) | PumpError::Receiver(_) => UpstreamReset,
    };
    kind.because(error.to_string())
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

/// Decides about the response whose head is the first `head_len` bytes of `came`; the last
/// one if the connection is `old`.
fn prepare(
    (came, head_len): (&[u8], usize),
    old: bool,
    expected: &Expectation<'_>,
    underway: &Underway<'_, impl Inspector>,
    budget: &Budget,
) -> Result<Ready, String> {
    let (head, rest) = came.split_at(head_len);
    let asked = underway.asked();
    with_response(head, asked, |response| {
        if response.is_interim() {
            let interim = pass(response, Record::None, After::Interim, Rewrite::default());
            return Ok(interim);
        }
        let record = Record::Answered(response.status);
        if response.status == 101 {
            return match expected.may_upgrade {
                true if response.switches_to_websocket() => {
                    Ok(pass(response, record, After::Tunnel, Rewrite::default()))
                }
                true => Err("a 101 that does not name websocket alone".to_owned()),
                false => Err("unexpected 101".to_owned()),
            };
        }
        if asked == Asked::Connect && response.status < 300 {
            return Ok(pass(response, record, After::Tunnel, Rewrite::default()));
        }
        let fields = response.headers.iter();
        underway.says(grpc::status(
            fields.map(|field| (field.name.as_bytes(), field.value)),
        ));
        // Whoever is answered before it has said everything may or may not say the rest:
        // there is no telling what its next bytes are, so they go nowhere.
        let early = !expected.request_sent.get() && is_whole(response.framing, rest);
        let after = After::Body {
            persistent: response.persistent && !early && !old,
        };
        let close = early || old;
        if !expected.sees_response.is_nobody() {
            let how = How {
                after,
                close,
                expected,
                budget,
            };
            return Ok(inspect((response, head), how, underway));
        }
        Ok(pass(response, record, after, ending(close)))
    })
    .map_err(|error| error.to_string())?
}

/// Says that the connection ends, or nothing.
fn ending(close: bool) -> Rewrite<'static> {
    Rewrite {
        close,
        ..Rewrite::default()
    }
}

/// Is all of a body there?
fn is_whole(framing: Framing, came: &[u8]) -> bool {
    let mut body = Body::new(framing);
    body.advance(came).is_ok() && body.is_done()
}

/// Passes a response on: as received, unless an edit or the end of the connection must
/// be written into a final one.
fn pass(response: &Response<'_, '_>, record: Record, after: After, rewrite: Rewrite<'_>) -> Ready {
    let rewritten = match rewrite.edit.is_some() || rewrite.close || response.padded_names {
        true => Some(rewrite.encode_response(response)),
        false => None,
    };
    Ready {
        rewritten,
        filtered: None,
        framing: response.framing,
        record,
        after,
    }
}

/// How a final response is passed on.
struct How<'a> {
    after: After,
    /// The connection ends with it.
    close: bool,
    expected: &'a Expectation<'a>,
    budget: &'a Budget,
}

/// Passes the head through the plugins that asked for it.
fn inspect(
    (response, bytes): (&Response<'_, '_>, &[u8]),
    how: How<'_>,
    underway: &Underway<'_, impl Inspector>,
) -> Ready {
    let head = ResponseHead {
        status: response.status,
        headers: response.headers,
    };
    let asked = underway.asked();
    let bodyless = asked == Asked::Head || matches!(response.status, 204 | 304);
    let sees = how.expected.sees_response;
    let responded = underway
        .change(|attribution, inspector| respond((&head, bodyless), attribution, sees, inspector));
    let record = Record::Answered(response.status);
    let rewrite = ending(how.close);
    match responded {
        None => pass(response, record, how.after, rewrite),
        Some(Responded::Pass { edit, line: None }) => {
            let edit = edit.as_ref();
            pass(response, record, how.after, Rewrite { edit, ..rewrite })
        }
        Some(Responded::Pass {
            edit,
            line: Some(line),
        }) => {
            let old = how.expected.old || is_old(response.version);
            let head = Head {
                bytes: bytes.to_vec(),
                edit: edit.as_deref().cloned().unwrap_or_default(),
                old,
                of: Of::Response {
                    asked,
                    close: how.close || response.framing == Framing::UntilClose,
                },
            };
            let filtered = Filtered::new(line, response.framing, head, how.budget);
            Ready {
                rewritten: None,
                filtered: Some(filtered),
                // Without chunks its end may be told by that of the connection.
                framing: match old {
                    true => Framing::UntilClose,
                    false => Framing::Length(0),
                },
                record,
                after: match how.after {
                    After::Body { persistent } => After::Body {
                        persistent: persistent && !old,
                    },
                    after => after,
                },
            }
        }
        Some(Responded::Replace { reply, error }) => {
            let record = match error {
                None => Record::Denied(reply.status),
                Some(error) => Record::Failed(reply.status, error),
            };
            replaced(Answer::last(&reply).to(underway.asker()), record)
        }
    }
}

/// The answer in place of a response that a filter stopped when it saw the body; its record
/// is kept.
fn stopped(stop: Stop, underway: &Underway<'_, impl Inspector>) -> Vec<u8> {
    let asker = underway.asker();
    underway.stopped(*stop.attribution, stop.denial.status);
    Answer::last(&stop.denial.into()).to(asker).encode()
}

fn replaced(answer: Answer<'_>, record: Record) -> Ready {
    Ready {
        rewritten: Some(answer.encode()),
        filtered: None,
        framing: Framing::Length(0),
        record,
        after: After::Replaced,
    }
}
