//! Moves one message after another in one direction: original bytes from the
//! buffer, or a rewritten head followed by them.

use std::io::{self, IoSlice};

use tidegate_wire::http1::{Body, ChunkError, Framing};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::{buffer::Buffer, h1::Filtered, line::PAUSE, watchdog::Activity};
use crate::decide::{Attribution, exchange::Stop};

/// Why a message could not be passed to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum PumpError {
    /// Its sender failed or closed in the middle of it.
    #[error("{0}")]
    Sender(io::Error),
    /// Its receiver does not take more.
    #[error("{0}")]
    Receiver(io::Error),
    /// Its chunks are malformed.
    #[error("{0}")]
    Malformed(ChunkError),
    /// A filter that sees its body does not let it go on.
    #[error("stopped by a filter")]
    Stopped(Box<Stop>),
}

impl From<Stop> for PumpError {
    fn from(stop: Stop) -> Self {
        Self::Stopped(Box::new(stop))
    }
}

/// One direction of a connection.
pub(super) struct Pump {
    /// Bytes read from the sender; between messages it may hold the next ones.
    pub(super) buffer: Buffer,
    body: Body,
    /// A rewritten head, sent before anything in the buffer.
    head: Vec<u8>,
    head_sent: usize,
    /// Bytes at the front of the buffer that may be passed on.
    ready: usize,
    /// Filters see the body: what goes on stands in `head`, and not in the buffer.
    filtered: Option<Box<Filtered>>,
}

impl Pump {
    pub(super) fn new(buffer: Buffer) -> Self {
        Self {
            buffer,
            body: Body::Length(0),
            head: Vec::new(),
            head_sent: 0,
            ready: 0,
            filtered: None,
        }
    }

    /// Begins a message whose head is the first `head_len` bytes of the buffer and
    /// goes out as `rewritten` if that is given.
    pub(super) fn begin(
        &mut self,
        head_len: usize,
        rewritten: Option<Vec<u8>>,
        framing: Framing,
    ) -> Result<(), PumpError> {
        self.body = Body::new(framing);
        self.filtered = None;
        self.head_sent = 0;
        let kept = match rewritten {
            Some(head) => {
                self.buffer.consume(head_len);
                self.head = head;
                0
            }
            None => {
                self.head.clear();
                head_len
            }
        };
        self.ready = kept + self.advance(kept)?;
        Ok(())
    }

    /// Begins a message whose head is the first `head_len` bytes of the buffer, and whose body
    /// filters see.
    pub(super) fn begin_filtered(
        &mut self,
        head_len: usize,
        filtered: Filtered,
    ) -> Result<(), PumpError> {
        self.buffer.consume(head_len);
        self.head.clear();
        (self.head_sent, self.ready) = (0, 0);
        self.filtered = Some(Box::new(filtered));
        self.filter()
    }

    /// Does the head wait for what filters say of the body?
    pub(super) fn head_waits(&self) -> bool {
        let filtered = self.filtered.as_ref();
        filtered.is_some_and(|filtered| filtered.head_waits())
    }

    /// Reads as long as the head waits, and writes nothing.
    pub(super) async fn hold(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        activity: &Activity,
    ) -> Result<(), PumpError> {
        while self.head_waits() {
            self.turn().await;
            let count = self.buffer.fill(reader).await.map_err(PumpError::Sender)?;
            match count {
                0 => self.sender_closed()?,
                _ => self.filter()?,
            }
            activity.progress();
        }
        Ok(())
    }

