//! What we say in upstream's place, whichever version it is written in.

use std::borrow::Cow;

use tidegate_wire::{grpc, http::HttpHead};

use crate::decide::http::Denial;

/// What of a reply depends on what was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asker {
    /// It answers HEAD: announce the body, do not send it.
    pub(super) head: bool,
    /// It answers a call, in the words of gRPC: a head that is the trailers too.
    pub(super) call: Option<grpc::Kind>,
}

impl Asker {
    /// Whoever sent this request.
    pub(super) fn of(head: &HttpHead<'_>) -> Self {
        Self {
            head: head.method == "HEAD",
            call: grpc::kind(head),
        }
    }
}

/// A response of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) location: Option<String>,
    /// `text/plain`.
    pub(super) body: Cow<'static, str>,
}

impl Reply {
    /// Why it cannot be served, as a line.
    pub(super) fn error(status: u16, reason: &str) -> Self {
        Self {
            status,
            location: None,
            body: Cow::Owned(format!("{reason}\r\n")),
        }
    }

    /// The client is to ask for this instead.
    pub(super) fn redirect(location: &str) -> Self {
        Self {
            status: 307,
            location: Some(location.to_owned()),
            body: Cow::Borrowed(""),
        }
    }

    /// The fields by which a client of gRPC understands the reply; its HTTP status is 200.
    pub(super) fn to_call(&self, kind: grpc::Kind) -> [(&'static str, Cow<'static, str>); 3] {
        let message = match &self.location {
            Some(location) => grpc::message(&format!("the path to ask for is {location}")),
            None => grpc::message(&self.body),
        };
        [
            ("content-type", kind.content_type().into()),
            ("grpc-status", grpc::of_http(self.status).to_string().into()),
            ("grpc-message", message.into()),
        ]
    }

    /// A plugin asked for a change to the header that nobody may make.
    pub(super) fn invalid_edit() -> Self {
        Self::error(500, "invalid header edit")
    }
}

impl From<Denial> for Reply {
    fn from(denial: Denial) -> Self {
        Self {
            status: denial.status,
            location: None,
            body: denial.body,
        }
    }
}
