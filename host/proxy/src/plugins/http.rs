//! Plugins of HTTP.

use std::{borrow::Cow, sync::Arc};

use tidegate_plugin_host::{Failure, HttpDecision};
use tidegate_wire::http::{HttpHead, ResponseHead};

use super::{Bound, WORKER};
use crate::decide::{
    Facts,
    http::{Denial, HttpAnswer, HttpFilter, Verdict},
};

impl HttpFilter for Bound {
    fn sees_responses(&self) -> bool {
        self.0.sees_responses()
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
    let usual = Denial::default();
    Denial {
        status,
        body: if body.is_empty() {
            usual.body
        } else {
            Cow::Owned(body)
        },
    }
}
