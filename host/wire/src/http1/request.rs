//! Request heads.

use std::mem::MaybeUninit;

use super::{
    HeadError, MAX_FIELDS,
    body::Framing,
    fields::{Fields, Named},
    target::Target,
};
use crate::http::{Header, Version};

/// A request head that passed every check.
#[derive(Clone, Copy, Debug)]
pub struct Request<'h, 'b> {
    /// Version.
    pub version: Version,
    /// Method.
    pub method: &'b str,
    /// Target.
    pub target: Target<'b>,
    /// The target's authority, else `Host`; empty if HTTP/1.0 sent neither.
    pub authority: &'b str,
    /// Fields in order.
    pub headers: &'h [Header<'b>],
    /// What follows the head.
    pub framing: Framing,
    /// The client keeps the connection open afterwards.
    pub persistent: bool,
    /// The client waits for a 100 before it sends the body.
    pub expect_continue: bool,
    /// Protocol change offered.
    pub upgrade: Upgrade,
}

/// A protocol change offered by a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// None.
    No,
    /// To WebSocket and nothing else, well formed (RFC 6455 §4.1): a GET without a body.
    WebSocket,
    /// Anything else. Later requests could pass unseen in it, under any spelling that
    /// one server understands, so the offer must be taken out: a server may ignore it
    /// anyway (RFC 9110 §7.8).
    TakenOut,
}

/// Parses a complete head, as [`super::HeadScan`] found it, and hands it to `use_it`.
/// (A closure, because the field table lives on this function's stack.)
pub fn with_request<R>(
    head: &[u8],
    use_it: impl FnOnce(&Request<'_, '_>) -> R,
) -> Result<R, HeadError> {
    let mut table = [MaybeUninit::uninit(); MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let status = parsed
        .parse_with_uninit_headers(head, &mut table)
        .map_err(from_httparse)?;
    if status != httparse::Status::Complete(head.len()) {
        return Err(HeadError::Malformed);
    }
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
        return Err(HeadError::Malformed);
    };
    let version = version(parsed.version)?;
    let fields = Fields::read(parsed.headers, version)?;
    if version == Version::Http11 && fields.host.is_none() {
        return Err(HeadError::Host);
    }
    let target = Target::parse(method, target)?;
    let authority = target.authority(fields.host)?;
    // A CONNECT has no body (RFC 9110 §9.3.6); one that claims to is read apart.
    if method == "CONNECT" && (fields.chunked || fields.content_length.is_some()) {
        return Err(HeadError::ContentLength);
    }
    let framing = match fields.content_length {
        _ if fields.chunked => Framing::Chunked,
        Some(length) => Framing::Length(length),
        None => Framing::Length(0),
    };
    let plain_get = method == "GET" && version == Version::Http11 && framing == Framing::Length(0);
    Ok(use_it(&Request {
        version,
        method,
        target,
        authority,
        headers: parsed.headers,
        framing,
        persistent: fields.persistent(version),
        expect_continue: fields.expect_continue && version == Version::Http11,
        upgrade: match fields.upgrade {
            _ if fields.http2_settings => Upgrade::TakenOut,
            Named::Nothing if !fields.means_upgrade => Upgrade::No,
            named if named.is_websocket() && fields.means_upgrade && plain_get => {
                Upgrade::WebSocket
            }
            _ => Upgrade::TakenOut,
        },
    }))
}

impl Request<'_, '_> {
    /// Is this field part of an offer that may not pass?
    pub(super) fn takes_out(&self, header: &Header<'_>) -> bool {
        self.upgrade == Upgrade::TakenOut
            && (header.name.eq_ignore_ascii_case("http2-settings")
                || header.name.eq_ignore_ascii_case("upgrade"))
    }
}

pub(super) fn version(minor: Option<u8>) -> Result<Version, HeadError> {
    match minor {
        Some(0) => Ok(Version::Http10),
        Some(1) => Ok(Version::Http11),
        _ => Err(HeadError::Version),
    }
}

pub(super) fn from_httparse(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooLarge,
        httparse::Error::Version => HeadError::Version,
        httparse::Error::NewLine => HeadError::BareLineEnd,
        _ => HeadError::Malformed,
    }
}
