//! One request from its head to its record.

use std::time::Instant;

use tidegate_wire::{http::HttpHead, http1::Asked};

use super::inspect::{Attribution, Inspector};
use crate::observe::record::L7Summary;

/// A request that has no record yet.
#[derive(Debug)]
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
        let mut url = String::with_capacity(7 + head.authority.len() + head.path.len());
        url.push_str("http://");
        url.push_str(head.authority);
        url.push_str(head.path);
        Self {
            attribution,
            version: head.version.as_str(),
            asked: Asked::by(head.method),
            method: head.method.to_owned(),
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
