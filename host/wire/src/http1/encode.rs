//! Writes a head again where it may not pass as received: a plugin edited it, its
//! path was normalised, or it offered to change to a protocol that hides requests.

use std::fmt::Write as _;

use super::{
    fields::{hides_http, tokens},
    request::{Request, Upgrade},
    response::Response,
    target::Target,
};
use crate::http::{EditError, Header, HeaderEdit};

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
            edit.check()?;
        }
        for header in
            headers.filter(|header| self.edit.is_none_or(|edit| !edit.replaces(header.name)))
        {
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
