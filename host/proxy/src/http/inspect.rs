//! What an HTTP connection asks of the flow it belongs to.

use std::io;

use tidegate_contract::{
    Failure,
    FailureKind::{Overload, UpstreamConnection, UpstreamTimeout},
    L7Summary,
};
use tidegate_policy::http_options::HttpOptions;
use tidegate_wire::http::{HttpHead, ResponseHead};

use super::reply::Reply;
use crate::{
    decide::{Attribution, http::Decision},
    flow::Standing,
    leg::Leg,
};

/// The flow behind a connection: who decides, where upstream is, who keeps records.
pub(crate) trait Inspector {
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

    /// What decides about requests at present, to be compared later.
    fn standing(&self) -> Standing {
        Standing::default()
    }

    /// Does the same decide as when this was made or asked about? If not a request that has
    /// opened a tunnel is decided again.
    fn stands(&self, _: &Standing) -> bool {
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
    pub(super) error: Failure,
}

impl NoUpstream {
    /// What the client is told.
    pub(super) fn reply(&self) -> Reply {
        Reply::error(self.status, &self.told)
    }
}

impl From<io::Error> for NoUpstream {
    fn from(error: io::Error) -> Self {
        let (status, told, kind) = match error.kind() {
            io::ErrorKind::TimedOut => (504, "upstream timed out", UpstreamTimeout),
            io::ErrorKind::OutOfMemory => (502, "upstream unreachable", Overload),
            _ => (502, "upstream unreachable", UpstreamConnection),
        };
        // Who opens the leg may know better.
        let known = error.get_ref().and_then(|error| error.downcast_ref());
        let kind = known.map_or(kind, |failure: &Failure| failure.kind);
        let of_the_kernel = error.raw_os_error().is_some();
        let what = match status {
            504 => told.to_owned(),
            _ => format!("{told}: {error}"),
        };
        Self {
            status,
            told: match of_the_kernel {
                true => what.clone(),
                false => told.to_owned(),
            },
            error: kind.because(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_contract::FailureKind::UpstreamTls;

    use super::*;

    #[test]
    fn whoever_opens_the_leg_says_what_kind_of_failure_it_was() {
        let tls = UpstreamTls.because("TLS with a.example failed: expired");
        let cases = [
            (
                io::ErrorKind::TimedOut.into(),
                (504, UpstreamTimeout, "upstream timed out"),
            ),
            (
                io::Error::from_raw_os_error(libc::ECONNREFUSED),
                (
                    502,
                    UpstreamConnection,
                    "upstream unreachable: Connection refused (os error 111)",
                ),
            ),
            (
                crate::budget::no_memory(),
                (
                    502,
                    Overload,
                    "upstream unreachable: no memory is left for this client",
                ),
            ),
            (
                io::Error::new(io::ErrorKind::ConnectionRefused, tls),
                (
                    502,
                    UpstreamTls,
                    "upstream unreachable: TLS with a.example failed: expired",
                ),
            ),
        ];
        for (error, (status, kind, what)) in cases {
            let said = NoUpstream::from(error);
            let error = &said.error;
            assert_eq!(
                (said.status, error.kind, error.what()),
                (status, kind, what)
            );
        }
    }
}
