//! HTTP/2 with prior knowledge, relayed frame by frame with the same stream ids.
//! This file moves the bytes; [`relay`] understands them.

mod calm;
mod closed;
mod half;
mod memory;
mod outbox;
mod refusal;
mod relay;
mod retirement;
mod settings;
#[cfg(test)]
mod tests;
mod window;

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tidegate_contract::{
    Failure,
    FailureKind::{
        ClientClosed, ClientProtocol, Overload, Retired, UpstreamProtocol, UpstreamReset,
    },
};
use tidegate_wire::http2::{
    Frame,
    frame::{PREFACE, code, write_goaway, write_settings},
};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use self::{outbox::Outbox, relay::Relay};
use super::{
    buffer::Buffer,
    ending::{cut_off, last_words},
    inspect::Inspector,
    watchdog::{Activity, Phase},
};
use crate::{
    budget::{Budget, NO_MEMORY, Taken},
    leg::Leg,
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

    /// What becomes of requests under way.
    fn failure(self) -> Failure {
        let kind = match self.code {
            code::NO_ERROR => Retired,
            code::ENHANCE_YOUR_CALM => Overload,
            // Of upstream: see below.
            code::INTERNAL_ERROR => UpstreamProtocol,
            _ => ClientProtocol,
        };
        kind.because(self.reason)
    }

    /// The same of upstream, as the client is told: it made no error.
    const fn of_upstream(self) -> Self {
        Self::new(code::INTERNAL_ERROR, self.reason)
    }
}

/// How long upstream may take to say that it speaks HTTP/2.
const GREETING: Duration = match cfg!(test) {
    false => Duration::from_secs(10),
    true => Duration::from_millis(300),
};

/// Steps of one turn: then other connections of the worker have theirs.
const TURN: u32 = 64;
/// Steps that a decided request counts for besides its own: its plugins take about so many
/// times as long as a frame that is passed on.
const DECISION: u32 = 7;

/// Why requests come to nothing whose connection somebody closed.
const CLOSED: &str = "connection closed";

/// Why a connection ends whose time has come.
const OLD: &str = "the connection is old";

/// What may wait on a connection beside its buffers, bytes, whatever its client has.
const ALWAYS: usize = 8 * 1024;

/// Relays one client connection whose `buffer` begins with the preface. Upstream is
/// asked when the first request may pass.
pub(super) async fn serve(
    client: &mut Leg,
    mut buffer: Buffer,
    inspector: &impl Inspector,
    activity: &Activity,
) {
    buffer.consume(PREFACE.len());
    activity.carry(inspector.options());
    let mut leg;
    let mut pair = Pair {
        relay: Relay::new(inspector, Instant::now(), activity.header_list()),
        client: End::new(client, buffer),
        upstream: None,
        activity,
        held: None,
    };
    let mut ended = pair.run().await;
    if let Ok(Ended::Asks) = ended {
        let greeting = pair.relay.greeting().unwrap_or_default();
        ended = match greet(inspector, greeting, activity.budget()).await {
            Ok((stream, buffer)) => {
                pair.relay.open();
                leg = stream;
                pair.upstream = Some(End::new(&mut leg, buffer));
                pair.run().await
            }
            Err(error) => {
                pair.relay.give_up(error.into());
                // What came along is answered too; the next ones come on a connection
                // for which upstream is tried again.
                Err(pair
                    .answer_all()
                    .err()
                    .unwrap_or(Fault::new(code::NO_ERROR, "upstream unreachable")))
            }
        };
    }
    match ended {
        Err(fault) => pair.relay.say_goodbye(fault),
        Ok(Ended::Reset) => {
            // A reset stays one.
            if let Some(upstream) = &pair.upstream {
                cut_off(upstream.stream);
            }
        }
        Ok(_) => {}
    }
    last_words(pair.client.stream, pair.relay.to_client.unsent()).await;
    let left = pair.client.ended || matches!(ended, Ok(Ended::Reset));
    let reason = match ended {
        Err(fault) => fault.failure(),
        Ok(_) if left => ClientClosed.because(CLOSED),
        Ok(_) => UpstreamReset.because(CLOSED),
    };
    pair.relay.finish(reason, left);
}

/// Ends the connection of a client that wants HTTP/2 and does not begin as it must
/// (RFC 9113 §3.4).
pub(super) async fn reject_preface(client: &mut Leg) {
    let mut bytes = Vec::new();
    write_settings(&[], &mut bytes);
    write_goaway(0, code::PROTOCOL_ERROR, "invalid preface", &mut bytes);
    last_words(client, &bytes).await;
}

