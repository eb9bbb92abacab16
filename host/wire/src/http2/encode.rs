//! Header blocks written without a dynamic table and without Huffman coding: such a
//! block means the same whatever came before it.

use super::request::Request;
use crate::http::HeaderEdit;

/// Static table entries that match name and value (RFC 7541 appendix A).
const EXACT: [(u8, &str, &str); 13] = [
    (2, ":method", "GET"),
    (3, ":method", "POST"),
    (4, ":path", "/"),
    (5, ":path", "/index.html"),
    (6, ":scheme", "http"),
    (7, ":scheme", "https"),
    (8, ":status", "200"),
    (9, ":status", "204"),
    (10, ":status", "206"),
    (11, ":status", "304"),
    (12, ":status", "400"),
    (13, ":status", "404"),
    (14, ":status", "500"),
];

/// Static table entries worth using for their name.
const NAMES: [(u8, &str); 24] = [
    (1, ":authority"),
    (2, ":method"),
    (4, ":path"),
    (6, ":scheme"),
    (8, ":status"),
    (16, "accept-encoding"),
    (17, "accept-language"),
    (19, "accept"),
    (23, "authorization"),
    (24, "cache-control"),
    (28, "content-length"),
    (31, "content-type"),
    (32, "cookie"),
    (33, "date"),
    (34, "etag"),
    (38, "host"),
    (44, "last-modified"),
    (46, "location"),
    (51, "referer"),
    (54, "server"),
    (55, "set-cookie"),
    (57, "transfer-encoding"),
    (58, "user-agent"),
    (59, "vary"),
];

/// Writes one header block.
#[derive(Clone, Debug, Default)]
pub struct BlockEncoder {
    out: Vec<u8>,
}

impl BlockEncoder {
    /// Tells the decoder to shrink its table; only at the start of a block.
    pub fn table_size(&mut self, size: u32) {
        self.integer(0x20, 5, size as usize);
    }

    /// One field; never to be indexed, as we cannot know which ones were sensitive.
    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        let exact = EXACT
            .iter()
            .find(|(_, n, v)| n.as_bytes() == name && v.as_bytes() == value);
        if let Some((index, ..)) = exact {
            self.out.push(0x80 | index);
            return;
        }
        match NAMES.iter().find(|(_, n)| n.as_bytes() == name) {
            Some((index, _)) => self.integer(0x10, 4, usize::from(*index)),
            None => {
                self.out.push(0x10);
                self.string(name);
            }
        }
        self.string(value);
    }

    /// A request with another path and a plugin's (checked) changes.
    pub fn request(&mut self, request: &Request<'_>, path: &str, edit: Option<&HeaderEdit>) {
        self.field(b":method", request.method.as_bytes());
        for (name, value) in [
            (":scheme", request.scheme),
            (":protocol", request.protocol),
            (":authority", request.pseudo_authority),
        ] {
            if let Some(value) = value {
                self.field(name.as_bytes(), value.as_bytes());
            }
        }
        if !path.is_empty() {
            self.field(b":path", path.as_bytes());
        }
        let headers = request.headers.iter();
        self.edited(headers.map(|h| (h.name.as_bytes(), h.value)), edit);
    }

    /// Fields with a plugin's (checked) changes.
    pub fn edited<'f>(
        &mut self,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
        edit: Option<&HeaderEdit>,
    ) {
        for (name, value) in fields {
            let replaced = edit.is_some_and(|edit| {
                std::str::from_utf8(name).is_ok_and(|name| edit.replaces(name))
            });
            if !replaced {
                self.field(name, value);
            }
        }
        for (name, value) in edit.iter().flat_map(|edit| &edit.set) {
            self.field(name.to_ascii_lowercase().as_bytes(), value.as_bytes());
        }
    }

    /// The block.
    pub fn finish(self) -> Vec<u8> {
        self.out
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
