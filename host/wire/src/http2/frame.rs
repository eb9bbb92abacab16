//! Frames (RFC 9113 §4 and §6).

/// What a client sends first.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame's head, bytes.
pub const HEAD: usize = 9;
/// Payload length every peer accepts.
pub const SAFE_PAYLOAD: usize = 16_384;

/// Frame types.
pub mod kind {
    #![expect(missing_docs, reason = "the names are RFC 9113's")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags.
pub mod flag {
    #![expect(missing_docs, reason = "the names are RFC 9113's")]
    pub const END_STREAM: u8 = 0x01;
    pub const ACK: u8 = 0x01;
    pub const END_HEADERS: u8 = 0x04;
    pub const PADDED: u8 = 0x08;
    pub const PRIORITY: u8 = 0x20;
}

/// Settings we read.
pub mod setting {
    #![expect(missing_docs, reason = "the names are RFC 9113's")]
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    /// RFC 8441.
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
    /// RFC 9218.
    pub const NO_RFC7540_PRIORITIES: u16 = 9;
}

/// Error codes.
pub mod code {
    #![expect(missing_docs, reason = "the names are RFC 9113's")]
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const INTERNAL_ERROR: u32 = 2;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE_ERROR: u32 = 6;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION_ERROR: u32 = 9;
    /// What CONNECT led to has ended otherwise than in order.
    pub const CONNECT_ERROR: u32 = 10;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Payload bytes, 24 bits.
    pub length: u32,
    /// Type; see [`kind`].
    pub kind: u8,
    /// Flags; see [`flag`].
    pub flags: u8,
    /// Stream; 0 is the connection.
    pub stream: u32,
}

/// A payload that does not fit its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed frame")]
pub struct FrameError;

impl Frame {
    /// Reads a head; `None` if it is not complete yet.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, d, e, f, g] = bytes.first_chunk::<HEAD>()?;
        Some(Self {
            length: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            stream: u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff,
        })
    }

    /// Writes a head.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.length.to_be_bytes()[1..]);
        out.extend_from_slice(&[self.kind, self.flags]);
        out.extend_from_slice(&self.stream.to_be_bytes());
    }

    /// Is this flag set?
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The stream that a HEADERS or PRIORITY payload makes this one depend on.
    pub fn depends_on(&self, payload: &[u8]) -> Option<u32> {
        let padded = usize::from(self.kind == kind::HEADERS && self.has(flag::PADDED));
        let says =
            self.kind == kind::PRIORITY || (self.kind == kind::HEADERS && self.has(flag::PRIORITY));
        let bytes = payload.get(padded..)?.first_chunk()?;
        says.then(|| u32::from_be_bytes(*bytes) & 0x7fff_ffff)
    }

    /// Is this how a peer that speaks HTTP/2 begins: with SETTINGS, not an
    /// acknowledgement (RFC 9113 §3.4)?
    pub const fn greets(&self) -> bool {
        self.kind == kind::SETTINGS
            && !self.has(flag::ACK)
            && self.stream == 0
            && self.length.is_multiple_of(6)
            && self.length as usize <= SAFE_PAYLOAD
    }

    /// The header block fragment of a HEADERS or CONTINUATION payload.
    pub fn fragment<'p>(&self, payload: &'p [u8]) -> Result<&'p [u8], FrameError> {
        let mut rest = payload;
        if self.kind == kind::CONTINUATION {
            return Ok(rest);
        }
        let mut padding = 0;
        if self.has(flag::PADDED) {
            let (&length, tail) = rest.split_first().ok_or(FrameError)?;
            (padding, rest) = (usize::from(length), tail);
        }
        if self.has(flag::PRIORITY) {
            rest = rest.get(5..).ok_or(FrameError)?;
        }
        let length = rest.len().checked_sub(padding).ok_or(FrameError)?;
        Ok(&rest[..length])
    }
}

/// The identifiers and values of a SETTINGS payload.
pub fn settings(payload: &[u8]) -> Result<impl Iterator<Item = (u16, u32)>, FrameError> {
    let (pairs, rest) = payload.as_chunks::<6>();
    if !rest.is_empty() {
        return Err(FrameError);
    }
    Ok(pairs
        .iter()
        .map(|&[a, b, c, d, e, f]| (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]))))
}

/// Writes a SETTINGS frame.
pub fn write_settings(pairs: &[(u16, u32)], out: &mut Vec<u8>) {
    let head = Frame {
        length: pairs.len() as u32 * 6,
        kind: kind::SETTINGS,
        flags: 0,
        stream: 0,
    };
    head.write(out);
    for (id, value) in pairs {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Acknowledges a peer's SETTINGS.
pub fn write_settings_ack(out: &mut Vec<u8>) {
    let head = Frame {
        length: 0,
        kind: kind::SETTINGS,
        flags: flag::ACK,
        stream: 0,
    };
    head.write(out);
}

/// The number a WINDOW_UPDATE or RST_STREAM carries.
pub fn number(payload: &[u8]) -> Result<u32, FrameError> {
    let bytes: [u8; 4] = payload.try_into().map_err(|_| FrameError)?;
    Ok(u32::from_be_bytes(bytes))
}

/// Writes a WINDOW_UPDATE or RST_STREAM.
pub fn write_number(kind: u8, stream: u32, number: u32, out: &mut Vec<u8>) {
    let head = Frame {
        length: 4,
        kind,
        flags: 0,
        stream,
    };
    head.write(out);
    out.extend_from_slice(&number.to_be_bytes());
}

/// Answers a PING.
pub fn write_ping_ack(payload: &[u8], out: &mut Vec<u8>) {
    let head = Frame {
        length: payload.len() as u32,
        kind: kind::PING,
        flags: flag::ACK,
        stream: 0,
    };
    head.write(out);
    out.extend_from_slice(payload);
}

/// Writes a GOAWAY with a reason for people.
pub fn write_goaway(last_stream: u32, code: u32, reason: &str, out: &mut Vec<u8>) {
    let head = Frame {
        length: 8 + reason.len() as u32,
        kind: kind::GOAWAY,
        flags: 0,
        stream: 0,
    };
    head.write(out);
    out.extend_from_slice(&last_stream.to_be_bytes());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Writes a header block as HEADERS and as many CONTINUATIONs as it takes.
pub fn write_block(stream: u32, end_stream: bool, block: &[u8], out: &mut Vec<u8>) {
    let mut rest = block;
    let mut kind = kind::HEADERS;
    let mut flags = if end_stream { flag::END_STREAM } else { 0 };
    loop {
        let (piece, tail) = rest.split_at(rest.len().min(SAFE_PAYLOAD));
        if tail.is_empty() {
            flags |= flag::END_HEADERS;
        }
        let head = Frame {
            length: piece.len() as u32,
            kind,
            flags,
            stream,
        };
        head.write(out);
        out.extend_from_slice(piece);
        if tail.is_empty() {
            return;
        }
        (rest, kind, flags) = (tail, kind::CONTINUATION, 0);
    }
}