/// Opens the other leg, and waits until it has said that it speaks HTTP/2: a server of
/// another protocol gets no byte that a client chose.
async fn greet(
    inspector: &impl Inspector,
    greeting: &[u8],
    budget: &Budget,
) -> io::Result<(Leg, Buffer)> {
    let mut stream = inspector.connect_upstream().await?;
    let mut buffer = Buffer::of(budget);
    let answer = async {
        stream.write_all(greeting).await?;
        stream.flush().await?;
        loop {
            match Frame::parse(buffer.filled()) {
                Some(frame) if frame.greets() => return Ok(()),
                Some(_) => return Err(io::Error::other("it does not speak HTTP/2")),
                None if buffer.fill(&mut stream).await? == 0 => {
                    return Err(io::Error::other("it closed instead of speaking HTTP/2"));
                }
                None => {}
            }
        }
    };
    match tokio::time::timeout(GREETING, answer).await {
        Ok(Ok(())) => Ok((stream, buffer)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// One of the two sockets.
struct End<'s> {
    stream: &'s mut Leg,
    buffer: Buffer,
    /// It sends no more.
    ended: bool,
    /// We told it that no more comes.
    shut: bool,
}

struct Pair<'p, I> {
    relay: Relay<'p, I>,
    client: End<'p>,
    /// Once a request may pass.
    upstream: Option<End<'p>>,
    activity: &'p Activity,
    /// Memory of what waits beside the buffers.
    held: Option<Taken>,
}

impl<'s> End<'s> {
    fn new(stream: &'s mut Leg, buffer: Buffer) -> Self {
        Self {
            stream,
            buffer,
            ended: false,
            shut: false,
        }
    }

    /// Reads once if there is room; tells if something changed.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.ended || !self.buffer.has_room() {
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
        match Pin::new(&mut *self.stream).poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(moved),
        }
    }
}

/// How a connection, or the part of it before upstream is asked, came to its end.
#[derive(Clone, Copy, Debug)]
enum Ended {
    /// A request may pass, and there is no upstream yet.
    Asks,
    /// One of the sockets is closed, or upstream's has failed.
    Closed,
    /// The client has failed.
    Reset,
}

