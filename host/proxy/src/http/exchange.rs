//! One request from its head to its record.

use std::time::{Duration, Instant};

use tidegate_contract::{Failure, FailureKind::ClientClosed, GrpcCall, L7Summary};
use tidegate_wire::{grpc, http::HttpHead, http1::Asked};

use super::{
    inspect::Inspector,
    reply::{Asker, Reply},
};
use crate::{
    decide::{Attribution, exchange::Stop},
    records::MAX_TEXT,
};

/// A request, until its record is kept.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    /// Who decided.
    pub(super) attribution: Attribution,
    version: &'static str,
    /// What the response's framing depends on.
    pub(super) asked: Asked,
    method: String,
    url: String,
    /// Where in it the path begins.
    path_at: usize,
    began: Instant,
    /// How it is written, if it is a call of gRPC.
    call: Option<grpc::Kind>,
    /// What the call's answer says of its status so far.
    grpc_status: Option<u32>,
    /// Status of a response whose head was passed on, and how long that took.
    answered: Option<(u16, u64)>,
}

/// What is said of a response of which the head was passed on already.
pub(super) const BROKE_OFF: &str = "the response broke off";

impl Exchange {
    /// A request that was understood.
    pub(super) fn new(
        head: &HttpHead<'_>,
        attribution: Attribution,
        began: Instant,
        scheme: &str,
    ) -> Self {
        // A record takes no more of it; and who waits for an answer should not cost
        // what a long path does.
        let mut url = String::with_capacity(
            MAX_TEXT.min(scheme.len() + "://".len() + head.authority.len() + head.path.len()),
        );
        let mut path_at = 0;
        for part in [scheme, "://", head.authority, head.path] {
            path_at = url.len();
            let room = MAX_TEXT - url.len();
            url.push_str(&part[..part.floor_char_boundary(room)]);
        }
        Self {
            attribution,
            version: head.version.as_str(),
            asked: Asked::by(head.method),
            method: head.method[..head.method.floor_char_boundary(MAX_TEXT)].to_owned(),
            url,
            path_at,
            began,
            call: grpc::kind(head),
            grpc_status: None,
            answered: None,
        }
    }

    /// A request that was not.
    pub(super) fn unreadable(version: &'static str, error: Failure) -> Self {
        Self {
            attribution: Attribution {
                error: Some(error),
                ..Attribution::default()
            },
            version,
            asked: Asked::Other,
            method: String::new(),
            url: String::new(),
            path_at: 0,
            began: Instant::now(),
            call: None,
            grpc_status: None,
            answered: None,
        }
    }

    /// A filter that saw a body stopped it.
    pub(super) fn stopped_by(&mut self, by: Attribution) {
        self.attribution = Attribution {
            rehearsed: self.attribution.rehearsed.take(),
            generation: self.attribution.generation,
            ..by
        };
    }

    /// A filter that wants to see a body stopped it; the answer instead.
    pub(super) fn stopped(mut self, stop: Stop, inspector: &impl Inspector) -> Reply {
        let (status, error) = (stop.denial.status, stop.attribution.error.clone());
        self.stopped_by(*stop.attribution);
        match error {
            None => self.denied(status, inspector),
            Some(error) => self.failed(status, error, inspector),
        }
        stop.denial.into()
    }

    /// Heap memory it takes until it has a record, bytes.
    pub(super) fn memory(&self) -> usize {
        let attribution = &self.attribution;
        let rehearsed = attribution.rehearsed.as_ref();
        let in_shadow = rehearsed.and_then(|rehearsed| rehearsed.error.as_ref());
        let errors = attribution.error.iter().chain(in_shadow);
        let plugin = attribution.plugin.as_ref();
        self.url.capacity()
            + self.method.capacity()
            + size_of_val(&attribution.rules[..])
            + rehearsed.map_or(0, |rehearsed| {
                size_of_val(&**rehearsed) + size_of_val(&rehearsed.rules[..])
            })
            + plugin.map_or(0, String::capacity)
            + errors.map(Failure::memory).sum::<usize>()
    }

    /// What an answer of ours depends on.
    pub(super) fn asker(&self) -> Asker {
        Asker {
            head: self.asked == Asked::Head,
            call: self.call,
        }
    }

    /// How long ago it came.
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Is how it went told by trailers? Then its record waits for them.
    pub(super) fn ends_in_trailers(&self) -> bool {
        self.call == Some(grpc::Kind::Plain)
    }

    /// Upstream's head or trailers say this of the status of the call.
    pub(super) fn says(&mut self, grpc_status: Option<u32>) {
        if self.call.is_some() {
            self.grpc_status = grpc_status.or(self.grpc_status);
        }
    }

    /// Upstream's head is passed on; the rest is still to come.
    pub(super) fn begins_to_be_answered(&mut self, status: u16) {
        self.answered = Some((status, self.elapsed_us()));
    }

    /// The rest has come.
    pub(super) fn ended(self, inspector: &impl Inspector) {
        self.finish(true, 0, inspector);
    }

    /// The client did not want the rest.
    pub(super) fn left(mut self, reason: &str, inspector: &impl Inspector) {
        self.attribution
            .error
            .get_or_insert_with(|| ClientClosed.because(reason.to_owned()));
        self.finish(true, 0, inspector);
    }

    /// Passed, and answered by upstream.
    pub(super) fn answered(self, status: u16, inspector: &impl Inspector) {
        self.finish(true, status, inspector);
    }

    /// Refused, with a reply of this status.
    pub(super) fn denied(mut self, status: u16, inspector: &impl Inspector) {
        let status = self.replied(status);
        self.finish(false, status, inspector);
    }

    /// Passed or not, it came to nothing for another reason than policy; `status` is that
    /// of our reply, 0 without one.
    pub(super) fn failed(mut self, status: u16, error: Failure, inspector: &impl Inspector) {
        let error = match self.answered {
            Some(_) => error.within(BROKE_OFF),
            None => error,
        };
        self.attribution.error.get_or_insert(error);
        let status = self.replied(status);
        self.finish(false, status, inspector);
    }

    /// The status on the wire of a reply of ours: to a call it is gRPC's that tells.
    fn replied(&mut self, status: u16) -> u16 {
        match (status, self.call) {
            (0, _) | (_, None) => status,
            (_, Some(_)) => {
                self.grpc_status = Some(grpc::of_http(status));
                200
            }
        }
    }

    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn finish(self, allowed: bool, status: u16, inspector: &impl Inspector) {
        let (status, latency_us) = self.answered.unwrap_or((status, self.elapsed_us()));
        let grpc = self.call.map(|_| {
            let (service, method) = grpc::called(&self.url[self.path_at..]);
            GrpcCall {
                service: service.to_owned(),
                method: method.to_owned(),
                status: self.grpc_status,
            }
        });
        let summary = L7Summary::Http {
            version: self.version.into(),
            method: self.method,
            url: self.url,
            status,
            grpc,
            latency_us,
        };
        inspector.record(self.attribution, allowed, summary);
    }
}