    /// Waits until filters may be shown more.
    async fn turn(&self) {
        while self
            .filtered
            .as_ref()
            .is_some_and(|filtered| !filtered.is_ready())
        {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Has all of a message come that filters stopped?
    pub(super) fn stopped_at_its_end(&self) -> bool {
        let filtered = self.filtered.as_ref();
        filtered.is_some_and(|filtered| filtered.has_come())
    }

    /// Tells the record what became of the body in spite of filters.
    pub(super) fn tell(&mut self, attribution: &mut Attribution) {
        if let Some(filtered) = &mut self.filtered {
            filtered.tell(attribution);
        }
    }

    /// Puts what has come through the filters.
    fn filter(&mut self) -> Result<(), PumpError> {
        let Some(filtered) = &mut self.filtered else {
            return Ok(());
        };
        if self.head_sent == self.head.len() {
            self.head.clear();
            self.head_sent = 0;
        }
        let (used, fed) = filtered.feed(self.buffer.filled(), &mut self.head);
        self.buffer.consume(used);
        fed
    }

    fn sender_closed(&mut self) -> Result<(), PumpError> {
        match (&mut self.filtered, &self.body) {
            (Some(filtered), _) => filtered.close(&mut self.head),
            (None, Body::UntilClose) => Ok(()),
            (None, _) => Err(PumpError::Sender(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Forgets a message instead of passing it, `head_len` bytes and the body that
    /// has arrived already.
    pub(super) fn discard(&mut self, head_len: usize, framing: Framing) -> Result<(), PumpError> {
        self.begin(head_len, Some(Vec::new()), framing)?;
        self.buffer.consume(self.ready);
        self.ready = 0;
        Ok(())
    }

    /// Has the whole message been passed on?
    pub(super) fn is_done(&self) -> bool {
        self.has_come() && self.ready == 0 && self.head_sent == self.head.len()
    }

    /// Has the whole message been read, if not passed on?
    pub(super) fn has_come(&self) -> bool {
        match &self.filtered {
            Some(filtered) => filtered.is_done(),
            None => self.body.is_done(),
        }
    }

    /// Passes the message on, to its end. May be dropped and called again.
    pub(super) async fn run(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        activity: &Activity,
    ) -> Result<(), PumpError> {
        loop {
            while self.ready > 0 || self.head_sent < self.head.len() {
                self.write(writer).await.map_err(PumpError::Receiver)?;
                activity.progress();
            }
            writer.flush().await.map_err(PumpError::Receiver)?;
            if self.has_come() {
                return Ok(());
            }
            self.turn().await;
            let count = self.buffer.fill(reader).await.map_err(PumpError::Sender)?;
            if count == 0 {
                self.sender_closed()?;
                match self.filtered {
                    // What it ended with is still to be written.
                    Some(_) => continue,
                    None => return Ok(()),
                }
            }
            match self.filtered {
                Some(_) => self.filter()?,
                None => self.ready = self.advance(0)?,
            }
        }
    }

    /// Has everything been passed on that has come, so that more must come?
    pub(super) fn awaits_sender(&self) -> bool {
        !self.has_come() && self.ready == 0 && self.head_sent == self.head.len()
    }

    /// Reads and forgets the rest of the message; false if it is longer than about
    /// `limit` bytes.
    pub(super) async fn drain(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        limit: u64,
    ) -> Result<bool, PumpError> {
        let mut drained = 0;
        while !self.body.is_done() {
            if drained > limit {
                return Ok(false);
            }
            let count = self.buffer.fill(reader).await.map_err(PumpError::Sender)?;
            if count == 0 {
                return Err(PumpError::Sender(io::ErrorKind::UnexpectedEof.into()));
            }
            let body = self.advance(0)?;
            self.buffer.consume(body);
            drained += body as u64;
        }
        Ok(true)
    }

    fn advance(&mut self, from: usize) -> Result<usize, PumpError> {
        self.body
            .advance(&self.buffer.filled()[from..])
            .map_err(PumpError::Malformed)
    }

    /// One write of as much as there is.
    async fn write(&mut self, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let head = &self.head[self.head_sent..];
        let body = &self.buffer.filled()[..self.ready];
        let count = if head.is_empty() {
            writer.write(body).await?
        } else {
            let parts = [IoSlice::new(head), IoSlice::new(body)];
            writer.write_vectored(&parts).await?
        };
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let of_head = count.min(head.len());
        self.head_sent += of_head;
        self.buffer.consume(count - of_head);
        self.ready -= count - of_head;
        Ok(())
    }
}
