//! Header blocks (RFC 7541), decoded into one allocation.

use std::{borrow::Cow, ops::Range};

use super::{
    MAX_TABLE, USUAL_LIST, huffman,
    table::{self, Table},
};

/// The block is not valid HPACK; the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("header block cannot be decoded")]
pub struct BlockError;

/// How a field was written, which is how it may be written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexing {
    /// Found in a table, or to be added to one.
    Table,
    /// In full, this time.
    Without,
    /// In full, and never otherwise: it is sensitive (RFC 7541 §7.1.3).
    Never,
}

/// The decoding half of one direction, with a table of [`MAX_TABLE`] bytes.
pub struct BlockDecoder {
    table: Table,
    list: usize,
}

impl Default for BlockDecoder {
    fn default() -> Self {
        Self::with_list(USUAL_LIST)
    }
}

impl BlockDecoder {
    /// One for lists of at most `list` bytes, as RFC 9113 §6.5.2 counts.
    pub fn with_list(list: usize) -> Self {
        Self {
            table: Table::new(MAX_TABLE),
            list,
        }
    }

    /// Decodes a whole block. The table is kept in step also where the list is too long;
    /// its end is then missing.
    pub fn decode(&mut self, block: &[u8]) -> Result<Fields, BlockError> {
        let mut fields = Fields::default();
        let mut rest = block;
        let mut begun = false;
        while let Some(&first) = rest.first() {
            let bits = match first {
                0x20..0x40 => {
                    // Only at the beginning of a block (RFC 7541 §4.2).
                    let size = integer(&mut rest, 5)?;
                    if begun || size > MAX_TABLE {
                        return Err(BlockError);
                    }
                    self.table.resize(size);
                    continue;
                }
                0x80.. => {
                    let index = integer(&mut rest, 7)?;
                    let (name, value) = self.table.get(index).ok_or(BlockError)?;
                    fields.push((name, value), Indexing::Table, self.list);
                    begun = true;
                    continue;
                }
                0x40..0x80 => 6,
                0..0x20 => 4,
            };
            begun = true;
            let indexing = match first {
                0x40.. => Indexing::Table,
                0x10.. => Indexing::Never,
                _ => Indexing::Without,
            };
            let index = integer(&mut rest, bits)?;
            let name = match index {
                0 => string(&mut rest)?,
                // An insertion may evict the entry that lends its name.
                _ => Cow::Owned(self.table.get(index).ok_or(BlockError)?.0.to_vec()),
            };
            let value = string(&mut rest)?;
            fields.push((&name, &value), indexing, self.list);
            if indexing == Indexing::Table {
                self.table.insert(&name, &value);
            }
        }
        Ok(fields)
    }
}

/// RFC 7541 §5.1; larger ones than any use has are errors.
fn integer(rest: &mut &[u8], prefix_bits: u8) -> Result<usize, BlockError> {
    let (&first, mut tail) = rest.split_first().ok_or(BlockError)?;
    let most = (1_usize << prefix_bits) - 1;
    let mut value = usize::from(first) & most;
    if value == most {
        for shift in [0, 7, 14, 21] {
            let &byte = tail.split_off_first().ok_or(BlockError)?;
            value += usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                *rest = tail;
                return Ok(value);
            }
        }
        return Err(BlockError);
    }
    *rest = tail;
    Ok(value)
}

/// RFC 7541 §5.2.
fn string<'b>(rest: &mut &'b [u8]) -> Result<Cow<'b, [u8]>, BlockError> {
    let coded = rest.first().ok_or(BlockError)? & 0x80 != 0;
    let length = integer(rest, 7)?;
    let text = rest.split_off(..length).ok_or(BlockError)?;
    if !coded {
        return Ok(Cow::Borrowed(text));
    }
    let mut plain = Vec::with_capacity(text.len() * 8 / 5);
    huffman::decode(text, &mut plain).ok_or(BlockError)?;
    Ok(Cow::Owned(plain))
}

/// A decoded header list.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    bytes: Vec<u8>,
    spans: Vec<(Range<usize>, Range<usize>, Indexing)>,
    size: usize,
    too_large: bool,
}

impl Fields {
    fn push(&mut self, (name, value): (&[u8], &[u8]), indexing: Indexing, most: usize) {
        self.size += table::size(name, value);
        self.too_large |= self.size > most;
        if self.too_large {
            return;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(value);
        let end = self.bytes.len();
        self.spans.push((start..middle, middle..end, indexing));
    }

    /// Was the list longer than the decoder takes?
    pub fn is_too_large(&self) -> bool {
        self.too_large
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.indexed().map(|(name, value, _)| (name, value))
    }

    /// Names, values and how they were written, in order.
    pub fn indexed(&self) -> impl Iterator<Item = (&[u8], &[u8], Indexing)> {
        self.spans.iter().map(|(name, value, indexing)| {
            (
                &self.bytes[name.clone()],
                &self.bytes[value.clone()],
                *indexing,
            )
        })
    }
}
