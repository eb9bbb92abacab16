//! Writes a head again where it may not pass as received: a plugin edited it, its
//! path was normalised, it offered to change to a protocol that hides requests, or it
//! has blanks that must not go on.

use std::fmt::Write as _;

use super::{
    fields::{eq, tokens},
    request::{Request, Upgrade},
    response::Response,
    target::Target,
};
use crate::http::{CheckedEdit, Header};

/// What is different in the new head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrite<'a> {
    /// Path and query to send instead.
    pub path: Option<&'a str>,
    /// Changes a plugin asked for.
    pub edit: Option<&'a CheckedEdit>,
    /// Says that the connection ends with this message, whatever the sender said.
    pub close: bool,
}

/// What becomes of `Connection`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Connection {
    /// It passes as it is.
    Kept,
    /// The offer that it names is gone.
    WithoutUpgrade,
    /// It says `close`.
    Close,
}

impl Rewrite<'_> {
    /// Writes a request head, without an offer to change to what may not pass.
    pub fn encode_request(&self, request: &Request<'_, '_>) -> Vec<u8> {
        let mut line = String::with_capacity(512);
        line.push_str(request.method);
        line.push(' ');
        match (request.target, self.path) {
            (Target::Absolute { prefix, path, .. }, new) => {
                line.push_str(prefix);
                line.push_str(new.unwrap_or(path));
            }
            (Target::Origin(path), new) => line.push_str(new.unwrap_or(path)),
            (Target::Authority(authority), _) => line.push_str(authority),
            (Target::Asterisk, _) => line.push('*'),
        }
        let _ = write!(line, " {}\r\n", request.version.as_str());
        let mut out = line.into_bytes();
        let kept = request
            .headers
            .iter()
            .filter(|header| !request.takes_out(header));
        let connection = match request.upgrade {
            _ if self.close => Connection::Close,
            Upgrade::TakenOut => Connection::WithoutUpgrade,
            Upgrade::No | Upgrade::WebSocket => Connection::Kept,
        };
        self.encode_fields(kept, connection, &mut out);
        out
    }

    /// Writes a response head.
    pub fn encode_response(&self, response: &Response<'_, '_>) -> Vec<u8> {
        let mut line = String::with_capacity(512);
        let _ = write!(
            line,
            "{} {} {}\r\n",
            response.version.as_str(),
            response.status,
            response.reason
        );
        let mut out = line.into_bytes();
        let connection = match self.close {
            true => Connection::Close,
            false => Connection::Kept,
        };
        self.encode_fields(response.headers.iter(), connection, &mut out);
        out
    }

    fn encode_fields<'h, 'b: 'h>(
        &self,
        headers: impl Iterator<Item = &'h Header<'b>>,
        connection: Connection,
        out: &mut Vec<u8>,
    ) {
        for header in
            headers.filter(|header| self.edit.is_none_or(|edit| !edit.replaces(header.name)))
        {
            if !header.name.eq_ignore_ascii_case("connection") {
                push_field(header.name, header.value, out);
                continue;
            }
            let gone: &[&str] = match connection {
                Connection::Kept => &[],
                Connection::WithoutUpgrade => &["upgrade", "http2-settings"],
                Connection::Close => &["keep-alive", "close"],
            };
            // Whoever is behind takes out what `Connection` names (RFC 9110 §7.6.1): what was
            // set on the way is the message's, whatever its sender says.
            let set = self.edit.iter().flat_map(|edit| &edit.set);
            let set: Vec<&str> = set.map(|(name, _)| &**name).collect();
            let is_gone = |token: &[u8]| gone.iter().chain(&set).any(|gone| eq(token, gone));
            if tokens(header.value).any(is_gone) {
                push_connection_without(header.value, is_gone, out);
            } else {
                push_field(header.name, header.value, out);
            }
        }
        if connection == Connection::Close {
            push_field("connection", b"close", out);
        }
        for (name, value) in self.edit.iter().flat_map(|edit| &edit.set) {
            push_field(name, value.as_bytes(), out);
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn push_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// `Connection` without what is not true any more; what else it says stays.
fn push_connection_without(value: &[u8], is_gone: impl Fn(&[u8]) -> bool, out: &mut Vec<u8>) {
    let kept: Vec<&[u8]> = tokens(value).filter(|token| !is_gone(token)).collect();
    if !kept.is_empty() {
        push_field("connection", &kept.join(&b", "[..]), out);
    }
}
