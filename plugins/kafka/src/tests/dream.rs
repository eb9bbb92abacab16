//! Requests of every API, made without knowing one: their own decoder is read to from
//! a source that has an answer to whatever it asks for.

use bytes::{Buf, BufMut as _, Bytes, BytesMut, TryGetError};
use kafka_protocol::{
    messages::{ApiKey, RequestHeader},
    protocol::{Decodable, Encodable, buf::ByteBuf},
};

/// Answers every question of a decoder: lengths are small, so is all else.
#[derive(Clone, Debug)]
pub(super) struct Dream {
    /// What numbers are made of, over and over.
    numbers: Vec<u8>,
    next: usize,
}

impl Dream {
    pub(super) fn of(numbers: &[u8]) -> Self {
        Self {
            numbers: numbers.to_vec(),
            next: 0,
        }
    }

    fn number(&mut self) -> u8 {
        self.next += 1;
        let chosen = self.numbers.get(self.next % self.numbers.len().max(1));
        chosen.copied().unwrap_or(1)
    }
}

impl Buf for Dream {
    fn remaining(&self) -> usize {
        1 << 20
    }

    fn chunk(&self) -> &[u8] {
        &[1; 64]
    }

    fn advance(&mut self, _: usize) {}

    fn try_get_u8(&mut self) -> Result<u8, TryGetError> {
        // One more than a length.
        Ok(self.number() + 1)
    }

    fn try_get_i8(&mut self) -> Result<i8, TryGetError> {
        Ok(self.number() as i8)
    }

    fn try_get_i16(&mut self) -> Result<i16, TryGetError> {
        Ok(self.number().into())
    }

    fn try_get_u16(&mut self) -> Result<u16, TryGetError> {
        Ok(self.number().into())
    }

    fn try_get_i32(&mut self) -> Result<i32, TryGetError> {
        Ok(self.number().into())
    }

    fn try_get_i64(&mut self) -> Result<i64, TryGetError> {
        Ok(self.number().into())
    }
}

impl ByteBuf for Dream {
    fn peek_bytes(&mut self, range: std::ops::Range<usize>) -> Bytes {
        Bytes::from(vec![b'a'; range.len()])
    }

    fn get_bytes(&mut self, size: usize) -> Bytes {
        let letter = b'a' + self.number();
        Bytes::from(vec![letter; size])
    }
}

/// A frame: the head of a request, and what `body` writes.
pub(super) fn frame(
    (key, version, correlation): (ApiKey, i16, i32),
    client_id: &str,
    body: impl FnOnce(&mut BytesMut),
) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    bytes.put_i32(0);
    RequestHeader::default()
        .with_request_api_key(key as i16)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(client_id.to_owned().into()))
        .encode(&mut bytes, key.request_header_version(version))
        .expect("a head");
    body(&mut bytes);
    let length = bytes.len() as i32 - 4;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes.to_vec()
}

/// A dreamed request of a kind, as its bytes; `None` if what was dreamed of has no form
/// in this version.
pub(super) fn bytes<M: Encodable + Decodable>(version: i16, numbers: &[u8]) -> Option<Vec<u8>> {
    let message = M::decode(&mut Dream::of(numbers), version).ok()?;
    let mut bytes = BytesMut::new();
    message.encode(&mut bytes, version).ok()?;
    Some(bytes.to_vec())
}
