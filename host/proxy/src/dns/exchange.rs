//! One query and its answer.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use tidegate_contract::{
    Failure,
    FailureKind::{
        ClientProtocol, Overload, UpstreamConnection, UpstreamProtocol, UpstreamTimeout,
    },
    L7Summary,
};
use tidegate_wire::dns::{
    Answer, Query, QueryError, answer_unread, ends_transfer, rcode, read_answer, read_outline,
    read_query, type_name,
};

use super::learn::learn;
use crate::{
    decide::{self, Attribution},
    flow::FlowContext,
};

impl FlowContext {
    /// Decides a query: the RCODE to refuse with, or `None` to forward it.
    fn decide_query(&self, name: &str, qtype: u16) -> (Option<u8>, Attribution) {
        self.with_sides(
            |local, sides, facts| {
                let how = (local.state.generation, local.state.reject);
                let shadows = self.shadows(local, sides);
                let sides = (&sides[..], &shadows[..]);
                decide::dns::query(sides, how, (name, qtype), facts)
            },
            decide::dns::failed,
        )
    }
}

/// How long a server may take to answer; afterwards its answer is not relayed.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// QTYPE of a zone transfer, whose answer is many messages (RFC 5936).
const AXFR: u16 = 252;
/// Queries that may wait for answers on one upstream leg.
const MAX_PENDING: usize = 256;

/// What to do with a message from the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decided {
    /// Pass it on to the server.
    Forward,
    /// Answer it with these bytes.
    Reply(Vec<u8>),
    /// Nothing: it is not even a query.
    Drop,
}

/// The queries of one flow that wait for their answers. What still waits when this is
/// dropped is recorded as unanswered.
pub(super) struct Exchange<'f> {
    flow: &'f FlowContext,
    pending: HashMap<u16, Pending>,
}

/// A forwarded query.
struct Pending {
    query: Query,
    attribution: Attribution,
    began: Instant,
    /// An answer has passed and is recorded; more of it is to come.
    answered: bool,
}

impl<'f> Exchange<'f> {
    pub(super) fn new(flow: &'f FlowContext) -> Self {
        Self {
            flow,
            pending: HashMap::new(),
        }
    }

