//! Responses of our own.

use std::fmt::Write as _;

use tidegate_wire::http1::Asked;

use crate::http::reply::Reply;

/// A response we send instead of upstream's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer<'a> {
    pub(super) reply: &'a Reply,
    /// Say that the connection ends.
    pub(super) close: bool,
    /// It answers HEAD: announce the body, do not send it.
    pub(super) to_head: bool,
}

impl<'a> Answer<'a> {
    /// The connection ends with this.
    pub(super) fn last(reply: &'a Reply) -> Self {
        Self {
            reply,
            close: true,
            to_head: false,
        }
    }

    /// The same to this kind of request: to HEAD without its body (RFC 9110 §9.3.2).
    pub(super) fn to(self, asked: Asked) -> Self {
        let to_head = asked == Asked::Head;
        Self { to_head, ..self }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let Reply {
            status,
            location,
            body,
        } = self.reply;
        let (status, length) = (*status, body.len());
        let mut text = String::with_capacity(160 + length);
        let _ = write!(text, "HTTP/1.1 {status} {}\r\n", reason(status));
        let _ = write!(text, "content-length: {length}\r\n");
        text.push_str("content-type: text/plain\r\n");
        if let Some(location) = location {
            let _ = write!(text, "location: {location}\r\n");
        }
        if self.close {
            text.push_str("connection: close\r\n");
        }
        text.push_str("\r\n");
        if !self.to_head {
            text.push_str(body);
        }
        text.into_bytes()
    }
}

/// The usual phrase; clients do not depend on it.
fn reason(status: u16) -> &'static str {
    match status {
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
        _ => "Refused",
    }
}
