//! Header blocks written again: with a dynamic table of our own where a connection
//! carries many, without one where a block must mean the same whatever came before.

use super::{
    MAX_TABLE,
    block::{Fields, Indexing},
    table::{self, STATIC, Table},
};
use crate::http::CheckedEdit;

/// Writes one header block without dynamic table and Huffman coding.
#[derive(Clone, Debug, Default)]
pub struct BlockEncoder {
    out: Vec<u8>,
}

impl BlockEncoder {
    /// One field, not to be indexed by anybody behind us.
    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        match static_index(name, value) {
            Some((index, true)) => self.integer(0x80, 7, index),
            found => self.literal(0x10, 4, found.map(|(index, _)| index), (name, value)),
        }
    }

    /// The block.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    fn literal(
        &mut self,
        pattern: u8,
        prefix_bits: u8,
        name_index: Option<usize>,
        (name, value): (&[u8], &[u8]),
    ) {
        self.integer(pattern, prefix_bits, name_index.unwrap_or(0));
        if name_index.is_none() {
            self.string(name);
        }
        self.string(value);
    }

    fn string(&mut self, text: &[u8]) {
        self.integer(0, 7, text.len());
        self.out.extend_from_slice(text);
    }

    /// RFC 7541 §5.1.
    fn integer(&mut self, pattern: u8, prefix_bits: u8, mut value: usize) {
        let most = (1_usize << prefix_bits) - 1;
        if value < most {
            self.out.push(pattern | value as u8);
            return;
        }
        self.out.push(pattern | most as u8);
        value -= most;
        while value >= 0x80 {
            self.out.push(0x80 | (value & 0x7f) as u8);
            value >>= 7;
        }
        self.out.push(value as u8);
    }
}

/// Writes the blocks of one direction again, as tersely as they came: what the sender
/// indexed is indexed, so that no reader gets much more than we got.
#[derive(Debug)]
pub struct TableEncoder {
    table: Table,
    /// The size the reader believes our table to have.
    told: usize,
    /// Do we know what the reader has?
    allowed: bool,
}

impl Default for TableEncoder {
    /// Uses no table until [`TableEncoder::allow`] says how much of one the reader has.
    fn default() -> Self {
        Self {
            table: Table::new(0),
            told: MAX_TABLE,
            allowed: false,
        }
    }
}

impl TableEncoder {
    /// The reader's first settings have come, with this `SETTINGS_HEADER_TABLE_SIZE` or
    /// the default.
    pub fn allow(&mut self, size: Option<u32>) {
        let size = size.map_or(MAX_TABLE, |size| size as usize);
        self.table.resize(size.min(MAX_TABLE));
        self.allowed = true;
    }

    /// The reader announced another size. The table never grows again: a reader that
    /// wants that may not have applied its own settings yet.
    pub fn shrink(&mut self, size: u32) {
        self.table.resize(self.table.max().min(size as usize));
    }

    /// Begins a block that uses no table, among others that do.
    pub fn begin(&mut self) -> BlockEncoder {
        let mut block = BlockEncoder::default();
        // The reader wants to know before anything else (RFC 7541 §4.2).
        if self.allowed && self.table.max() < self.told {
            self.told = self.table.max();
            block.integer(0x20, 5, self.told);
        }
        block
    }

    /// Writes a list, with another `:path` and a plugin's (checked) changes.
    pub fn encode(
        &mut self,
        fields: &Fields,
        path: Option<&str>,
        edit: Option<&CheckedEdit>,
    ) -> Vec<u8> {
        let mut block = self.begin();
        for (name, value, indexing) in fields.indexed() {
            let replaced = edit.is_some_and(|edit| {
                std::str::from_utf8(name).is_ok_and(|name| edit.replaces(name))
            });
            match path {
                _ if replaced => {}
                Some(path) if name == b":path" => {
                    self.field(&mut block, name, path.as_bytes(), indexing);
                }
                _ => self.field(&mut block, name, value, indexing),
            }
        }
        for (name, value) in edit.iter().flat_map(|edit| &edit.set) {
            block.field(name.to_ascii_lowercase().as_bytes(), value.as_bytes());
        }
        block.finish()
    }

    fn field(&mut self, block: &mut BlockEncoder, name: &[u8], value: &[u8], how: Indexing) {
        let fixed = static_index(name, value);
        let own = match fixed {
            Some((_, true)) => None,
            _ => self.table.find(name, value),
        };
        match fixed.into_iter().chain(own).find(|(_, exact)| *exact) {
            Some((index, _)) if how != Indexing::Never => block.integer(0x80, 7, index),
            _ => {
                let name_index = fixed.or(own).map(|(index, _)| index);
                let fits = table::size(name, value) <= self.table.max();
                let (pattern, bits) = match how {
                    Indexing::Table if fits => (0x40, 6),
                    Indexing::Never => (0x10, 4),
                    Indexing::Table | Indexing::Without => (0, 4),
                };
                block.literal(pattern, bits, name_index, (name, value));
                if pattern == 0x40 {
                    self.table.insert(name, value);
                }
            }
        }
    }
}

/// The index of a static entry with this name, and whether its value is this one.
fn static_index(name: &[u8], value: &[u8]) -> Option<(usize, bool)> {
    let named = STATIC.iter().position(|(n, _)| n.as_bytes() == name)?;
    let exact = STATIC[named..]
        .iter()
        .take_while(|(n, _)| n.as_bytes() == name)
        .position(|(_, v)| v.as_bytes() == value);
    Some(match exact {
        Some(at) if !value.is_empty() => (named + at + 1, true),
        _ => (named + 1, false),
    })
}
