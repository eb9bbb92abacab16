//! From a request that was understood to what shall happen with it, and the same for its
//! response: one way for all versions of HTTP, so that they cannot decide differently.
//! No IO here.

use std::time::Instant;

use tidegate_contract::{
    Failure,
    FailureKind::{ClientProtocol, PluginFailed},
};
use tidegate_policy::http_options::{EscapedSlashes as Action, HttpOptions};
use tidegate_wire::{
    http::{CheckedEdit, HeaderEdit, HttpHead, ResponseHead},
    path::{EscapedSlashes, How, Normalised, normalise},
};

use super::{exchange::Exchange, inspect::Inspector, line::Line, reply::Reply};
use crate::decide::{
    Attribution,
    exchange::{Filters, Stop, Way},
    http::Verdict,
};

/// A request that may pass.
pub(super) struct Passed {
    /// The path to send instead of the one received, which upstream might read otherwise.
    pub(super) path: Option<String>,
    /// Changes to its header fields.
    pub(super) edit: Option<CheckedEdit>,
    /// Plugins want the response head.
    pub(super) sees_response: Sees,
    /// What the record will need.
    pub(super) exchange: Exchange,
}

/// Who wants to see the response.
#[derive(Clone, Debug, Default)]
pub(super) struct Sees {
    /// Plugins that judge heads.
    heads: bool,
    /// Those that take part in the exchange, and those of them may want its body.
    filters: Filters,
}

impl Sees {
    /// Does nobody?
    pub(super) fn is_nobody(&self) -> bool {
        !self.heads && !self.filters.see_response()
    }

    /// The request's way through the filters that want to see its body.
    pub(super) fn request_line(&self) -> Option<Line> {
        Line::new(Way::Request, self.filters.of_request())
    }
}

/// Decides about a request: first how its path is meant, then by the flow's rules.
///
/// # Errors
///
/// The answer to a request that may not pass. Its record is kept already.
pub(super) fn decide(
    head: HttpHead<'_>,
    began: Instant,
    inspector: &impl Inspector,
) -> Result<Passed, Reply> {
    // Refuses for a reason that is not a rule.
    let fail = |head: &HttpHead<'_>, attribution, reply: Reply, error: Failure| {
        Exchange::new(head, attribution, began, inspector.scheme()).failed(
            reply.status,
            error,
            inspector,
        );
        Err(reply)
    };
    let options = inspector.options();
    let path = match normalise(head.path, how(&options)) {
        Ok(Normalised::Unchanged) => None,
        Ok(Normalised::Changed(path)) => Some(path),
        Ok(Normalised::Redirect(path)) => {
            let reply = Reply::redirect(&path);
            return fail(
                &head,
                Attribution::default(),
                reply,
                ClientProtocol.because("escaped slash in path"),
            );
        }
        Err(error) => {
            let reason = error.to_string();
            let reply = Reply::error(400, &reason);
            return fail(
                &head,
                Attribution::default(),
                reply,
                ClientProtocol.because(reason),
            );
        }
    };
    let head = HttpHead {
        path: path.as_deref().unwrap_or(head.path),
        ..head
    };
    let decision = inspector.decide_request(&head);
    let attribution = decision.attribution;
    let edit = match decision.verdict {
        Verdict::Allow => None,
        Verdict::Edit(edit) => match edit.checked() {
            Ok(edit) => Some(edit),
            Err(error) => {
                return fail(
                    &head,
                    attribution,
                    Reply::invalid_edit(),
                    PluginFailed.because(error.to_string()),
                );
            }
        },
        Verdict::Deny(denial) => {
            Exchange::new(&head, attribution, began, inspector.scheme())
                .denied(denial.status, inspector);
            return Err(denial.into());
        }
    };
    let exchange = Exchange::new(&head, attribution, began, inspector.scheme());
    Ok(Passed {
        path,
        edit,
        sees_response: Sees {
            heads: decision.sees_response,
            filters: decision.filters,
        },
        exchange,
    })
}

/// What is done with paths, where documents say so.
fn how(options: &HttpOptions) -> How {
    let usual = How::default();
    let escaped = options.escaped_slashes.map(|action| match action {
        Action::Keep => EscapedSlashes::Keep,
        Action::Reject => EscapedSlashes::Reject,
        Action::UnescapeAndRedirect => EscapedSlashes::Redirect,
        Action::UnescapeAndForward => EscapedSlashes::Forward,
    });
    How {
        normalise: options.normalize_path.unwrap_or(usual.normalise),
        merge_slashes: options.merge_slashes.unwrap_or(usual.merge_slashes),
        escaped_slashes: escaped.unwrap_or(usual.escaped_slashes),
    }
}

/// What shall happen with a final response.
pub(super) enum Responded {
    /// Pass it on, with these changes to its header fields.
    Pass {
        edit: Option<CheckedEdit>,
        /// The way of its body through filters.
        line: Option<Line>,
    },
    /// Send this instead.
    Replace {
        reply: Reply,
        /// Why, if it is not a rule's refusal.
        error: Option<Failure>,
    },
}

impl Responded {
    /// A filter that wants to see bodies stopped it.
    fn stopped(stop: Stop, attribution: &mut Attribution) -> Self {
        let error = stop.attribution.error.clone();
        *attribution = *stop.attribution;
        Self::Replace {
            reply: stop.denial.into(),
            error,
        }
    }
}

/// Passes a response head through the plugins that asked for it; `bodyless` if it can have
/// no body. `attribution` is the request's, and then that of both.
pub(super) fn respond(
    (head, bodyless): (&ResponseHead<'_>, bool),
    attribution: &mut Attribution,
    sees: &Sees,
    inspector: &impl Inspector,
) -> Responded {
    let mut edit = HeaderEdit::default();
    if sees.heads {
        let decision = inspector.decide_response(std::mem::take(attribution), head);
        *attribution = decision.attribution;
        match decision.verdict {
            Verdict::Allow => {}
            Verdict::Edit(more) => edit = more,
            Verdict::Deny(denial) => {
                return Responded::Replace {
                    reply: denial.into(),
                    error: None,
                };
            }
        }
    }
    let line = match sees.filters.response(head, &mut edit, attribution) {
        Ok(filters) => Line::new(Way::Response, filters),
        Err(stop) => return Responded::stopped(stop, attribution),
    };
    let edit = (edit != HeaderEdit::default()).then(|| edit.checked());
    match edit.transpose() {
        Ok(edit) => match line {
            Some(line) if bodyless => match line.bodyless(edit, attribution) {
                Ok(edit) => Responded::Pass { edit, line: None },
                Err(stop) => Responded::stopped(*stop, attribution),
            },
            line => Responded::Pass { edit, line },
        },
        Err(error) => Responded::Replace {
            reply: Reply::invalid_edit(),
            error: Some(PluginFailed.because(error.to_string())),
        },
    }
}
