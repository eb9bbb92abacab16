//! Response heads.

use std::mem::MaybeUninit;

use super::{
    HeadError, MAX_FIELDS,
    body::Framing,
    fields::{Fields, Named},
    request::{from_httparse, version},
};
use crate::http::{Header, Version};

/// A response head that passed every check.
#[derive(Clone, Copy, Debug)]
pub struct Response<'h, 'b> {
    /// Version.
    pub version: Version,
    /// Status, 100–999.
    pub status: u16,
    /// Reason phrase; may be empty.
    pub reason: &'b str,
    /// Fields in order.
    pub headers: &'h [Header<'b>],
    /// What follows the head.
    pub framing: Framing,
    /// The server keeps the connection open afterwards.
    pub persistent: bool,
    /// Blanks stand between a name and its colon, where readers disagree: the head
    /// must be written again without them (RFC 9112 §5.1).
    pub padded_names: bool,
    upgrade: Named<'b>,
}

impl Response<'_, '_> {
    /// Does another response to the same request follow (1xx other than 101)?
    pub const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// Does it agree to WebSocket, and to nothing else?
    pub fn switches_to_websocket(&self) -> bool {
        self.status == 101 && self.upgrade.is_websocket()
    }
}

/// What of a request decides how its response is framed (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// HEAD: no response has a body.
    Head,
    /// CONNECT: a 2xx has no body, the tunnel follows.
    Connect,
    /// Any other method.
    Other,
}

impl Asked {
    /// By the method.
    pub fn by(method: &str) -> Self {
        match method {
            "HEAD" => Self::Head,
            "CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }
}

/// Parses a complete head, as [`super::HeadScan`] found it, and hands it to `use_it`.
pub fn with_response<R>(
    head: &[u8],
    asked: Asked,
    use_it: impl FnOnce(&Response<'_, '_>) -> R,
) -> Result<R, HeadError> {
    let mut table = [MaybeUninit::uninit(); MAX_FIELDS];
    let mut padded = [MaybeUninit::uninit(); MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let mut config = httparse::ParserConfig::default();
    let mut complete = config.parse_response_with_uninit_headers(&mut parsed, head, &mut table);
    let padded_names = complete == Err(httparse::Error::HeaderName);
    if padded_names {
        config.allow_spaces_after_header_name_in_responses(true);
        parsed = httparse::Response::new(&mut []);
        complete = config.parse_response_with_uninit_headers(&mut parsed, head, &mut padded);
    }
    let complete = complete.map_err(from_httparse)?;
    if complete != httparse::Status::Complete(head.len()) {
        return Err(HeadError::Malformed);
    }
    let version = version(parsed.version)?;
    let status = match parsed.code {
        Some(status @ 100..=999) => status,
        _ => return Err(HeadError::Malformed),
    };
    let fields = Fields::read(parsed.headers, version)?;
    let bodyless = status < 200
        || status == 204
        || status == 304
        || asked == Asked::Head
        || (asked == Asked::Connect && status < 300);
    let framing = match fields.content_length {
        _ if bodyless => Framing::Length(0),
        _ if fields.chunked => Framing::PaddedChunked,
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    };
    Ok(use_it(&Response {
        version,
        status,
        reason: parsed.reason.unwrap_or_default(),
        headers: parsed.headers,
        framing,
        persistent: fields.persistent(version) && framing != Framing::UntilClose,
        padded_names,
        upgrade: fields.upgrade,
    }))
}
