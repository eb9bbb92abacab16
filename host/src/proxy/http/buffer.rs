//! The 64 KiB buffer of one direction. Its memory comes from a pool of the thread
//! and goes back while nothing is in it, so that idle connections hold none.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tidegate_wire::http1::MAX_HEAD;
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes of one buffer; a head must fit in it.
const SIZE: usize = MAX_HEAD;
/// Most buffers a thread keeps for reuse (4 MiB).
const POOLED: usize = 64;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes read and not yet passed on.
#[derive(Default)]
pub(super) struct Buffer {
    memory: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

impl Buffer {
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

    pub(super) fn is_full(&self) -> bool {
        self.end - self.start == SIZE
    }

    /// Forgets the first `count` bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Gives the memory back if nothing is in it.
    pub(super) fn release(&mut self) {
        if self.is_empty()
            && let Some(memory) = self.memory.take()
        {
            POOL.with_borrow_mut(|pool| {
                if pool.len() < POOLED {
                    pool.push(memory);
                }
            });
        }
    }

    /// Reads once; `Ok(0)` means the peer sends no more. Does not lose bytes when
    /// dropped while waiting. Must not be called while full.
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
        debug_assert!(!self.is_full(), "nowhere to read to");
        let (start, end) = (self.start, self.end);
        let memory = self.memory.get_or_insert_with(|| {
            POOL.with_borrow_mut(Vec::pop)
                .unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())
        });
        if end == SIZE {
            memory.copy_within(start..end, 0);
            (self.start, self.end) = (0, end - start);
        }
        let mut space = ReadBuf::new(&mut memory[self.end..]);
        ready!(Pin::new(reader).poll_read(cx, &mut space))?;
        let count = space.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.consume(SIZE);
        self.release();
    }
}
