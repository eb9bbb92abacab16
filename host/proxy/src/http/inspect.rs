//! What an HTTP connection asks of the flow it belongs to.

use std::io;

use tidegate_contract::L7Summary;
use tidegate_policy::http_options::HttpOptions;
use tidegate_wire::http::{HttpHead, ResponseHead};

use super::reply::Reply;
use crate::{
    decide::{Attribution, http::Decision},
    leg::Leg,
};

/// The flow behind a connection: who decides, where upstream is, who keeps records.
pub trait Inspector {
    /// Opens the upstream leg; called at most once per connection. The implementation
    /// bounds the time it takes; [`io::ErrorKind::TimedOut`] becomes a 504, anything
    /// else a 502.
    fn connect_upstream(&self) -> impl Future<Output = io::Result<Leg>>;

    /// How requests' places begin: `https` where a client's TLS ends here.
    fn scheme(&self) -> &'static str {
        "http"
    }

    /// How HTTP is carried on this flow, as its rules say at present.
    fn options(&self) -> HttpOptions;

    /// Shall the connection end, because it cannot be what its rules want by now?
    fn is_over(&self) -> bool {
        false
    }

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

/// What is said where the upstream leg could not be opened.
pub(super) struct NoUpstream {
    pub(super) status: u16,
    /// To the client, which may be anybody: that it is so, and no more than it would have
    /// learned from the kernel without us.
    told: String,
    /// In the record: the names a certificate holds, the secret that is not there.
    pub(super) error: String,
}

impl NoUpstream {
    /// What the client is told.
    pub(super) fn reply(&self) -> Reply {
        Reply::error(self.status, &self.told)
    }
}

impl From<io::Error> for NoUpstream {
    fn from(error: io::Error) -> Self {
        let (status, told) = match error.kind() {
            io::ErrorKind::TimedOut => (504, "upstream timed out"),
            _ => (502, "upstream unreachable"),
        };
        let of_the_kernel = error.raw_os_error().is_some();
        let error = match status {
            504 => told.to_owned(),
            _ => format!("{told}: {error}"),
        };
        Self {
            status,
            told: match of_the_kernel {
                true => error.clone(),
                false => told.to_owned(),
            },
            error,
        }
    }
}
