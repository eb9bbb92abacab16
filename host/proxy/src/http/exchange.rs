//! One request from its head to its record.

use std::time::Instant;

use tidegate_contract::L7Summary;
use tidegate_wire::{http::HttpHead, http1::Asked};

use super::inspect::Inspector;
use crate::{decide::Attribution, records::MAX_TEXT};

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
    began: Instant,
}

impl Exchange {
    /// A request that was understood.
    pub(super) fn new(head: &HttpHead<'_>, attribution: Attribution, began: Instant) -> Self {
        // A record takes no more of it; and who waits for an answer should not cost
        // what a long path does.
        let mut url = String::with_capacity(
            MAX_TEXT.min("http://".len() + head.authority.len() + head.path.len()),
        );
        for part in ["http://", head.authority, head.path] {
            let room = MAX_TEXT - url.len();
            url.push_str(&part[..part.floor_char_boundary(room)]);
        }
        Self {
            attribution,
            version: head.version.as_str(),
            asked: Asked::by(head.method),
            method: head.method[..head.method.floor_char_boundary(MAX_TEXT)].to_owned(),
            url,
            began,
        }
    }

    /// A request that was not.
    pub(super) fn unreadable(version: &'static str, error: String) -> Self {
        Self {
            attribution: Attribution {
                error: Some(error),
                ..Attribution::default()
            },
            version,
            asked: Asked::Other,
            method: String::new(),
            url: String::new(),
            began: Instant::now(),
        }
    }

    /// Heap memory it takes until it has a record, bytes.
    pub(super) fn memory(&self) -> usize {
        let attribution = &self.attribution;
        let rehearsed = attribution.rehearsed.as_ref();
        let in_shadow = rehearsed.and_then(|rehearsed| rehearsed.error.as_ref());
        let texts = [&attribution.plugin, &attribution.error].map(Option::as_ref);
        let texts = texts.into_iter().flatten().chain(in_shadow);
        self.url.capacity()
            + self.method.capacity()
            + size_of_val(&attribution.rules[..])
            + rehearsed.map_or(0, |rehearsed| {
                size_of_val(&**rehearsed) + size_of_val(&rehearsed.rules[..])
            })
            + texts.map(String::capacity).sum::<usize>()
    }

    /// Does its response have no body?
    pub(super) fn is_to_head(&self) -> bool {
        self.asked == Asked::Head
    }

    /// Passed, and answered by upstream.
    pub(super) fn answered(self, status: u16, inspector: &impl Inspector) {
        self.finish(true, status, inspector);
    }

    /// Refused.
    pub(super) fn denied(self, status: u16, inspector: &impl Inspector) {
        self.finish(false, status, inspector);
    }

    /// Passed or not, it came to nothing for another reason than policy.
    pub(super) fn failed(mut self, status: u16, error: &str, inspector: &impl Inspector) {
        self.attribution
            .error
            .get_or_insert_with(|| error.to_owned());
        self.finish(false, status, inspector);
    }

    fn finish(self, allowed: bool, status: u16, inspector: &impl Inspector) {
        let latency_us = self.began.elapsed().as_micros();
        let summary = L7Summary::Http {
            version: self.version.into(),
            method: self.method,
            url: self.url,
            status,
            latency_us: u64::try_from(latency_us).unwrap_or(u64::MAX),
        };
        inspector.record(self.attribution, allowed, summary);
    }
}