    /// Is there a question without its answer?
    pub(super) fn waits(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Decides a message from the client.
    pub(super) fn query(&mut self, message: &[u8]) -> Decided {
        let began = Instant::now();
        let query = match read_query(message) {
            Ok(query) => query,
            Err(QueryError::NoQuery) => return Decided::Drop,
            Err(error @ QueryError::Answer(code)) => {
                self.malformed(began, code, &error.to_string());
                return answer_unread(message, code).map_or(Decided::Drop, Decided::Reply);
            }
        };
        let (refused, attribution) = self.flow.decide_query(&query.name, query.qtype);
        if let Some(code) = refused {
            let answer = query.answer(code);
            self.record(
                &Pending::new(query, attribution, began),
                false,
                Some(code),
                None,
            );
            return Decided::Reply(answer);
        }
        self.expire(began);
        if self.pending.len() >= MAX_PENDING && !self.pending.contains_key(&query.id) {
            let answer = query.answer(rcode::SERVFAIL);
            let attribution = failed(
                attribution,
                Overload.because("too many queries wait for answers"),
            );
            let pending = Pending::new(query, attribution, began);
            self.record(&pending, false, Some(rcode::SERVFAIL), None);
            return Decided::Reply(answer);
        }
        // A client that asks again with the same id means the same question, or gives
        // up the one before.
        let id = query.id;
        self.pending
            .insert(id, Pending::new(query, attribution, began));
        Decided::Forward
    }

    /// May a message from the server pass? Only as the answer to a question that
    /// waits; what it teaches is in the kernel before this returns.
    pub(super) fn answer(&mut self, message: &[u8]) -> bool {
        let Some(id) = message.first_chunk().map(|id| u16::from_be_bytes(*id)) else {
            return false;
        };
        self.expire(Instant::now());
        let Some(mut pending) = self.pending.remove(&id) else {
            return false;
        };
        let read = read_answer(message);
        let is_clear = read.is_some();
        let Some(answer) = read.or_else(|| read_outline(message)).filter(|answer| {
            // An answer may leave the question out; it may not answer another.
            answer
                .question
                .as_ref()
                .is_none_or(|name| *name == pending.query.name)
        }) else {
            // Not believed, but the true answer may still come.
            self.pending.insert(id, pending);
            return false;
        };
        let first = !pending.answered;
        if is_clear {
            learn(
                self.flow.view(),
                self.flow.source_endpoint(),
                &pending.query.name,
                &answer,
            );
        } else if first {
            // The client may make more of it than we do: it has the answer, but no
            // address that was in there.
            let error = "the answer could not be read: no address was learned from it";
            pending.attribution = failed(pending.attribution, UpstreamProtocol.because(error));
        }
        if first {
            self.record(&pending, true, Some(answer.rcode), Some(&answer));
        }
        if pending.query.qtype == AXFR && !ends_transfer(message, first) {
            pending.answered = true;
            pending.began = Instant::now();
            self.pending.insert(id, pending);
        }
        true
    }

    /// The server cannot be reached: answers for everything that waits.
    pub(super) fn fail(&mut self, error: &io::Error) -> Vec<Vec<u8>> {
        let error = match error.kind() {
            io::ErrorKind::TimedOut => UpstreamTimeout,
            _ => UpstreamConnection,
        }
        .because(error.to_string());
        let waiting = std::mem::take(&mut self.pending);
        let mut answers = Vec::new();
        for (_, mut pending) in waiting {
            if pending.answered {
                // Part of the answer is with the client, who sees that it ends early.
                continue;
            }
            pending.attribution = failed(pending.attribution, error.clone());
            self.record(&pending, false, Some(rcode::SERVFAIL), None);
            answers.push(pending.query.answer(rcode::SERVFAIL));
        }
        answers
    }

    /// Nothing waits for an answer.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Gives up queries whose server takes too long; nothing is sent to the client.
    fn expire(&mut self, now: Instant) {
        let late = |pending: &Pending| now.duration_since(pending.began) > ANSWER_TIMEOUT;
        if self.pending.values().any(late) {
            let waiting = std::mem::take(&mut self.pending);
            let (gone, kept) = waiting.into_iter().partition(|(_, pending)| late(pending));
            self.pending = kept;
            self.unanswered(gone);
        }
    }

    fn unanswered(&self, gone: HashMap<u16, Pending>) {
        for (_, mut pending) in gone {
            if pending.answered {
                continue;
            }
            pending.attribution = failed(
                pending.attribution,
                UpstreamTimeout.because("the server did not answer"),
            );
            self.record(&pending, true, None, None);
        }
    }

    fn malformed(&self, began: Instant, code: u8, error: &str) {
        let attribution = Attribution {
            rules: self.flow.asking_rules(),
            error: Some(ClientProtocol.because(error.to_owned())),
            ..Attribution::default()
        };
        self.flow
            .record(attribution, false, summary(None, Some(code), None, began));
    }

    fn record(&self, pending: &Pending, allowed: bool, rcode: Option<u8>, answer: Option<&Answer>) {
        let summary = summary(Some(&pending.query), rcode, answer, pending.began);
        self.flow
            .record(pending.attribution.clone(), allowed, summary);
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        let gone = std::mem::take(&mut self.pending);
        self.unanswered(gone);
    }
}

impl Pending {
    fn new(query: Query, attribution: Attribution, began: Instant) -> Self {
        Self {
            query,
            attribution,
            began,
            answered: false,
        }
    }
}

fn failed(attribution: Attribution, error: Failure) -> Attribution {
    Attribution {
        error: Some(error),
        ..attribution
    }
}

fn summary(
    query: Option<&Query>,
    rcode: Option<u8>,
    answer: Option<&Answer>,
    began: Instant,
) -> L7Summary {
    /// Addresses kept in a record.
    const MAX_IPS: usize = 16;
    let ips: Vec<IpAddr> = answer.map_or(&[][..], |answer| &answer.addresses).to_vec();
    L7Summary::Dns {
        query: query.map(|query| query.name.clone()).unwrap_or_default(),
        qtype: query
            .map(|query| type_name(query.qtype))
            .unwrap_or_default(),
        rcode,
        ips: ips.into_iter().take(MAX_IPS).collect(),
        ttl: answer.map_or(0, |answer| answer.ttl),
        latency_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
    }
}
