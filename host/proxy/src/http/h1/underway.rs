//! The request under way, and what is still to be recorded of it.

use std::cell::RefCell;

use tidegate_contract::{Failure, FailureKind::UpstreamProtocol};
use tidegate_wire::http1::Asked;

use crate::{
    decide::Attribution,
    http::{
        exchange::{BROKE_OFF, Exchange},
        inspect::Inspector,
        reply::Asker,
    },
};

/// At most one request, from its decision to the last byte of its response.
pub(super) struct Underway<'a, I> {
    inspector: &'a I,
    entry: RefCell<Option<Entry>>,
}

struct Entry {
    exchange: Exchange,
    /// Status of the response whose head is being passed on. The record is kept already,
    /// because a body may take hours; one that breaks off gets a second record.
    answered: Option<u16>,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// There is none.
    Nothing,
    /// No byte of a final response has been passed on.
    Asked,
    /// Its final response is being passed on.
    Answered,
}

impl<'a, I: Inspector> Underway<'a, I> {
    pub(super) fn new(inspector: &'a I) -> Self {
        Self {
            inspector,
            entry: RefCell::new(None),
        }
    }

    pub(super) fn begin(&self, exchange: Exchange) {
        *self.entry.borrow_mut() = Some(Entry {
            exchange,
            answered: None,
        });
    }

    pub(super) fn progress(&self) -> Progress {
        match &*self.entry.borrow() {
            None => Progress::Nothing,
            Some(Entry { answered: None, .. }) => Progress::Asked,
            Some(_) => Progress::Answered,
        }
    }

    /// What the framing of its response depends on.
    pub(super) fn asked(&self) -> Asked {
        let entry = self.entry.borrow();
        entry
            .as_ref()
            .map_or(Asked::Other, |entry| entry.exchange.asked)
    }

    /// What an answer of ours depends on.
    pub(super) fn asker(&self) -> Asker {
        let entry = self.entry.borrow();
        entry
            .as_ref()
            .map_or(Asker::default(), |entry| entry.exchange.asker())
    }

    /// Lets who decided about the request be changed by who decides about its response;
    /// `None` if there is no request.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Attribution, &I) -> R) -> Option<R> {
        let mut entry = self.entry.borrow_mut();
        let entry = entry.as_mut()?;
        Some(change(&mut entry.exchange.attribution, self.inspector))
    }

    /// Upstream's head says this of the status of a call.
    pub(super) fn says(&self, grpc_status: Option<u32>) {
        if let Some(entry) = &mut *self.entry.borrow_mut() {
            entry.exchange.says(grpc_status);
        }
    }

    /// Upstream's response is being passed on; `whole` if nothing of it is still to come.
    pub(super) fn answered(&self, status: u16, whole: bool) {
        let Some(Entry { exchange, .. }) = self.entry.take() else {
            return;
        };
        if !whole {
            *self.entry.borrow_mut() = Some(Entry {
                exchange: exchange.clone(),
                answered: Some(status),
            });
        }
        exchange.answered(status, self.inspector);
    }

    /// The whole response was passed on.
    pub(super) fn complete(&self) {
        self.entry.take();
    }

    /// The response was refused.
    pub(super) fn denied(&self, status: u16) {
        if let Some(Entry { exchange, .. }) = self.entry.take() {
            exchange.denied(status, self.inspector);
        }
    }

    /// A filter that saw its body stopped it, with an answer of this status.
    pub(super) fn stopped(&self, by: Attribution, status: u16) -> Option<u16> {
        let error = by.error.clone();
        let mut entry = self.entry.borrow_mut();
        entry.as_mut()?.exchange.stopped_by(by);
        drop(entry);
        match error {
            None => self.denied(status),
            Some(error) => self.failed(status, error),
        }
        Some(status)
    }

    /// It came to nothing, `status` being our answer (0: none), or its response broke off.
    pub(super) fn failed(&self, status: u16, error: Failure) {
        match self.entry.take() {
            Some(Entry {
                exchange,
                answered: Some(status),
            }) => exchange.failed(status, error.within(BROKE_OFF), self.inspector),
            Some(Entry { exchange, .. }) => exchange.failed(status, error, self.inspector),
            None => {}
        }
    }

    /// The client left. That it did not want the rest of a response is no failure.
    pub(super) fn abandoned(&self, error: Failure) {
        match self.progress() {
            Progress::Answered => self.complete(),
            Progress::Nothing | Progress::Asked => self.failed(0, error),
        }
    }

    /// Upstream sent bytes that answer no request (RFC 9112 §9.2).
    pub(super) fn unasked(&self) {
        let error = UpstreamProtocol.because(UNASKED);
        Exchange::unreadable("HTTP/1.1", error.clone()).failed(0, error, self.inspector);
    }
}

/// What the record says of a response without a request.
pub(super) const UNASKED: &str = "upstream sent a response that nobody asked for";
