//! The client's hello (RFC 8446 §4.1.2), read strictly.

use std::{
    borrow::Cow,
    net::{Ipv4Addr, Ipv6Addr},
};

use super::NoHello;

/// Longest name (RFC 1035 §2.3.4, as text).
const MAX_NAME: usize = 255;

/// Extensions (IANA "TLS ExtensionType Values").
mod extension {
    pub(super) const SERVER_NAME: u16 = 0;
    pub(super) const ALPN: u16 = 16;
    pub(super) const SUPPORTED_VERSIONS: u16 = 43;
    pub(super) const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
}

/// What a client asks for before anything is encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The server it wants.
    pub asked: Asked,
    /// Highest version it offers, as on the wire (0x0303 is TLS 1.2).
    pub version: u16,
    /// Version of the handshake's frame; 0x0303 at most in what follows the standard.
    pub legacy_version: u16,
    /// Protocols it would speak inside, in its order, those that are text.
    pub alpn: Vec<String>,
    /// It hides another hello in this one (RFC 9849), or looks as if it did: the name here
    /// is the outer one.
    pub ech: bool,
}

/// Which server a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// None in particular.
    Nothing,
    /// The one with this name: lower case, without a final dot.
    Name(String),
    /// An address, which is no name (RFC 6066 §3), though some clients send one.
    Address(String),
    /// What one server takes for this and another for that.
    Unclear {
        /// As far as it can be shown.
        text: String,
        /// Why.
        why: &'static str,
    },
}

impl Asked {
    /// As people read it; empty if nothing was asked for.
    pub fn text(&self) -> &str {
        match self {
            Self::Nothing => "",
            Self::Name(text) | Self::Address(text) | Self::Unclear { text, .. } => text,
        }
    }
}

/// A version as people name it.
pub fn version_name(version: u16) -> Cow<'static, str> {
    match version {
        0x0300 => "SSL 3.0".into(),
        0x0301 => "TLS 1.0".into(),
        0x0302 => "TLS 1.1".into(),
        0x0303 => "TLS 1.2".into(),
        0x0304 => "TLS 1.3".into(),
        other => format!("TLS {other:#06x}").into(),
    }
}

impl ClientHello {
    /// Reads the body of a hello: what follows its type and length.
    ///
    /// # Errors
    ///
    /// If it is anything but one hello to its last byte.
    pub(super) fn read(body: &[u8]) -> Result<Self, NoHello> {
        let mut body = Reader(body);
        let legacy_version = body.u16()?;
        if legacy_version >> 8 != 3 {
            return Err(NoHello::Malformed("a version that is none of TLS"));
        }
        body.take(32)?;
        if body.vector8()?.0.len() > 32 {
            return Err(NoHello::Malformed("a session id of more than 32 bytes"));
        }
        let suites = body.vector16()?.0.len();
        if suites == 0 || suites % 2 != 0 {
            return Err(NoHello::Malformed("no list of cipher suites"));
        }
        if body.vector8()?.0.is_empty() {
            return Err(NoHello::Malformed("no list of compression methods"));
        }
        let mut hello = Self {
            asked: Asked::Nothing,
            version: legacy_version,
            legacy_version,
            alpn: Vec::new(),
            ech: false,
        };
        if body.is_empty() {
            // Before TLS 1.2 there may be none.
            return Ok(hello);
        }
        let mut extensions = body.vector16()?;
        body.end()?;
        let mut seen = Vec::new();
        while !extensions.is_empty() {
            let kind = extensions.u16()?;
            let content = extensions.vector16()?;
            seen.push(kind);
            match kind {
                extension::SERVER_NAME => hello.asked = server_name(content)?,
                extension::ALPN => hello.alpn = protocols(content)?,
                extension::SUPPORTED_VERSIONS => {
                    hello.version = highest(content)?.unwrap_or(hello.version);
                }
                // An inner hello (1) is for the server that has the key.
                extension::ENCRYPTED_CLIENT_HELLO => hello.ech = content.0.first() == Some(&0),
                _ => {}
            }
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() != count {
            return Err(NoHello::Malformed("an extension comes twice"));
        }
        Ok(hello)
    }
}

/// RFC 6066 §3: at most one name of a kind, and there is one kind.
fn server_name(mut content: Reader<'_>) -> Result<Asked, NoHello> {
    let mut list = content.vector16()?;
    content.end()?;
    let mut names = Vec::new();
    while !list.is_empty() {
        if list.u8()? != 0 {
            return Err(NoHello::Malformed("a server name of an unknown kind"));
        }
        names.push(list.vector16()?.0);
    }
    let text = |name: &[u8]| name.escape_ascii().to_string().to_ascii_lowercase();
    let unclear = |text, why| Asked::Unclear { text, why };
    let name = match names[..] {
        [] => return Err(NoHello::Malformed("an empty list of server names")),
        [name] => name,
        [..] => {
            let all: Vec<String> = names.iter().map(|name| text(name)).collect();
            return Ok(unclear(all.join(","), "it asks for several names"));
        }
    };
    // The final dot means the same name to some servers, and another to none.
    let bare = name.strip_suffix(b".").unwrap_or(name);
    let is_label = |label: &[u8]| {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        !label.is_empty() && label.iter().all(plain)
    };
    let text = text(bare);
    Ok(
        if name.len() > MAX_NAME || !bare.split(|byte| *byte == b'.').all(is_label) {
            match text.parse::<Ipv6Addr>() {
                Ok(_) => Asked::Address(text),
                Err(_) => unclear(text, "it asks for something that is no name"),
            }
        } else if text.parse::<Ipv4Addr>().is_ok() {
            Asked::Address(text)
        } else {
            Asked::Name(text)
        },
    )
}

fn protocols(mut content: Reader<'_>) -> Result<Vec<String>, NoHello> {
    let mut list = content.vector16()?;
    content.end()?;
    let mut protocols = Vec::new();
    while !list.is_empty() {
        // Those that are no text are noise that keeps servers tolerant (RFC 8701).
        if let Ok(text) = std::str::from_utf8(list.vector8()?.0)
            && text.bytes().all(|byte| byte.is_ascii_graphic())
        {
            protocols.push(text.to_owned());
        }
    }
    Ok(protocols)
}

/// The highest version of the list that is one, and not noise (RFC 8701).
fn highest(mut content: Reader<'_>) -> Result<Option<u16>, NoHello> {
    let mut list = content.vector8()?;
    content.end()?;
    let mut highest = None;
    while !list.is_empty() {
        let version = list.u16()?;
        if (0x0300..=0x0304).contains(&version) {
            highest = highest.max(Some(version));
        }
    }
    Ok(highest)
}

/// Bytes not read yet.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], NoHello> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(NoHello::Malformed("a length goes beyond the end"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, NoHello> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Result<u16, NoHello> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What a length of one byte in front covers.
    fn vector8(&mut self) -> Result<Self, NoHello> {
        let length = self.u8()?;
        self.take(length.into()).map(Self)
    }

    /// What a length of two bytes in front covers.
    fn vector16(&mut self) -> Result<Self, NoHello> {
        let length = self.u16()?;
        self.take(length.into()).map(Self)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn end(&self) -> Result<(), NoHello> {
        match self.is_empty() {
            true => Ok(()),
            false => Err(NoHello::Malformed("something follows where it should end")),
        }
    }
}
