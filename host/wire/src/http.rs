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

/// Changes of which every one may be made: what is written onto a wire takes no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedEdit(HeaderEdit);

/// How a body is framed that is not sent as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reframed {
    /// So many bytes.
    Length(u64),
    /// In chunks (HTTP/1.1).
    Chunked,
    /// By the end of the connection (a response of HTTP/1), or in frames of HTTP/2: its length
    /// is not told.
    Untold,
}

impl CheckedEdit {
    /// The same to a head whose body was seen, and is sent anew. Nobody waits for a word to
    /// send it any more, if it was `all_seen` before the head is sent.
    pub fn reframed(mut self, framing: Reframed, all_seen: bool) -> Self {
        let Self(edit) = &mut self;
        edit.remove
            .extend(["content-length", "transfer-encoding"].map(str::to_owned));
        if all_seen {
            edit.remove.push("expect".to_owned());
        }
        let (name, value) = match framing {
            Reframed::Length(length) => ("content-length", length.to_string()),
            Reframed::Chunked => ("transfer-encoding", "chunked".to_owned()),
            Reframed::Untold => return self,
        };
        edit.set.push((name.to_owned(), value));
        self
    }
}

impl std::ops::Deref for CheckedEdit {
    type Target = HeaderEdit;

    fn deref(&self) -> &HeaderEdit {
        &self.0
    }
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

impl HeaderEdit {
    /// Checks every change.
    ///
    /// # Errors
    ///
    /// The first that nobody may make.
    pub fn checked(self) -> Result<CheckedEdit, EditError> {
        let names = self.set.iter().map(|(name, _)| name);
        for name in names.chain(&self.remove) {
            if name.is_empty() || !name.bytes().all(is_token) {
                return Err(EditError::Invalid(name.clone()));
            }
            if RESERVED.iter().any(|r| name.eq_ignore_ascii_case(r)) {
                return Err(EditError::Reserved(name.clone()));
            }
        }
        for (name, value) in &self.set {
            if value.bytes().any(|b| b != b'\t' && b.is_ascii_control()) {
                return Err(EditError::Invalid(name.clone()));
            }
        }
        Ok(CheckedEdit(self))
    }

    /// Does a field of this name not pass as received?
    pub fn replaces(&self, name: &str) -> bool {
        let set = self.set.iter().map(|(name, _)| name);
        set.chain(&self.remove)
            .any(|gone| gone.eq_ignore_ascii_case(name))
    }
}

/// May this byte be part of a field name (RFC 9110 §5.6.2)?
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
