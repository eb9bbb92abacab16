//! The buffer of one direction, 64 KiB or, for a client that has its part of the memory
//! already, less. Its memory comes from a pool of the thread and goes back while nothing
//! is in it, so that whoever waits holds none.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tidegate_wire::{http1::MAX_HEAD, http2::frame};
use tokio::io::{AsyncRead, ReadBuf};

use crate::budget::{Budget, Taken};

/// Bytes of a buffer; a head must fit in it.
const SIZE: usize = MAX_HEAD;
/// Bytes of one that everybody gets: the longest frame of HTTP/2 fits.
const SMALL: usize = frame::HEAD + frame::SAFE_PAYLOAD;
/// Most buffers a thread keeps for reuse (2 MiB).
const POOLED: usize = 32;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes read and not yet passed on.
pub(super) struct Buffer {
    memory: Option<Box<[u8]>>,
    /// Of a buffer of full size.
    taken: Option<Taken>,
    budget: Budget,
    start: usize,
    end: usize,
}

/// Says that a longer message would need more memory than its client has.
pub(super) const NO_MEMORY: &str = "no memory is left for this client";

impl Buffer {
    /// An empty one, for bytes of or for this client.
    pub(super) fn of(budget: &Budget) -> Self {
        Self {
            memory: None,
            taken: None,
            budget: budget.clone(),
            start: 0,
            end: 0,
        }
    }

    /// What was read and not consumed.
    pub(super) fn filled(&self) -> &[u8] {
        match &self.memory {
            Some(memory) => &memory[self.start..self.end],
            None => &[],
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Is there room for more bytes? Sees to it where it can be had.
    pub(super) fn has_room(&mut self) -> bool {
        let held = self.end - self.start;
        match &self.memory {
            None => self.obtain(),
            Some(memory) if held < memory.len() => {}
            Some(memory) if memory.len() == SIZE => return false,
            Some(_) => return self.grow(),
        }
        true
    }

    /// Forgets the first `count` bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Gives the memory back if nothing is in it.
    pub(super) fn release(&mut self) {
        if self.is_empty()
            && let Some(memory) = self.memory.take()
        {
            self.taken = None;
            POOL.with_borrow_mut(|pool| {
                if memory.len() == SIZE && pool.len() < POOLED {
                    pool.push(memory);
                }
            });
        }
    }

    /// Forgets everything, and gives the memory back.
    pub(super) fn forget(&mut self) {
        self.consume(usize::MAX);
        self.release();
    }

    /// Reads once; `Ok(0)` means the peer sends no more. Does not lose bytes when
    /// dropped while waiting.
    ///
    /// # Errors
    ///
    /// The reader's; `OutOfMemory` if there is no room.
    pub(super) async fn fill(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx, reader)).await
    }

    /// [`Self::fill`] for those who poll.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        if !self.has_room() {
            let error = io::Error::new(io::ErrorKind::OutOfMemory, NO_MEMORY);
            return Poll::Ready(Err(error));
        }
        let (start, end) = (self.start, self.end);
        let Some(memory) = &mut self.memory else {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        };
        if end == memory.len() {
            memory.copy_within(start..end, 0);
            (self.start, self.end) = (0, end - start);
        }
        let mut space = ReadBuf::new(&mut memory[self.end..]);
        let read = Pin::new(reader).poll_read(cx, &mut space);
        let count = space.filled().len();
        self.end += count;
        // Who waits holds nothing for it.
        self.release();
        read.map_ok(|()| count)
    }

    /// Memory of full size if the client may have it, else less.
    fn obtain(&mut self) {
        self.taken = self.budget.take(SIZE);
        self.memory = Some(match &self.taken {
            Some(_) => full(),
            None => vec![0; SMALL].into_boxed_slice(),
        });
    }

    /// Full size in place of less; false if the client may not have it.
    fn grow(&mut self) -> bool {
        let Some(taken) = self.budget.take(SIZE) else {
            return false;
        };
        let mut memory = full();
        let held = self.end - self.start;
        memory[..held].copy_from_slice(self.filled());
        (self.start, self.end) = (0, held);
        (self.memory, self.taken) = (Some(memory), Some(taken));
        true
    }
}

fn full() -> Box<[u8]> {
    POOL.with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Memory;

    #[tokio::test]
    async fn who_has_its_part_gets_by_with_less_and_gives_all_back() {
        // Three quarters of this are one buffer of full size.
        let memory = Memory::new(SIZE * 4 / 3 + 4);
        let budget = memory.budget();
        let (mut first, mut second) = (Buffer::of(&budget), Buffer::of(&budget));
        let mut endless = tokio::io::repeat(b'x');
        for (buffer, most) in [(&mut first, SIZE), (&mut second, SMALL)] {
            while buffer.has_room() {
                buffer.fill(&mut endless).await.unwrap();
            }
            assert_eq!(buffer.filled().len(), most);
            let error = buffer.fill(&mut endless).await.unwrap_err();
            assert_eq!(error.to_string(), NO_MEMORY);
        }
        first.forget();
        assert!(second.has_room(), "the other's part is free");
        assert!(second.filled() == [b'x'; SMALL], "nothing is lost");
        drop((first, second));
        assert!(budget.take(SIZE).is_some());
        // Waiting costs nothing.
        let (_silent, mut reader) = tokio::io::duplex(1);
        let mut waiting = Buffer::of(&budget);
        let read = poll_fn(|cx| Poll::Ready(waiting.poll_fill(cx, &mut reader))).await;
        assert!(read.is_pending());
        assert!(budget.take(SIZE).is_some());
    }
}
