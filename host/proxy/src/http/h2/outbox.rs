//! What one peer will be sent: passed frames, and frames of our own between them.

use tidegate_wire::http2::frame::{self, kind};

/// Bytes that may wait before the other side is no longer read.
const FULL: usize = 64 * 1024;

/// Bytes on their way to one peer.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// Frames of our own that wait for the end of a frame that passes in pieces.
    own: Vec<u8>,
    mid_frame: bool,
}

impl Outbox {
    /// Bytes to send now.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    pub(super) fn mark_sent(&mut self, count: usize) {
        self.sent = self.sent.saturating_add(count);
        if self.sent >= self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        } else if self.sent >= FULL {
            // A peer that is never quite up to date must not make this grow for ever.
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Gives back memory in which nothing waits.
    pub(super) fn release(&mut self) {
        for bytes in [&mut self.bytes, &mut self.own] {
            // Some room is left, so that it need not grow again for each frame.
            bytes.shrink_to(2 * bytes.len());
        }
    }

    /// Memory it takes, bytes.
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity() + self.own.capacity()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_full(&self) -> bool {
        self.unsent().len() + self.own.len() >= FULL
    }

    /// So full that not even answers of our own may be added: the peer does not read.
    pub(super) fn is_overfull(&self) -> bool {
        self.unsent().len() + self.own.len() >= 4 * FULL
    }

    /// A whole frame, or the head or a piece of a longer one of which `left` more
    /// bytes will come.
    pub(super) fn pass(&mut self, bytes: &[u8], left: usize) {
        self.bytes.extend_from_slice(bytes);
        self.mid_frame = left > 0;
        if !self.mid_frame {
            self.bytes.append(&mut self.own);
        }
    }

    /// Writes whole frames of our own.
    pub(super) fn own(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(if self.mid_frame {
            &mut self.own
        } else {
            &mut self.bytes
        });
    }

    pub(super) fn window_update(&mut self, stream: u32, credit: u32) {
        if credit > 0 {
            self.own(|out| frame::write_number(kind::WINDOW_UPDATE, stream, credit, out));
        }
    }

    pub(super) fn reset(&mut self, stream: u32, code: u32) {
        self.own(|out| frame::write_number(kind::RST_STREAM, stream, code, out));
    }
}
