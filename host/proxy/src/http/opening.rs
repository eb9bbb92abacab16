//! The request that opened a tunnel, so that it can be asked about again: nobody looks into
//! what goes through, so what was judged is all that can be judged.

use std::time::Instant;

use tidegate_contract::FailureKind::RulesChanged;
use tidegate_wire::http::{Header, HttpHead, Version};

use super::{exchange::Exchange, inspect::Inspector};
use crate::{decide::http::Verdict, flow::Standing};

/// A request that may open a tunnel, and what decided about it.
pub(super) struct Opening {
    standing: Standing,
    version: Version,
    method: String,
    path: String,
    authority: String,
    headers: Vec<(String, Box<[u8]>)>,
}

impl Opening {
    /// The request with this head, as it was decided about; `standing` is of before.
    pub(super) fn of(head: &HttpHead<'_>, standing: Standing) -> Self {
        let headers = head.headers.iter();
        Self {
            standing,
            version: head.version,
            method: head.method.to_owned(),
            path: head.path.to_owned(),
            authority: head.authority.to_owned(),
            headers: headers
                .map(|header| (header.name.to_owned(), header.value.into()))
                .collect(),
        }
    }

    /// Memory it takes, bytes.
    pub(super) fn memory(&self) -> usize {
        let headers = self.headers.iter();
        let texts = self.method.capacity() + self.path.capacity() + self.authority.capacity();
        let headers = headers.map(|(name, value)| name.capacity() + value.len());
        size_of::<Self>()
            + texts
            + headers.sum::<usize>()
            + self.headers.capacity() * size_of::<(String, Box<[u8]>)>()
    }

    /// May what comes through the tunnel still pass? If its rules have changed, the request is
    /// judged by them, and if they refuse it that is recorded.
    pub(super) fn still_passes(&self, inspector: &impl Inspector) -> bool {
        if inspector.stands(&self.standing) {
            return true;
        }
        let headers = self.headers.iter();
        let headers: Vec<_> = headers
            .map(|(name, value)| Header { name, value })
            .collect();
        let head = HttpHead {
            version: self.version,
            method: &self.method,
            path: &self.path,
            authority: &self.authority,
            headers: &headers,
        };
        let decision = inspector.decide_request(&head);
        let passes = !matches!(decision.verdict, Verdict::Deny(_));
        if !passes {
            let (now, scheme) = (Instant::now(), inspector.scheme());
            let exchange = Exchange::new(&head, decision.attribution, now, scheme);
            let why = RulesChanged.because("the rules of its tunnel have changed");
            exchange.failed(0, why, inspector);
        }
        passes
    }
}
