//! HTTP/2 with prior knowledge, relayed frame by frame with the same stream ids.
//! This file moves the bytes; [`relay`] understands them.

mod half;
mod outbox;
mod refusal;
mod relay;
#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tidegate_wire::http2::frame::{PREFACE, code};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use self::{outbox::Outbox, relay::Relay};
use super::{
    buffer::Buffer,
    inspect::{Inspector, no_upstream},
    last_words::last_words,
    watchdog::{Activity, Phase},
};

/// Why a connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault {
    /// RFC 9113 §7.
    code: u32,
    reason: &'static str,
}

impl Fault {
    const fn new(code: u32, reason: &'static str) -> Self {
        Self { code, reason }
    }

    const fn protocol(reason: &'static str) -> Self {
        Self::new(code::PROTOCOL_ERROR, reason)
    }
}

/// Relays one client connection whose `buffer` begins with the preface.
pub(super) async fn serve(
    client: &mut TcpStream,
    mut buffer: Buffer,
    inspector: &impl Inspector,
    activity: &Activity,
) {
    let mut upstream = match inspector.connect_upstream().await {
        Ok(upstream) => upstream,
        Err(error) => return unreachable(client, buffer, &error, inspector).await,
    };
    buffer.consume(PREFACE.len());
    let mut relay = Relay::new(inspector);
    relay.to_upstream.pass(PREFACE, 0);
    let mut pair = Pair {
        relay,
        client: End::new(client, buffer),
        upstream: End::new(&mut upstream, Buffer::default()),
        activity,
    };
    let ended = tokio::select! {
        biased;
        ended = poll_fn(|cx| pair.poll(cx)) => ended,
        () = activity.expired() => Err(Fault::new(code::NO_ERROR, "idle for too long")),
    };
    if let Err(fault) = ended {
        pair.relay.say_goodbye(fault);
    }
    last_words(pair.client.stream, pair.relay.to_client.unsent()).await;
    let reason = ended.map_or_else(|fault| fault.reason, |()| "connection closed");
    pair.relay.finish(reason);
}

/// How long a client may take to send its first request when there is no upstream.
const FIRST_REQUEST: Duration = Duration::from_secs(60);

/// Answers the requests that have come when there is no upstream, and ends: the next
/// ones come on a connection for which upstream is tried again.
async fn unreachable(
    client: &mut TcpStream,
    mut buffer: Buffer,
    error: &io::Error,
    inspector: &impl Inspector,
) {
    let (status, reason) = no_upstream(error);
    let mut relay = Relay::unreachable(inspector, status, reason);
    buffer.consume(PREFACE.len());
    let answering = answer_all(client, &mut buffer, &mut relay);
    let fault = match tokio::time::timeout(FIRST_REQUEST, answering).await {
        Ok(Err(Stop::Socket)) => return,
        Ok(Err(Stop::Fault(fault))) => fault,
        Ok(Ok(())) | Err(_) => Fault::new(code::NO_ERROR, "upstream unreachable"),
    };
    relay.say_goodbye(fault);
    last_words(client, relay.to_client.unsent()).await;
}

/// Reads until a request has come, and deals with it and all that came along.
async fn answer_all(
    client: &mut TcpStream,
    buffer: &mut Buffer,
    relay: &mut Relay<'_, impl Inspector>,
) -> Result<(), Stop> {
    loop {
        loop {
            match relay.feed_client(buffer.filled())? {
                0 => break,
                count => buffer.consume(count),
            }
        }
        relay.to_upstream.mark_sent(usize::MAX);
        if relay.has_begun() || buffer.is_full() {
            return Ok(());
        }
        client.write_all(relay.to_client.unsent()).await?;
        relay.to_client.mark_sent(usize::MAX);
        if buffer.fill(client).await? == 0 {
            return Ok(());
        }
    }
}

/// One of the two sockets.
struct End<'s> {
    stream: &'s mut TcpStream,
    buffer: Buffer,
    /// It sends no more.
    ended: bool,
    /// We told it that no more comes.
    shut: bool,
}

struct Pair<'p, I> {
    relay: Relay<'p, I>,
    client: End<'p>,
    upstream: End<'p>,
    activity: &'p Activity,
}

impl<'s> End<'s> {
    fn new(stream: &'s mut TcpStream, buffer: Buffer) -> Self {
        Self {
            stream,
            buffer,
            ended: false,
            shut: false,
        }
    }

    /// Reads once if there is room; tells if something changed.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.ended || self.buffer.is_full() {
            return Ok(false);
        }
        match self.buffer.poll_fill(cx, self.stream) {
            Poll::Ready(Ok(count)) => {
                self.ended = count == 0;
                Ok(true)
            }
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok(false),
        }
    }

    /// Writes what waits; tells if something changed.
    fn poll_flush(&mut self, cx: &mut Context<'_>, outbox: &mut Outbox) -> io::Result<bool> {
        let mut moved = false;
        while !outbox.unsent().is_empty() {
            match Pin::new(&mut *self.stream).poll_write(cx, outbox.unsent()) {
                Poll::Ready(Ok(count)) => outbox.mark_sent(count),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
            moved = true;
        }
        Ok(moved)
    }
}

impl<I: Inspector> Pair<'_, I> {
    /// Moves bytes until one end is gone.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            match self.turn(cx) {
                Ok(Turn::Moved) => self.activity.progress(),
                Ok(Turn::Over) => return Poll::Ready(Ok(())),
                Ok(Turn::Still) => {
                    self.activity.enter(match self.relay.is_idle() {
                        true => Phase::Idle,
                        false => Phase::Exchange,
                    });
                    self.client.buffer.release();
                    self.upstream.buffer.release();
                    return Poll::Pending;
                }
                Err(Stop::Fault(fault)) => return Poll::Ready(Err(fault)),
                // A peer that is gone is not told anything.
                Err(Stop::Socket) => return Poll::Ready(Ok(())),
            }
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<Turn, Stop> {
        let mut moved = self.client.poll_fill(cx)?;
        moved |= self.upstream.poll_fill(cx)?;
        while !self.relay.to_upstream.is_full() && !self.relay.to_client.is_overfull() {
            let count = self.relay.feed_client(self.client.buffer.filled())?;
            self.client.buffer.consume(count);
            if count == 0 {
                break;
            }
            moved = true;
        }
        while !self.relay.to_client.is_full() {
            let count = self.relay.feed_upstream(self.upstream.buffer.filled())?;
            self.upstream.buffer.consume(count);
            if count == 0 {
                break;
            }
            moved = true;
        }
        moved |= self.upstream.poll_flush(cx, &mut self.relay.to_upstream)?;
        moved |= self.client.poll_flush(cx, &mut self.relay.to_client)?;
        if moved {
            return Ok(Turn::Moved);
        }
        if self.upstream.ended && self.relay.to_client.unsent().is_empty() {
            return Ok(Turn::Over);
        }
        if self.client.ended && !self.upstream.shut && self.relay.to_upstream.unsent().is_empty() {
            self.upstream.shut = Pin::new(&mut *self.upstream.stream)
                .poll_shutdown(cx)
                .is_ready();
        }
        Ok(Turn::Still)
    }
}

enum Turn {
    Moved,
    Still,
    Over,
}

enum Stop {
    Fault(Fault),
    Socket,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::Socket
    }
}
