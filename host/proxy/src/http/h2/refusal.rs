//! Responses of our own on a stream that upstream never sees.

use tidegate_wire::http2::{
    BlockEncoder,
    frame::{self, SAFE_PAYLOAD, flag, kind},
};

use crate::http::reply::{Asker, Reply};

impl Reply {
    /// Writes the whole response, with its body if that fits `window`; returns how
    /// much of the window it took.
    pub(in crate::http) fn write(
        &self,
        stream: u32,
        mut block: BlockEncoder,
        window: u32,
        asker: Asker,
        out: &mut Vec<u8>,
    ) -> u32 {
        if let Some(kind) = asker.call {
            block.field(b":status", b"200");
            for (name, value) in self.to_call(kind) {
                block.field(name.as_bytes(), value.as_bytes());
            }
            frame::write_block(stream, true, &block.finish(), out);
            return 0;
        }
        let to_head = asker.head;
        let fits = self.body.len() <= SAFE_PAYLOAD.min(window as usize);
        let body: &[u8] = if fits || to_head { &self.body } else { b"" };
        block.field(b":status", self.status.to_string().as_bytes());
        if !self.is_bodyless() {
            block.field(b"content-length", body.len().to_string().as_bytes());
        }
        for (name, value) in self.fields() {
            block.field(name.as_bytes(), value.as_bytes());
        }
        let body = match to_head || self.is_bodyless() {
            true => b"",
            false => body,
        };
        frame::write_block(stream, body.is_empty(), &block.finish(), out);
        if body.is_empty() {
            return 0;
        }
        let length = body.len() as u32;
        let head = frame::Frame {
            length,
            kind: kind::DATA,
            flags: flag::END_STREAM,
            stream,
        };
        head.write(out);
        out.extend_from_slice(body);
        length
    }
}
