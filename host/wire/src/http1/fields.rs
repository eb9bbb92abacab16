//! Header fields that decide about framing and about the life of a connection.

use super::HeadError;
use crate::http::{Header, Version};

/// What the fields of one head say about framing and the connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fields<'b> {
    pub(super) content_length: Option<u64>,
    pub(super) chunked: bool,
    pub(super) host: Option<&'b str>,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    /// An offered protocol is HTTP itself or TLS.
    pub(super) upgrade_to_http: bool,
    pub(super) expect_continue: bool,
}

impl<'b> Fields<'b> {
    pub(super) fn read(headers: &[Header<'b>], version: Version) -> Result<Self, HeadError> {
        let mut fields = Self::default();
        for header in headers {
            fields.take(header, version)?;
        }
        if fields.chunked && fields.content_length.is_some() {
            return Err(HeadError::TransferEncoding);
        }
        Ok(fields)
    }

    fn take(&mut self, header: &Header<'b>, version: Version) -> Result<(), HeadError> {
        // The length sorts out nearly every field before any comparison.
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        match header.name.len() {
            4 if is("host") => {
                let text = std::str::from_utf8(header.value).map_err(|_| HeadError::Host)?;
                if self.host.replace(text).is_some() {
                    return Err(HeadError::Host);
                }
            }
            6 if is("expect") => {
                self.expect_continue |= tokens(header.value).any(|t| eq(t, "100-continue"));
            }
            7 if is("upgrade") => {
                self.upgrade |= tokens(header.value).next().is_some();
                self.upgrade_to_http |= tokens(header.value).any(hides_http);
            }
            10 if is("connection") => {
                self.close |= tokens(header.value).any(|t| eq(t, "close"));
                self.keep_alive |= tokens(header.value).any(|t| eq(t, "keep-alive"));
            }
            14 if is("content-length") => {
                let length = content_length(header.value)?;
                if self.content_length.replace(length).is_some() {
                    return Err(HeadError::ContentLength);
                }
            }
            17 if is("transfer-encoding") => {
                let repeated = std::mem::replace(&mut self.chunked, true);
                if repeated || version == Version::Http10 || !eq(header.value, "chunked") {
                    return Err(HeadError::TransferEncoding);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Does the sender keep the connection open after this message?
    pub(super) fn persistent(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }
}

/// The elements of a comma-separated list, without blanks and empty elements.
pub(super) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// Would switching to this protocol carry requests past the inspector?
pub(super) fn hides_http(protocol: &[u8]) -> bool {
    let name = protocol.split(|&b| b == b'/').next().unwrap_or(protocol);
    ["h2c", "h2", "h3", "http", "tls"]
        .iter()
        .any(|known| eq(name, known))
}

fn eq(value: &[u8], expected: &str) -> bool {
    value.eq_ignore_ascii_case(expected.as_bytes())
}

/// One decimal number; a list, a sign or a blank is refused (RFC 9112 §6.3 lets us).
fn content_length(value: &[u8]) -> Result<u64, HeadError> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(HeadError::ContentLength);
    }
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(HeadError::ContentLength)
}
