//! Responses of our own.

use std::fmt::Write as _;

use crate::http::reply::{Asker, Reply};

/// A response we send instead of upstream's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer<'a> {
    pub(super) reply: &'a Reply,
    /// Say that the connection ends.
    pub(super) close: bool,
    /// What it answers.
    pub(super) asker: Asker,
}

impl<'a> Answer<'a> {
    /// The connection ends with this.
    pub(super) fn last(reply: &'a Reply) -> Self {
        Self {
            reply,
            close: true,
            asker: Asker::default(),
        }
    }

    /// The same to this kind of request: to HEAD without its body (RFC 9110 §9.3.2).
    pub(super) fn to(self, asker: Asker) -> Self {
        Self { asker, ..self }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let Reply { status, body, .. } = self.reply;
        let mut text = String::with_capacity(160 + body.len());
        if let Some(kind) = self.asker.call {
            text.push_str("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n");
            for (name, value) in self.reply.to_call(kind) {
                let _ = write!(text, "{name}: {value}\r\n");
            }
        } else {
            let (status, length) = (*status, body.len());
            let _ = write!(text, "HTTP/1.1 {status} {}\r\n", reason(status));
            if !self.reply.is_bodyless() {
                let _ = write!(text, "content-length: {length}\r\n");
            }
            for (name, value) in self.reply.fields() {
                let _ = write!(text, "{name}: {value}\r\n");
            }
        }
        if self.close {
            text.push_str("connection: close\r\n");
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        if !self.asker.head && self.asker.call.is_none() && !self.reply.is_bodyless() {
            bytes.extend_from_slice(body);
        }
        bytes
    }
}

/// The usual phrase; clients do not depend on it.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        other if other < 400 => "Answered",
        _ => "Refused",
    }
}
