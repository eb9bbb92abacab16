//! Header blocks (RFC 7541), decoded into one allocation.

use std::ops::Range;

use super::MAX_LIST;

/// The largest dynamic table we let a peer use; a larger offer is lowered.
pub const MAX_TABLE: u32 = 64 * 1024;

/// The block is not valid HPACK; the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("header block cannot be decoded")]
pub struct BlockError;

/// The decoding half of one direction.
pub struct BlockDecoder {
    decoder: loona_hpack::Decoder<'static>,
}

impl Default for BlockDecoder {
    fn default() -> Self {
        let mut decoder = loona_hpack::Decoder::new();
        decoder.set_max_allowed_table_size(4096);
        Self { decoder }
    }
}

impl BlockDecoder {
    /// The size the encoder may choose for its table, at most [`MAX_TABLE`].
    pub fn allow_table(&mut self, size: u32) {
        self.decoder
            .set_max_allowed_table_size(size.min(MAX_TABLE) as usize);
    }

    /// Decodes a whole block. The table is kept in step also where the list is
    /// longer than [`MAX_LIST`]; its end is then missing.
    pub fn decode(&mut self, block: &[u8]) -> Result<Fields, BlockError> {
        let mut fields = Fields::default();
        self.decoder
            .decode_with_cb(block, |name, value| fields.push(&name, &value))
            .map_err(|_| BlockError)?;
        Ok(fields)
    }
}

/// A decoded header list.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    bytes: Vec<u8>,
    spans: Vec<(Range<usize>, Range<usize>)>,
    too_large: bool,
}

impl Fields {
    fn push(&mut self, name: &[u8], value: &[u8]) {
        let size = self.bytes.len() + self.spans.len() * 32;
        self.too_large |= size + name.len() + value.len() + 32 > MAX_LIST;
        if self.too_large {
            return;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.spans.push((start..middle, middle..self.bytes.len()));
    }

    /// Was the list longer than [`MAX_LIST`]?
    pub fn is_too_large(&self) -> bool {
        self.too_large
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.spans
            .iter()
            .map(|(name, value)| (&self.bytes[name.clone()], &self.bytes[value.clone()]))
    }

    /// `:status` of a response, 100–999.
    pub fn status(&self) -> Option<u16> {
        let (_, value) = self.iter().find(|(name, _)| *name == b":status")?;
        let text = std::str::from_utf8(value).ok()?;
        let status = text.parse().ok()?;
        (text.len() == 3 && (100..=999).contains(&status)).then_some(status)
    }
}
