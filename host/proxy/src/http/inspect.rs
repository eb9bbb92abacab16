//! What an HTTP connection asks of the flow it belongs to.

use std::{borrow::Cow, io};

use tidegate_contract::{L7Summary, Rehearsed};
use tidegate_wire::http::{HeaderEdit, HttpHead, ResponseHead};
use tokio::net::TcpStream;

/// The flow behind a connection: who decides, where upstream is, who keeps records.
pub trait Inspector {
    /// Opens the upstream leg; called at most once per connection. The implementation
    /// bounds the time it takes; [`io::ErrorKind::TimedOut`] becomes a 504, anything
    /// else a 502.
    fn connect_upstream(&self) -> impl Future<Output = io::Result<TcpStream>>;

    /// Passes a request head through the flow's plugin chains. Fail modes are
    /// applied already: there is always an answer.
    fn decide_request(&self, head: &HttpHead<'_>) -> Decision;

    /// Passes a final response head through the plugins that asked for responses;
    /// called only if [`Decision::sees_response`] was set. `request` is the
    /// attribution of the request, which the answer extends or replaces.
    fn decide_response(&self, request: Attribution, head: &ResponseHead<'_>) -> Decision;

    /// Keeps a record of one request. `status` in the summary is 0 if no response
    /// reached the client.
    fn record(&self, attribution: Attribution, allowed: bool, summary: L7Summary);
}

/// Status and reason for a client whose upstream leg could not be opened.
pub(super) fn no_upstream(error: &io::Error) -> (u16, String) {
    if error.kind() == io::ErrorKind::TimedOut {
        (504, "upstream timed out".to_owned())
    } else {
        (502, format!("upstream unreachable: {error}"))
    }
}

/// The answer to a head.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What to do with the message.
    pub verdict: Verdict,
    /// Who decided, for the record.
    pub attribution: Attribution,
    /// Some plugin in the chain wants the response head too.
    pub sees_response: bool,
}

/// What to do with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Pass the original bytes.
    Allow,
    /// Pass with these changes to its header fields.
    Edit(HeaderEdit),
    /// Answer instead of passing it.
    Deny(Denial),
}

/// A refusal, sent to the client instead of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Status, 400–599.
    pub status: u16,
    /// Body, `text/plain`.
    pub body: Cow<'static, str>,
}

impl Default for Denial {
    /// What Cilium's clients know: 403 and `Access denied`.
    fn default() -> Self {
        Self {
            status: 403,
            body: Cow::Borrowed("Access denied\r\n"),
        }
    }
}

/// Who decided, as it will stand in the record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attribution {
    /// Rules that decided, or that were asked and did not match: see `unmatched`.
    pub rules: Vec<u32>,
    /// It was refused because none of the rules asked matched.
    pub unmatched: bool,
    /// Plugin that refused or the last that allowed, as `name@version`.
    pub plugin: Option<String>,
    /// Why it failed, if that was not a policy decision.
    pub error: Option<String>,
    /// Direction of the rule set that refused (false: egress, true: ingress).
    pub ingress: bool,
    /// It was refused, and passed because denials are only reported (audit mode).
    pub audited: bool,
    /// What would become of it if what is in shadow were enforced, where that is
    /// something else. Apart: most have none.
    pub rehearsed: Option<Box<Rehearsed>>,
    /// Generation that decided.
    pub generation: u32,
    /// Which of the source's rule sets allowed a request: its rules are asked about the
    /// response.
    pub set: usize,
}
