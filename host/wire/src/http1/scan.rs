//! Finds the end of a head without parsing it, so that a head that arrives byte by
//! byte costs linear time.

use super::{HeadError, MAX_HEAD};

/// Remembers how far a growing buffer was searched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadScan {
    scanned: usize,
    line_start: usize,
}

impl HeadScan {
    /// Looks at `buffer`, which begins with the head and only grows between calls.
    /// Returns the length of the head, its empty line included, once complete.
    pub fn advance(&mut self, buffer: &[u8]) -> Result<Option<usize>, HeadError> {
        // Another protocol may never send the line end we wait for: say no at once.
        if buffer.first().is_some_and(|byte| !byte.is_ascii_graphic()) {
            return Err(HeadError::Malformed);
        }
        while let Some(offset) = memchr::memchr(b'\n', &buffer[self.scanned..]) {
            let end_of_line = self.scanned + offset;
            if end_of_line >= MAX_HEAD {
                return Err(HeadError::TooLarge);
            }
            let line = &buffer[self.line_start..end_of_line];
            let Some(content) = line.strip_suffix(b"\r") else {
                return Err(HeadError::BareLineEnd);
            };
            self.scanned = end_of_line + 1;
            self.line_start = self.scanned;
            if content.is_empty() {
                return Ok(Some(self.scanned));
            }
        }
        self.scanned = buffer.len();
        if buffer.len() >= MAX_HEAD {
            return Err(HeadError::TooLarge);
        }
        Ok(None)
    }
}
