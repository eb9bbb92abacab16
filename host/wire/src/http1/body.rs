//! Where a message body ends.

use super::chunked::{ChunkError, Chunked};

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes; 0 means there is no body.
    Length(u64),
    /// By the last chunk and its trailers.
    Chunked,
    /// As [`Self::Chunked`], with blanks after a chunk's size where servers put them
    /// (responses only: nobody can smuggle by them towards a client that asked).
    PaddedChunked,
    /// When the sender closes (responses only).
    UntilClose,
}

/// Follows a body as its bytes pass.
#[derive(Clone, Debug)]
pub enum Body {
    /// So many bytes are left.
    Length(u64),
    /// Inside a chunked body.
    Chunked(Chunked),
    /// Everything belongs to it.
    UntilClose,
}

impl Body {
    /// At the first byte of a body.
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunked::default()),
            Framing::PaddedChunked => Self::Chunked(Chunked::padded()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// How many of the next bytes belong to the body; they count as passed.
    pub fn advance(&mut self, input: &[u8]) -> Result<usize, ChunkError> {
        match self {
            Self::Length(left) => {
                let taken = (*left).min(input.len() as u64);
                *left -= taken;
                Ok(taken as usize)
            }
            Self::Chunked(chunked) => chunked.advance(input),
            Self::UntilClose => Ok(input.len()),
        }
    }

    /// Has its last byte passed?
    pub fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.is_done(),
            Self::UntilClose => false,
        }
    }
}
