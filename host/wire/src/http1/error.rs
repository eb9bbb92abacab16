//! Why a head was refused.

/// Why a head was refused. The text is shown to the peer and in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Longer than [`super::MAX_HEAD`] or more fields than [`super::MAX_FIELDS`].
    #[error("header section too large")]
    TooLarge,
    /// A line ended without CR LF, or a CR stood alone.
    #[error("line not ended by CR LF")]
    BareLineEnd,
    /// The grammar of RFC 9112 was not met.
    #[error("malformed message head")]
    Malformed,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("unsupported protocol version")]
    Version,
    /// The request target does not fit its method or form.
    #[error("invalid request target")]
    Target,
    /// `Host` is missing, repeated, malformed or contradicts the target.
    #[error("missing, repeated or contradictory Host")]
    Host,
    /// `Content-Length` is repeated, a list, or not a number.
    #[error("invalid Content-Length")]
    ContentLength,
    /// `Transfer-Encoding` is something other than a single `chunked`, or is used
    /// where HTTP/1.0 or a `Content-Length` makes it ambiguous.
    #[error("unsupported or ambiguous Transfer-Encoding")]
    TransferEncoding,
}

impl HeadError {
    /// Status to refuse a request with.
    pub const fn status(self) -> u16 {
        match self {
            Self::TooLarge => 431,
            Self::Version => 505,
            _ => 400,
        }
    }
}
