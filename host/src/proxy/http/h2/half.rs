//! The reading half of one direction: where in a frame or header block it is, and
//! what its sender was told about header tables.

use std::collections::VecDeque;

use tidegate_wire::http2::{
    BlockDecoder, Fields, Frame, MAX_BLOCK, MAX_TABLE,
    frame::{self, code, flag, kind, setting},
};

use super::{Fault, outbox::Outbox};

/// Longest frame that is read as a whole; longer ones pass or fault.
const MAX_WHOLE: u32 = 32 * 1024;
/// Most CONTINUATIONs of one block.
const MAX_CONTINUATIONS: u32 = 32;
/// Most SETTINGS that may wait for their acknowledgement.
const MAX_UNACKED: usize = 32;

/// What a step of a direction found.
pub(super) enum Step {
    /// Not enough bytes.
    More,
    /// So many bytes are dealt with.
    Took(usize),
    /// A frame that passes in pieces begins.
    Begins(Frame),
    /// A whole frame, of so many bytes with its head.
    Whole(Frame, usize),
}

/// One direction, seen from its reader.
#[derive(Default)]
pub(super) struct Half {
    decoder: BlockDecoder,
    block: Option<OpenBlock>,
    /// Payload left of the frame that is passing, and whether it is thrown away.
    left: usize,
    discarded: bool,
    greeted: bool,
    /// Table sizes the reader announced; the first is the one in force.
    tables: VecDeque<u32>,
}

struct OpenBlock {
    stream: u32,
    end_stream: bool,
    fragments: Vec<u8>,
    /// The frames as received.
    frames: Vec<u8>,
    continuations: u32,
}

/// A complete header block.
pub(super) struct Block {
    pub(super) stream: u32,
    pub(super) end_stream: bool,
    pub(super) fields: Fields,
    /// The frames as received.
    pub(super) frames: Vec<u8>,
}

impl Half {
    /// Looks at the next bytes; passes or forgets what is left of a long frame.
    pub(super) fn step(&mut self, input: &[u8], out: &mut Outbox) -> Result<Step, Fault> {
        if self.left > 0 {
            let count = self.left.min(input.len());
            self.left -= count;
            if !self.discarded && count > 0 {
                out.pass(&input[..count], self.left);
            }
            return Ok(Step::Took(count));
        }
        let Some(frame) = Frame::parse(input) else {
            return Ok(Step::More);
        };
        if !self.greeted && frame.kind != kind::SETTINGS {
            return Err(Fault::protocol("first frame is not SETTINGS"));
        }
        self.greeted = true;
        let continues = frame.kind == kind::CONTINUATION;
        let expected = self.block.as_ref().map(|block| block.stream);
        if expected.is_some() != continues || (continues && expected != Some(frame.stream)) {
            return Err(Fault::protocol("header block interrupted"));
        }
        if matches!(frame.kind, kind::DATA | kind::GOAWAY) || frame.kind > kind::CONTINUATION {
            return Ok(Step::Begins(frame));
        }
        if frame.length > MAX_WHOLE {
            return Err(Fault::new(code::FRAME_SIZE_ERROR, "frame too long"));
        }
        let length = frame::HEAD + frame.length as usize;
        Ok(match input.len() < length {
            true => Step::More,
            false => Step::Whole(frame, length),
        })
    }

    /// Has its sender begun as it must?
    pub(super) fn has_greeted(&self) -> bool {
        self.greeted
    }

    /// Lets the frame that begins pass in pieces, or forgets it.
    pub(super) fn begin(&mut self, frame: &Frame, discarded: bool, out: &mut Outbox) {
        self.left = frame.length as usize;
        self.discarded = discarded;
        if !discarded {
            let mut head = Vec::with_capacity(frame::HEAD);
            frame.write(&mut head);
            out.pass(&head, self.left);
        }
    }

    /// Takes a HEADERS or CONTINUATION; returns the block once it is complete.
    pub(super) fn headers(&mut self, frame: &Frame, bytes: &[u8]) -> Result<Option<Block>, Fault> {
        if frame.stream == 0 {
            return Err(Fault::protocol("HEADERS on stream 0"));
        }
        let fragment = frame
            .fragment(&bytes[frame::HEAD..])
            .map_err(|_| Fault::protocol("malformed HEADERS"))?;
        let mut block = self.block.take().unwrap_or_else(|| OpenBlock {
            stream: frame.stream,
            end_stream: frame.has(flag::END_STREAM),
            fragments: Vec::new(),
            frames: Vec::new(),
            continuations: 0,
        });
        block.continuations += 1;
        block.fragments.extend_from_slice(fragment);
        block.frames.extend_from_slice(bytes);
        if block.fragments.len() > MAX_BLOCK || block.continuations > MAX_CONTINUATIONS {
            return Err(Fault::new(code::ENHANCE_YOUR_CALM, "header block too long"));
        }
        if !frame.has(flag::END_HEADERS) {
            self.block = Some(block);
            return Ok(None);
        }
        let fields = self
            .decoder
            .decode(&block.fragments)
            .map_err(|_| Fault::new(code::COMPRESSION_ERROR, "undecodable header block"))?;
        Ok(Some(Block {
            stream: block.stream,
            end_stream: block.end_stream,
            fields,
            frames: block.frames,
        }))
    }

    /// This direction's reader announced settings.
    pub(super) fn announced(&mut self, table: Option<u32>) -> Result<(), Fault> {
        let before = self.tables.back().copied().unwrap_or(4096);
        if self.tables.is_empty() {
            self.tables.push_back(before);
        }
        self.tables.push_back(table.unwrap_or(before));
        if self.tables.len() > MAX_UNACKED {
            return Err(Fault::new(code::ENHANCE_YOUR_CALM, "too many SETTINGS"));
        }
        self.allow_tables();
        Ok(())
    }

    /// This direction's sender acknowledged the oldest settings. Returns the table
    /// size if it is now smaller.
    pub(super) fn acknowledged(&mut self) -> Option<u32> {
        if self.tables.len() < 2 {
            return None;
        }
        let before = self.tables.pop_front()?;
        self.allow_tables();
        self.tables.front().copied().filter(|now| *now < before)
    }

    /// The sender may already use, or still use, any size on the list.
    fn allow_tables(&mut self) {
        let most = self.tables.iter().copied().max().unwrap_or(4096);
        self.decoder.allow_table(most);
    }
}

/// What of a SETTINGS frame concerns us.
#[derive(Default)]
pub(super) struct Announced {
    /// The pairs to pass on.
    pub(super) pairs: Vec<(u16, u32)>,
    pub(super) table: Option<u32>,
    pub(super) initial_window: Option<u32>,
}

impl Announced {
    /// Reads a SETTINGS payload; lowers a table beyond [`MAX_TABLE`], forbids push.
    pub(super) fn read(payload: &[u8]) -> Result<Self, Fault> {
        let malformed = |_| Fault::new(code::FRAME_SIZE_ERROR, "malformed SETTINGS");
        let mut announced = Self::default();
        for (id, value) in frame::settings(payload).map_err(malformed)? {
            let value = match id {
                setting::HEADER_TABLE_SIZE => *announced.table.insert(value.min(MAX_TABLE)),
                setting::ENABLE_PUSH => 0,
                setting::INITIAL_WINDOW_SIZE => *announced.initial_window.insert(value),
                _ => value,
            };
            announced.pairs.push((id, value));
        }
        Ok(announced)
    }
}