impl<I: Inspector> Pair<'_, I> {
    async fn run(&mut self) -> Result<Ended, Fault> {
        let activity = self.activity;
        let moving = async {
            let mut turn = None;
            let mut look = pin!(activity.look());
            loop {
                let over = poll_fn(|cx| {
                    if look.as_mut().poll(cx).is_ready() {
                        self.look();
                        look.set(activity.look());
                        // For the next one to be told of.
                        cx.waker().wake_by_ref();
                    }
                    let polled = self.poll(cx);
                    if polled.is_pending() {
                        turn = None;
                    }
                    polled
                });
                match over.await? {
                    Some(ended) => return Ok(ended),
                    // However much there is to do, it is others' turn now; also of those
                    // whose sockets have just become ready.
                    None => {
                        drop(turn.take());
                        turn = activity.next_turn().await;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            ended = moving => ended,
            () = activity.expired() => Err(Fault::new(code::NO_ERROR, "idle for too long")),
        }
    }

    /// Does what is due without a byte having come.
    fn look(&mut self) {
        self.activity.carry(self.relay.options());
        if let Some(limit) = self.activity.response_timeout() {
            self.relay.give_up_overdue(limit);
        }
        if self.activity.is_old() || self.relay.is_over() {
            self.relay.retire();
        }
    }

    /// Moves bytes until one end is gone, or its turn is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Ended>, Fault>> {
        self.relay.refill(Instant::now());
        let mut steps = TURN;
        loop {
            match self.turn(cx, &mut steps) {
                Ok(Turn::Moved) if steps == 0 => {
                    self.activity.progress();
                    return Poll::Ready(Ok(None));
                }
                Ok(Turn::Moved) => self.activity.progress(),
                Ok(Turn::Asks) => return Poll::Ready(Ok(Some(Ended::Asks))),
                Ok(Turn::Over) => return Poll::Ready(Ok(Some(Ended::Closed))),
                Ok(Turn::Still) => match self.rest() {
                    Ok(()) => return Poll::Pending,
                    Err(fault) => return Poll::Ready(Err(fault)),
                },
                Err(Stop::Fault(fault)) => return Poll::Ready(Err(fault)),
                // A peer that is gone is not told anything.
                Err(Stop::Upstream) => return Poll::Ready(Ok(Some(Ended::Closed))),
                Err(Stop::Client) => return Poll::Ready(Ok(Some(Ended::Reset))),
            }
        }
    }

    /// Nothing is to be done until a socket is ready.
    fn rest(&mut self) -> Result<(), Fault> {
        self.activity.enter(match self.relay.is_idle() {
            true => Phase::Idle,
            false if self.relay.has_tunnel() => Phase::Tunnel,
            false => Phase::Exchange,
        });
        self.client.buffer.release();
        if let Some(upstream) = &mut self.upstream {
            upstream.buffer.release();
        }
        self.relay.release();
        self.held = None;
        let more = self.relay.waiting().saturating_sub(ALWAYS);
        if more > 0 {
            let held = self.activity.budget().take(more);
            self.held = Some(held.ok_or(Fault::new(code::ENHANCE_YOUR_CALM, NO_MEMORY))?);
        }
        Ok(())
    }

    fn turn(&mut self, cx: &mut Context<'_>, steps: &mut u32) -> Result<Turn, Stop> {
        let filled = self.client.poll_fill(cx);
        let mut moved = filled.map_err(|error| Stop::reading(&error, Stop::Client))?;
        if let Some(upstream) = &mut self.upstream {
            let filled = upstream.poll_fill(cx);
            moved |= filled.map_err(|error| Stop::reading(&error, Stop::Upstream))?;
        }
        // A busy client leaves half of a turn to upstream.
        let most = steps.div_ceil(2);
        let mut spent = 0;
        while spent < most
            && !self.relay.to_upstream.is_full()
            && !self.relay.to_client.is_overfull()
        {
            let count = self.relay.feed_client(self.client.buffer.filled())?;
            self.client.buffer.consume(count);
            if count == 0 {
                break;
            }
            spent += 1 + DECISION * self.relay.take_decided();
        }
        if let Some(upstream) = &mut self.upstream {
            while spent < *steps && !self.relay.to_client.is_full() {
                let count = self.relay.feed_upstream(upstream.buffer.filled())?;
                upstream.buffer.consume(count);
                if count == 0 {
                    break;
                }
                spent += 1;
            }
            let flushed = upstream.poll_flush(cx, &mut self.relay.to_upstream);
            moved |= flushed.map_err(|_| Stop::Upstream)?;
        }
        moved |= spent > 0;
        let flushed = self.client.poll_flush(cx, &mut self.relay.to_client);
        moved |= flushed.map_err(|_| Stop::Client)?;
        *steps = steps.saturating_sub(spent.max(1));
        if self.upstream.is_none() && self.relay.greeting().is_some() {
            return Ok(Turn::Asks);
        }
        if moved {
            return Ok(Turn::Moved);
        }
        if self.relay.has_retired() {
            return Err(Fault::new(code::NO_ERROR, OLD).into());
        }
        let quiet = self.relay.to_client.unsent().is_empty();
        let Some(upstream) = &mut self.upstream else {
            return Ok(match self.client.ended && quiet {
                true => Turn::Over,
                false => Turn::Still,
            });
        };
        if upstream.ended && quiet {
            return Ok(Turn::Over);
        }
        if self.client.ended && !upstream.shut && self.relay.to_upstream.unsent().is_empty() {
            upstream.shut = Pin::new(&mut *upstream.stream).poll_shutdown(cx).is_ready();
        }
        Ok(Turn::Still)
    }

    /// Deals with all that has come, when there is no upstream.
    fn answer_all(&mut self) -> Result<(), Fault> {
        loop {
            match self.relay.feed_client(self.client.buffer.filled())? {
                0 => return Ok(()),
                count => self.client.buffer.consume(count),
            }
        }
    }
}

enum Turn {
    Moved,
    Still,
    /// Upstream is wanted.
    Asks,
    Over,
}

enum Stop {
    Fault(Fault),
    Client,
    Upstream,
}

impl Stop {
    /// Reading has failed: `gone`, but for want of memory.
    fn reading(error: &io::Error, gone: Self) -> Self {
        match error.kind() {
            io::ErrorKind::OutOfMemory => {
                Self::Fault(Fault::new(code::ENHANCE_YOUR_CALM, NO_MEMORY))
            }
            _ => gone,
        }
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}
