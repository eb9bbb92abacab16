//! Chunked bodies (RFC 9112 §7.1): only their end is looked for, but every byte is
//! checked against the grammar, because disagreement about it is smuggling.

use crate::http::is_token;

/// Most bytes of extensions after one chunk size.
const MAX_EXTENSION: u32 = 1024;
/// Most bytes of trailer fields.
const MAX_TRAILERS: u32 = 16 * 1024;
/// Hexadecimal digits of a chunk size; 15 stay clear of any overflow.
const MAX_DIGITS: u32 = 15;

/// The body is not what RFC 9112 §7.1 describes, or passes a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunked body")]
pub struct ChunkError;

/// Follows a chunked body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunked {
    state: State,
    /// Bytes or digits used up of the limit of the current part.
    used: u32,
    /// Size of the current chunk, then what is left of it.
    left: u64,
    /// May blanks follow a size?
    padded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    SizeBlank,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

impl Default for Chunked {
    fn default() -> Self {
        Self {
            state: State::Size,
            used: 0,
            left: 0,
            padded: false,
        }
    }
}

impl Chunked {
    /// A body whose sizes may have blanks behind them: `BWS` before an extension (RFC
    /// 9112 §7.1.1), and the padding to a fixed width of old servers.
    pub fn padded() -> Self {
        Self {
            padded: true,
            ..Self::default()
        }
    }

    /// How many of the next bytes belong to the body, framing included.
    pub fn advance(&mut self, input: &[u8]) -> Result<usize, ChunkError> {
        self.walk(input, |_, _| {})
    }

    /// As [`Self::advance`]; adds what is content, and the lines of trailers with the empty one
    /// that ends them.
    pub fn read(
        &mut self,
        input: &[u8],
        content: &mut Vec<u8>,
        trailers: &mut Vec<u8>,
    ) -> Result<usize, ChunkError> {
        self.walk(input, |state, bytes| match state {
            State::Data => content.extend_from_slice(bytes),
            State::TrailerStart
            | State::TrailerName
            | State::TrailerValue
            | State::TrailerLf
            | State::EndLf => trailers.extend_from_slice(bytes),
            _ => {}
        })
    }

    /// Tells of each piece in which state it was met.
    fn walk(
        &mut self,
        input: &[u8],
        mut meet: impl FnMut(State, &[u8]),
    ) -> Result<usize, ChunkError> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            if self.state == State::Data {
                let taken = self.left.min((input.len() - at) as u64);
                self.left -= taken;
                meet(State::Data, &input[at..at + taken as usize]);
                at += taken as usize;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
            } else {
                let state = self.state;
                self.state = self.step(input[at])?;
                meet(state, &input[at..=at]);
                at += 1;
            }
        }
        Ok(at)
    }

    /// Has its last byte passed?
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    fn step(&mut self, byte: u8) -> Result<State, ChunkError> {
        Ok(match (self.state, byte) {
            (State::Size, b'\r') if self.used > 0 => State::SizeLf,
            (State::Size, b';') if self.used > 0 => self.enter(State::Extension),
            (State::Size, b' ' | b'\t') if self.used > 0 && self.padded => {
                self.enter(State::SizeBlank)
            }
            (State::SizeBlank, b'\r') => State::SizeLf,
            (State::SizeBlank, b';') => self.enter(State::Extension),
            (State::SizeBlank, b' ' | b'\t') => {
                self.spend(MAX_EXTENSION)?;
                State::SizeBlank
            }
            (State::Size, _) => {
                let digit = (byte as char).to_digit(16).ok_or(ChunkError)?;
                self.spend(MAX_DIGITS)?;
                self.left = self.left << 4 | u64::from(digit);
                State::Size
            }
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, _) if is_text(byte) => {
                self.spend(MAX_EXTENSION)?;
                State::Extension
            }
            (State::SizeLf, b'\n') if self.left > 0 => State::Data,
            (State::SizeLf, b'\n') => self.enter(State::TrailerStart),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => self.enter(State::Size),
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart | State::TrailerName, _) if is_token(byte) => {
                self.spend(MAX_TRAILERS)?;
                State::TrailerName
            }
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, _) if is_text(byte) => {
                self.spend(MAX_TRAILERS)?;
                State::TrailerValue
            }
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::Done,
            _ => return Err(ChunkError),
        })
    }

    /// Starts a part with a limit of its own.
    fn enter(&mut self, state: State) -> State {
        self.used = 0;
        state
    }

    fn spend(&mut self, limit: u32) -> Result<(), ChunkError> {
        self.used += 1;
        if self.used > limit {
            return Err(ChunkError);
        }
        Ok(())
    }
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
