//! What requests, responses and trailers have in common (RFC 9113 §8.1 to §8.3).

use super::block::Fields;

/// The list or its body is not a message; the stream cannot go on (RFC 9113 §8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Longer than the decoder takes.
    #[error("header list too large")]
    TooLarge,
    /// A name or value with bytes it must not have.
    #[error("invalid header field")]
    Field,
    /// A field that only HTTP/1 connections have.
    #[error("connection-specific header field")]
    ConnectionSpecific,
    /// Pseudo-headers missing, repeated, unknown, late or in the wrong form.
    #[error("invalid pseudo-headers")]
    Pseudo,
    /// `:authority` and `host` contradict each other.
    #[error("contradictory authority")]
    Authority,
    /// `content-length` is repeated, no number, or not what the body has.
    #[error("contradictory content-length")]
    Length,
}

/// What is left of a body whose `content-length` was announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Length(Option<u64>);

impl Length {
    /// Reads `content-length`; none is fine too.
    pub(super) fn read(fields: &Fields) -> Result<Self, Malformed> {
        let mut values = fields
            .iter()
            .filter(|(name, _)| *name == b"content-length")
            .map(|(_, value)| value);
        let Some(value) = values.next() else {
            return Ok(Self(None));
        };
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let text = std::str::from_utf8(value).map_err(|_| Malformed::Length)?;
        let length = text.parse().map_err(|_| Malformed::Length)?;
        match digits && values.next().is_none() {
            true => Ok(Self(Some(length))),
            false => Err(Malformed::Length),
        }
    }

    /// Takes a piece of the body, the last one with `end`.
    pub fn take(&mut self, bytes: u64, end: bool) -> Result<(), Malformed> {
        let Some(left) = &mut self.0 else {
            return Ok(());
        };
        *left = left.checked_sub(bytes).ok_or(Malformed::Length)?;
        match end && *left > 0 {
            true => Err(Malformed::Length),
            false => Ok(()),
        }
    }

    /// The length says nothing about what follows: an answer to HEAD, or a 304.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

/// The head of a response, final or not.
#[derive(Clone, Copy, Debug)]
pub struct Response {
    /// `:status`, 100–999.
    pub status: u16,
    /// What its `content-length` says.
    pub length: Length,
}

impl Response {
    /// Checks a decoded list.
    pub fn read(fields: &Fields) -> Result<Self, Malformed> {
        if fields.is_too_large() {
            return Err(Malformed::TooLarge);
        }
        let mut all = fields.iter();
        let status = match all.next() {
            Some((b":status", value)) => status(value).ok_or(Malformed::Pseudo)?,
            _ => return Err(Malformed::Pseudo),
        };
        for (name, value) in all {
            if name.starts_with(b":") {
                return Err(Malformed::Pseudo);
            }
            check_field(name, value)?;
        }
        // RFC 9113 §8.6 has no use for 101.
        if status == 101 {
            return Err(Malformed::Pseudo);
        }
        let mut length = Length::read(fields)?;
        if status == 304 {
            length.forget();
        }
        Ok(Self { status, length })
    }
}

fn status(value: &[u8]) -> Option<u16> {
    let digits = value.len() == 3 && value.iter().all(u8::is_ascii_digit);
    let status = std::str::from_utf8(value).ok()?.parse().ok()?;
    (digits && status >= 100).then_some(status)
}

/// Checks the list of a trailer section: no pseudo-headers.
pub fn check_trailers(fields: &Fields) -> Result<(), Malformed> {
    if fields.is_too_large() {
        return Err(Malformed::TooLarge);
    }
    fields
        .iter()
        .try_for_each(|(name, value)| check_field(name, value))
}

/// Checks a field that is no pseudo-header.
pub(super) fn check_field(name: &[u8], value: &[u8]) -> Result<(), Malformed> {
    let byte = |b: &u8| crate::http::is_token(*b) && !b.is_ascii_uppercase();
    if name.is_empty() || !name.iter().all(byte) {
        return Err(Malformed::Field);
    }
    check_value(value)?;
    match name {
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
            Err(Malformed::ConnectionSpecific)
        }
        b"te" if !value.eq_ignore_ascii_case(b"trailers") => Err(Malformed::ConnectionSpecific),
        _ => Ok(()),
    }
}

/// No control bytes (RFC 9110 §5.5) and no blanks at the ends (RFC 9113 §8.2.1).
pub(super) fn check_value(value: &[u8]) -> Result<(), Malformed> {
    let bad = |&b: &u8| b != b'\t' && b.is_ascii_control();
    let blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    if value.iter().any(bad) || blank(value.first()) || blank(value.last()) {
        return Err(Malformed::Field);
    }
    Ok(())
}
