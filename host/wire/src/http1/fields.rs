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
    /// What `Upgrade` names.
    pub(super) upgrade: Named<'b>,
    /// `Connection` says that `Upgrade` is meant (RFC 9110 §7.8).
    pub(super) means_upgrade: bool,
    /// Settings for HTTP/2 are there, or announced (RFC 7540 §3.2.1).
    pub(super) http2_settings: bool,
    pub(super) expect_continue: bool,
}

/// The protocols that the `Upgrade` fields of one head name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Named<'b> {
    #[default]
    Nothing,
    /// One field, its whole value: perhaps a list.
    Value(&'b [u8]),
    /// Several fields: a list, whatever they say.
    Several,
}

impl Named<'_> {
    /// The one protocol that we let a connection change to, and nothing besides: no
    /// list, no version, no parameter, which readers take for different things.
    pub(super) fn is_websocket(self) -> bool {
        matches!(self, Self::Value(value) if eq(value, "websocket"))
    }
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
                self.upgrade = match self.upgrade {
                    Named::Nothing => Named::Value(header.value),
                    Named::Value(_) | Named::Several => Named::Several,
                };
            }
            10 if is("connection") => {
                self.close |= tokens(header.value).any(|t| eq(t, "close"));
                self.keep_alive |= tokens(header.value).any(|t| eq(t, "keep-alive"));
                self.means_upgrade |= tokens(header.value).any(|t| eq(t, "upgrade"));
                self.http2_settings |= tokens(header.value).any(|t| eq(t, "http2-settings"));
            }
            14 if is("http2-settings") => self.http2_settings = true,
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

pub(super) fn eq(value: &[u8], expected: &str) -> bool {
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
