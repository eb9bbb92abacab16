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
    /// Fields that a plugin sets.
    pub(super) headers: Vec<(String, String)>,
    /// `text/plain`, if no field says otherwise.
    pub(super) body: Cow<'static, [u8]>,
}

impl Reply {
    /// Why it cannot be served, as a line.
    pub(super) fn error(status: u16, reason: &str) -> Self {
        Self {
            status,
            location: None,
            headers: Vec::new(),
            body: Cow::Owned(format!("{reason}\r\n").into_bytes()),
        }
    }

    /// The client is to ask for this instead.
    pub(super) fn redirect(location: &str) -> Self {
        Self {
            status: 307,
            location: Some(location.to_owned()),
            headers: Vec::new(),
            body: Cow::Borrowed(b""),
        }
    }

    /// The fields by which a client of gRPC understands the reply; its HTTP status is 200.
    pub(super) fn to_call(&self, kind: grpc::Kind) -> [(&'static str, Cow<'static, str>); 3] {
        let message = match &self.location {
            Some(location) => grpc::message(&format!("the path to ask for is {location}")),
            None => grpc::message(&String::from_utf8_lossy(&self.body)),
        };
        [
            ("content-type", kind.content_type().into()),
            ("grpc-status", grpc::of_http(self.status).to_string().into()),
            ("grpc-message", message.into()),
        ]
    }

    /// The fields of the reply, but for those that frame it.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let typed = self.headers.iter().any(|(name, _)| name == "content-type");
        let text = (!typed && !self.is_bodyless()).then_some(("content-type", "text/plain"));
        let location = self.location.iter().map(|to| ("location", &**to));
        let set = self.headers.iter().map(|(name, value)| (&**name, &**value));
        text.into_iter().chain(location).chain(set)
    }

    /// Can it have a body (RFC 9110 §15.3.5, §15.4.5)?
    pub(super) fn is_bodyless(&self) -> bool {
        matches!(self.status, 204 | 304)
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
            headers: denial.headers,
            body: denial.body,
        }
    }
}
