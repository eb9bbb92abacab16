//! Writes a head again where it may not pass as received: a plugin edited it, its
//! path was normalised, or it offered to change to a protocol that hides requests.

use std::fmt::Write as _;

use super::{
    chunked::is_token,
    fields::{hides_http, tokens},
    request::{Request, Upgrade},
    response::Response,
    target::Target,
};
use crate::http::{Header, HeaderEdit};

/// A plugin asked for a change that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The name is no token, or the value has control characters.
    #[error("header edit of {0:?} is not a valid field")]
    Invalid(String),
    /// The field decides about framing, routing or the connection.
    #[error("header {0:?} may not be edited")]
    Reserved(String),
}

/// Fields a plugin may not touch: the reader behind us frames and routes by them.
const RESERVED: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Checks every change of an edit.
pub(super) fn check_edit(edit: &HeaderEdit) -> Result<(), EditError> {
    let names = edit.set.iter().map(|(name, _)| name);
    for name in names.chain(&edit.remove) {
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(EditError::Invalid(name.clone()));
        }
        if RESERVED.iter().any(|r| name.eq_ignore_ascii_case(r)) {
            return Err(EditError::Reserved(name.clone()));
        }
    }
    for (name, value) in &edit.set {
        if value.bytes().any(|b| b != b'\t' && b.is_ascii_control()) {
            return Err(EditError::Invalid(name.clone()));
        }
    }
    Ok(())
}

/// What is different in the new head.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rewrite<'a> {
    /// Path and query to send instead.
    pub path: Option<&'a str>,
    /// Changes a plugin asked for.
    pub edit: Option<&'a HeaderEdit>,
}

impl Rewrite<'_> {
    /// Writes a request head, without its offers to change to HTTP/2 or TLS.
    pub fn encode_request(&self, request: &Request<'_, '_>) -> Result<Vec<u8>, EditError> {
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
            .filter(|header| !request.offers_hidden_http(header));
        self.encode_fields(kept, request.upgrade == Upgrade::HidesHttp, &mut out)?;
        Ok(out)
    }

    /// Writes a response head.
    pub fn encode_response(&self, response: &Response<'_, '_>) -> Result<Vec<u8>, EditError> {
        let mut line = String::with_capacity(512);
        let _ = write!(
            line,
            "{} {} {}\r\n",
            response.version.as_str(),
            response.status,
            response.reason
        );
        let mut out = line.into_bytes();
        self.encode_fields(response.headers.iter(), false, &mut out)?;
        Ok(out)
    }

    fn encode_fields<'h, 'b: 'h>(
        &self,
        headers: impl Iterator<Item = &'h Header<'b>>,
        without_upgrade: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), EditError> {
        if let Some(edit) = self.edit {
            check_edit(edit)?;
        }
        for header in headers.filter(|header| !self.drops(header.name)) {
            if without_upgrade && header.name.eq_ignore_ascii_case("connection") {
                push_connection_without_upgrade(header.value, out);
            } else {
                push_field(header.name, header.value, out);
            }
        }
        for (name, value) in self.edit.iter().flat_map(|edit| &edit.set) {
            push_field(name, value.as_bytes(), out);
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    fn drops(&self, name: &str) -> bool {
        self.edit.is_some_and(|edit| {
            let set = edit.set.iter().map(|(name, _)| name);
            set.chain(&edit.remove)
                .any(|gone| gone.eq_ignore_ascii_case(name))
        })
    }
}

fn push_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// `Connection` names the fields that are gone now; what else it says stays.
fn push_connection_without_upgrade(value: &[u8], out: &mut Vec<u8>) {
    let kept: Vec<&[u8]> = tokens(value)
        .filter(|token| {
            !token.eq_ignore_ascii_case(b"upgrade")
                && !token.eq_ignore_ascii_case(b"http2-settings")
                && !hides_http(token)
        })
        .collect();
    if !kept.is_empty() {
        push_field("connection", &kept.join(&b", "[..]), out);
    }
}
