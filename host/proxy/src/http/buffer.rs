//! The buffer of one direction, 64 KiB or, for a client that has most of its part of the
//! memory already, less. Its memory comes from a pool of the thread and goes back while nothing
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

use crate::budget::{Budget, Taken, no_memory};

/// Bytes of a buffer; a head must fit in it.
const SIZE: usize = MAX_HEAD;
/// Bytes of one for who has not that much left: the longest frame of HTTP/2 fits.
const SMALL: usize = frame::HEAD + frame::SAFE_PAYLOAD;
/// Most buffers a thread keeps for reuse (2 MiB).
const POOLED: usize = 32;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes read and not yet passed on.
pub(super) struct Buffer {
    memory: Option<Box<[u8]>>,
    /// Its part of the budget. None while it is only waited for bytes: for those alone
    /// is there memory that nobody counts, until the next look at the reader is over.
    taken: Option<Taken>,
    budget: Budget,
    start: usize,
    end: usize,
}

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
            return Poll::Ready(Err(no_memory()));
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
        if count > 0 && self.taken.is_none() {
            // It must not be kept.
            return Poll::Ready(Err(no_memory()));
        }
        self.end += count;
        // Who waits holds nothing for it.
        self.release();
        read.map_ok(|()| count)
    }

    /// Memory of full size if the client may have it, else less.
    fn obtain(&mut self) {
        let ample = self.budget.take_ample(SIZE);
        self.memory = Some(match &ample {
            Some(_) => full(),
            None => vec![0; SMALL].into_boxed_slice(),
        });
        self.taken = ample.or_else(|| self.budget.take(SMALL));
    }

    /// Full size in place of less; false if the client may not have it.
    fn grow(&mut self) -> bool {
        let Some(taken) = self.budget.take_ample(SIZE) else {
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
    use crate::budget::{Memory, NO_MEMORY};

    #[tokio::test]
    async fn who_has_its_part_gets_by_with_less_and_gives_all_back() {
        let memory = Memory::new(1 << 20);
        let budget = memory.budget();
        let mut endless = tokio::io::repeat(b'x');
        let mut buffers = Vec::new();
        // As many as there is memory for, each filled as far as it goes.
        let mut error = None;
        while error.is_none() && buffers.len() < 100 {
            let mut buffer = Buffer::of(&budget);
            match buffer.fill(&mut endless).await {
                Ok(_) => buffers.push(buffer),
                Err(refused) => {
                    error = Some(refused.to_string());
                    break;
                }
            }
            let last = buffers.last_mut().unwrap();
            while last.has_room() {
                last.fill(&mut endless).await.unwrap();
            }
        }
        assert_eq!(error.as_deref(), Some(NO_MEMORY));
        let sizes: Vec<_> = buffers.iter().map(|buffer| buffer.filled().len()).collect();
        let (full, small) = (4, (576 - 4 * 64) * 1024 / SMALL);
        assert_eq!(sizes[..full], vec![SIZE; full]);
        assert_eq!(sizes[full..], vec![SMALL; small], "every byte counts");
        let late = buffers.last_mut().unwrap();
        let error = late.fill(&mut endless).await.unwrap_err();
        assert_eq!(error.to_string(), NO_MEMORY);
        let mut late = buffers.pop().unwrap();
        drop(buffers);
        assert!(late.has_room(), "the others' part is free");
        assert!(late.filled() == [b'x'; SMALL], "nothing is lost");
        drop(late);
        let all = budget.take(9 * SIZE);
        assert!(all.is_some());
        // Waiting costs nothing, and fails nobody.
        let (_silent, mut reader) = tokio::io::duplex(1);
        let mut waiting = Buffer::of(&budget);
        let read = poll_fn(|cx| Poll::Ready(waiting.poll_fill(cx, &mut reader))).await;
        assert!(read.is_pending());
        drop(all);
        assert!(budget.take(9 * SIZE).is_some());
    }
}
