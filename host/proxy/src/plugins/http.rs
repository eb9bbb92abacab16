//! Plugins of HTTP.

use std::sync::Arc;

use tidegate_plugin_host::{
    BodyVerdict, Failure, HeadVerdict, HttpDecision, HttpExchange, TrailersVerdict, Way,
};
use tidegate_wire::http::{Header, HttpHead, ResponseHead};

use super::{Bound, WORKER};
use crate::decide::{
    Facts,
    exchange::HttpSession,
    http::{Denial, HttpAnswer, HttpFilter, Verdict},
};

impl HttpFilter for Bound {
    fn begin(&self, facts: &Arc<Facts>) -> Result<Option<Box<dyn HttpSession>>, Failure> {
        if !self.0.has_exchanges() {
            return Ok(None);
        }
        let exchange = WORKER.with_borrow_mut(|worker| worker.exchange_open(&self.0, facts))?;
        Ok(Some(Box::new(Open {
            exchange,
            sees_response: self.0.sees_responses(),
        })))
    }

    fn sees_responses(&self) -> bool {
        self.0.sees_responses() && !self.0.has_exchanges()
    }

    fn request(&self, head: &HttpHead<'_>, facts: &Arc<Facts>) -> Result<HttpAnswer, Failure> {
        WORKER
            .with_borrow_mut(|worker| worker.http_request(&self.0, head, facts))
            .map(answer)
    }

    fn response(&self, head: &ResponseHead<'_>, facts: &Arc<Facts>) -> Result<HttpAnswer, Failure> {
        WORKER
            .with_borrow_mut(|worker| worker.http_response(&self.0, head, facts))
            .map(answer)
    }
}

fn answer(decision: HttpDecision) -> HttpAnswer {
    let (verdict, rule) = match decision {
        HttpDecision::Allow { rule } => (Verdict::Allow, rule),
        HttpDecision::Edit { rule, edit } => (Verdict::Edit(edit), rule),
        HttpDecision::Deny(denial) => (
            Verdict::Deny(refusal(denial.status, denial.body)),
            denial.rule,
        ),
    };
    HttpAnswer { verdict, rule }
}

/// A plugin that has nothing to say leaves the usual words.
fn refusal(status: u16, body: String) -> Denial {
    match body.is_empty() {
        true => Denial {
            status,
            ..Denial::default()
        },
        false => Denial::text(status, body),
    }
}

/// An exchange of this thread.
struct Open {
    exchange: HttpExchange,
    sees_response: bool,
}

impl HttpSession for Open {
    fn sees_response(&self) -> bool {
        self.sees_response
    }

    fn request(&self, head: &HttpHead<'_>) -> Result<HeadVerdict, Failure> {
        WORKER.with_borrow_mut(|worker| worker.exchange_request(&self.exchange, head))
    }

    fn response(&self, head: &ResponseHead<'_>) -> Result<HeadVerdict, Failure> {
        WORKER.with_borrow_mut(|worker| worker.exchange_response(&self.exchange, head))
    }

    fn is_ready(&self) -> bool {
        WORKER.with_borrow_mut(|worker| worker.exchange_is_ready(&self.exchange))
    }

    fn body(&self, way: Way, data: &[u8], end: bool) -> Result<BodyVerdict, Failure> {
        WORKER.with_borrow_mut(|worker| worker.exchange_body(&self.exchange, way, data, end))
    }

    fn trailers(&self, way: Way, trailers: &[Header<'_>]) -> Result<TrailersVerdict, Failure> {
        WORKER.with_borrow_mut(|worker| worker.exchange_trailers(&self.exchange, way, trailers))
    }
}
