//! The part of TLS that is in the clear: the client's hello, and whether the server asks for
//! another one. RFC 8446 (TLS 1.3), 5246 (1.2), 6066 §3 (server names).
//!
//! Read here, not by a crate: what is decided about a connection hangs on the server reading
//! the same name, so a hello that could be read in two ways is none. The readers at hand go on
//! where they understand something no more, or are a whole TLS stack that asks for more than
//! a relay may (signature algorithms, versions).

mod hello;
mod opening;
#[cfg(test)]
mod tests;

use thiserror::Error;

pub use self::{
    hello::{Asked, ClientHello, version_name},
    opening::{HelloReader, Watch},
};

/// Most bytes that may come, record headers included, before a hello is complete. The
/// longest in use have post-quantum keys and tickets, and are a few KiB long.
pub const MAX_HELLO: usize = 64 << 10;
/// Longest record before encryption (RFC 8446 §5.1).
const MAX_RECORD: usize = 1 << 14;
/// Bytes of a record's header.
const HEADER: usize = 5;

/// Record types (RFC 8446 §5.1).
mod kind {
    pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
    pub(super) const ALERT: u8 = 21;
    pub(super) const HANDSHAKE: u8 = 22;
    pub(super) const APPLICATION_DATA: u8 = 23;
}

/// Why there is no hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoHello {
    /// It does not begin with a handshake record of TLS.
    #[error("not TLS")]
    NotTls,
    /// The hello of SSL 2 (RFC 5246 §E.2), which asks for no name.
    #[error("an SSL 2 hello")]
    Ssl2,
    /// It does not fit in [`MAX_HELLO`].
    #[error("the ClientHello is longer than 64 KiB")]
    TooLong,
    /// It could be read in two ways, or in none.
    #[error("malformed ClientHello: {0}")]
    Malformed(&'static str),
    /// A second hello asks for another name than the first.
    #[error("a second ClientHello asks for another name")]
    AnotherName,
}

impl NoHello {
    /// Is it TLS, so that an alert will be understood?
    pub fn is_tls(self) -> bool {
        !matches!(self, Self::NotTls | Self::Ssl2)
    }
}

/// Alerts (RFC 8446 §6).
pub mod alert {
    /// What was sent cannot be read.
    pub const DECODE_ERROR: u8 = 50;
    /// It is nobody's fault who speaks here.
    pub const INTERNAL_ERROR: u8 = 80;
    /// Policy does not allow it.
    pub const ACCESS_DENIED: u8 = 49;
    /// The name asked for is none that is served here.
    pub const UNRECOGNIZED_NAME: u8 = 112;

    /// A record with a fatal alert, for a peer that said nothing of a version above that of
    /// `version`'s handshake (0x0303 at most is on the wire).
    pub fn fatal(version: u16, description: u8) -> [u8; 7] {
        let [major, minor] = version.clamp(0x0300, 0x0303).to_be_bytes();
        [super::kind::ALERT, major, minor, 0, 2, 2, description]
    }
}
