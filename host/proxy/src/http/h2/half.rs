//! The reading half of one direction: where in a frame or header block it is.

use tidegate_wire::http2::{
    BlockDecoder, Fields, Frame, MAX_BLOCK,
    frame::{self, SAFE_PAYLOAD, code, flag, kind},
};

use super::{Fault, outbox::Outbox};

/// Most frames of one header block.
const MAX_PIECES: u32 = 128;

/// What a step of a direction found.
pub(super) enum Step {
    /// Not enough bytes.
    More,
    /// So many bytes are dealt with.
    Took(usize),
    /// A DATA frame begins that carries so many bytes of a body.
    Data(Frame, u64),
    /// A frame of a type that is not known begins.
    Unknown(Frame),
    /// A whole frame, of so many bytes with its head.
    Whole(Frame, usize),
}

/// One direction, seen from its reader.
pub(super) struct Half {
    decoder: BlockDecoder,
    block: Option<OpenBlock>,
    /// Payload left of the frame that is passing, and whether it is thrown away.
    left: usize,
    discarded: bool,
    greeted: bool,
}

struct OpenBlock {
    stream: u32,
    end_stream: bool,
    depends_on_itself: bool,
    fragments: Vec<u8>,
    pieces: u32,
}

/// A complete header block.
pub(super) struct Block {
    pub(super) stream: u32,
    pub(super) end_stream: bool,
    /// An error of the stream (RFC 7540 §5.3.1).
    pub(super) depends_on_itself: bool,
    pub(super) fields: Fields,
    /// Its bytes as received.
    pub(super) length: usize,
}

impl Half {
    /// For header lists of at most so many bytes.
    pub(super) fn new(list: u32) -> Self {
        Self {
            decoder: BlockDecoder::with_list(list as usize),
            block: None,
            left: 0,
            discarded: false,
            greeted: false,
        }
    }

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
        if !self.greeted && (frame.kind != kind::SETTINGS || frame.has(flag::ACK)) {
            return Err(Fault::protocol("first frame is not SETTINGS"));
        }
        self.greeted = true;
        // Nobody is told that we would read longer ones.
        if frame.length as usize > SAFE_PAYLOAD {
            return Err(Fault::new(code::FRAME_SIZE_ERROR, "frame too long"));
        }
        let continues = frame.kind == kind::CONTINUATION;
        let expected = self.block.as_ref().map(|block| block.stream);
        if expected.is_some() != continues || (continues && expected != Some(frame.stream)) {
            return Err(Fault::protocol("header block interrupted"));
        }
        if frame.kind == kind::DATA {
            return data(frame, input);
        }
        if frame.kind > kind::CONTINUATION {
            return Ok(Step::Unknown(frame));
        }
        check(&frame)?;
        let length = frame::HEAD + frame.length as usize;
        Ok(match input.len() < length {
            true => Step::More,
            false => Step::Whole(frame, length),
        })
    }

    /// Memory of a block that has begun, bytes.
    pub(super) fn memory(&self) -> usize {
        let block = self.block.as_ref();
        block.map_or(0, |block| block.fragments.capacity())
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
    pub(super) fn headers(
        &mut self,
        frame: &Frame,
        payload: &[u8],
    ) -> Result<Option<Block>, Fault> {
        let fragment = frame
            .fragment(payload)
            .map_err(|_| Fault::protocol("malformed HEADERS"))?;
        let mut block = self.block.take().unwrap_or_else(|| OpenBlock {
            stream: frame.stream,
            end_stream: frame.has(flag::END_STREAM),
            depends_on_itself: frame.depends_on(payload) == Some(frame.stream),
            fragments: Vec::new(),
            pieces: 0,
        });
        block.pieces += 1;
        block.fragments.extend_from_slice(fragment);
        if block.fragments.len() > MAX_BLOCK || block.pieces > MAX_PIECES {
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
            depends_on_itself: block.depends_on_itself,
            fields,
            length: block.fragments.len(),
        }))
    }
}

/// A DATA frame, once its padding is known.
fn data(frame: Frame, input: &[u8]) -> Result<Step, Fault> {
    if frame.stream == 0 {
        return Err(Fault::protocol("DATA on stream 0"));
    }
    let length = u64::from(frame.length);
    if !frame.has(flag::PADDED) {
        return Ok(Step::Data(frame, length));
    }
    let too_much = Fault::protocol("more padding than DATA");
    let Some(rest) = length.checked_sub(1) else {
        return Err(too_much);
    };
    match input.get(frame::HEAD) {
        None => Ok(Step::More),
        Some(padding) => match rest.checked_sub(u64::from(*padding)) {
            Some(body) => Ok(Step::Data(frame, body)),
            None => Err(too_much),
        },
    }
}

/// Length and stream of a frame that is read as a whole (RFC 9113 §6).
fn check(frame: &Frame) -> Result<(), Fault> {
    let of_connection = matches!(frame.kind, kind::SETTINGS | kind::PING | kind::GOAWAY);
    let of_either = frame.kind == kind::WINDOW_UPDATE;
    if !of_either && of_connection != (frame.stream == 0) {
        return Err(Fault::protocol("frame on a stream it cannot be on"));
    }
    let fits = match frame.kind {
        kind::SETTINGS if frame.has(flag::ACK) => frame.length == 0,
        kind::SETTINGS => frame.length.is_multiple_of(6),
        kind::PING => frame.length == 8,
        kind::GOAWAY => frame.length >= 8,
        kind::RST_STREAM | kind::WINDOW_UPDATE => frame.length == 4,
        _ => true,
    };
    match fits {
        true => Ok(()),
        false => Err(Fault::new(
            code::FRAME_SIZE_ERROR,
            "frame of a wrong length",
        )),
    }
}
