//! What HTTP/1 and HTTP/2 have in common: the heads that plugins see, and the
//! changes plugins may ask for.

pub use httparse::Header;

/// Protocol version of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0 (RFC 1945).
    Http10,
    /// HTTP/1.1 (RFC 9112).
    Http11,
    /// HTTP/2 (RFC 9113).
    Http2,
}

impl Version {
    /// As people and records write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// A request head, checked and with its path normalised. HTTP/1 header names keep
/// the case in which they were received.
#[derive(Clone, Copy, Debug)]
pub struct HttpHead<'a> {
    /// Version.
    pub version: Version,
    /// Method, case-sensitive.
    pub method: &'a str,
    /// `:path`: path and query; empty for CONNECT, `*` for server-wide OPTIONS.
    pub path: &'a str,
    /// `:authority` or `Host`, with the port if one was sent; may be empty.
    pub authority: &'a str,
    /// Header fields in message order, without pseudo-headers.
    pub headers: &'a [Header<'a>],
}

/// The head of a final response.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    /// Status, 200–999.
    pub status: u16,
    /// Header fields in message order.
    pub headers: &'a [Header<'a>],
}

/// Changes to the header fields of a message; all else passes as received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdit {
    /// Fields set to a single value, replacing what was there.
    pub set: Vec<(String, String)>,
    /// Fields removed.
    pub remove: Vec<String>,
}
