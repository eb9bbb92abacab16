//! Reading messages of the `kafka-protocol` crate from whoever sent them. Its decoders
//! make room for as many items as a length says before they look whether so many can
//! be there; behind this reader no length is believed that cannot be true.

use anyhow::Result;
use bytes::{Buf, Bytes, TryGetError};
use kafka_protocol::protocol::{Decodable, buf::ByteBuf};

/// A length up to this is believed whatever is left: what is made for it is small.
const HARMLESS: usize = 4_096;
/// Longest form of a variable-length number, bytes.
const VARINT: u32 = 5;

/// Reads a message that fills `bytes`, or what of it this version knows.
///
/// # Errors
///
/// If the bytes are no such message.
pub(crate) fn decode<M: Decodable>(bytes: &Bytes, version: i16) -> Result<M> {
    let mut doubting = Careful::new(bytes.clone(), true);
    let message = M::decode(&mut doubting, version)?;
    if !doubting.doubted {
        return Ok(message);
    }
    // Nothing that was doubted was a length: the message is what it says.
    M::decode(&mut Careful::new(bytes.clone(), false), version)
}

/// Bytes that say no where a length cannot be true. A fixed-width number may be a
/// length or not, which only its reader knows; it is given as a negative one at first,
/// which no length is.
struct Careful {
    bytes: Bytes,
    doubts: bool,
    doubted: bool,
    /// A variable-length number on its way: value so far, bytes so far.
    varint: (u64, u32),
}

impl Careful {
    fn new(bytes: Bytes, doubts: bool) -> Self {
        Self {
            bytes,
            doubts,
            doubted: false,
            varint: (0, 0),
        }
    }

    fn is_credible(&self, length: usize) -> bool {
        // One more than there can be stands for the length before it in compact forms.
        length <= (self.bytes.len() + 1).max(HARMLESS)
    }
}

impl Buf for Careful {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.varint = (0, 0);
        self.bytes.advance(count);
    }

    fn try_get_i32(&mut self) -> Result<i32, TryGetError> {
        self.varint = (0, 0);
        let number = self.bytes.try_get_i32()?;
        let length = usize::try_from(number).unwrap_or_default();
        if self.doubts && !self.is_credible(length) {
            self.doubted = true;
            return Ok(i32::MIN);
        }
        Ok(number)
    }

    fn try_get_u8(&mut self) -> Result<u8, TryGetError> {
        let byte = self.bytes.try_get_u8()?;
        let (value, count) = self.varint;
        let value = value | u64::from(byte & 0x7f) << (7 * count);
        if byte >= 0x80 && count + 1 < VARINT {
            self.varint = (value, count + 1);
            return Ok(byte);
        }
        self.varint = (0, 0);
        let length = usize::try_from(value).unwrap_or(usize::MAX);
        if !self.is_credible(length) {
            return Err(TryGetError {
                requested: length,
                available: self.bytes.len(),
            });
        }
        Ok(byte)
    }
}

impl ByteBuf for Careful {
    fn peek_bytes(&mut self, range: std::ops::Range<usize>) -> Bytes {
        self.bytes.slice(range)
    }

    fn get_bytes(&mut self, size: usize) -> Bytes {
        self.varint = (0, 0);
        self.bytes.split_to(size)
    }
}
