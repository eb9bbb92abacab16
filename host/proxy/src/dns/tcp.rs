//! DNS over TCP: messages with a length of two bytes in front (RFC 1035 §4.2.2, RFC
//! 7766). One upstream connection per client connection, opened for the first query
//! that may pass; answers are relayed in the order the server gives them.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::exchange::{Decided, Exchange};
use crate::{
    budget::{Budget, Taken, no_memory},
    flow::FlowContext,
};

/// A connection without a message for this long is closed (RFC 7766 §6.2.3 leaves the
/// time to the server).
const IDLE: Duration = Duration::from_secs(30);

/// Serves one connection until either side closes.
pub(crate) async fn serve(mut client: TcpStream, flow: &FlowContext, budget: &Budget) {
    let mut exchange = Exchange::new(flow);
    if let Err(error) = relay(&mut client, flow, &mut exchange, budget).await {
        tracing::debug!(source = %flow.source, %error, "a DNS connection ended");
        for answer in exchange.fail(&error) {
            if send(&mut client, &answer).await.is_err() {
                return;
            }
        }
    }
}

async fn relay(
    client: &mut TcpStream,
    flow: &FlowContext,
    exchange: &mut Exchange<'_>,
    budget: &Budget,
) -> io::Result<()> {
    let mut upstream: Option<TcpStream> = None;
    let mut queries = Frames::of(budget);
    let mut answers = Frames::of(budget);
    loop {
        let turn = async {
            tokio::select! {
                query = queries.next(&mut *client) => query.map(|query| (query, true)),
                answer = answers.next_of(upstream.as_mut()) => answer.map(|answer| (answer, false)),
            }
        };
        let turn = timeout(IDLE, turn).await;
        match turn.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "idle"))?? {
            (Some(query), true) => match exchange.query(&query) {
                Decided::Forward => {
                    let server = match &mut upstream {
                        Some(server) => server,
                        none => none.insert(flow.connect_upstream().await?),
                    };
                    send(server, &query).await?;
                }
                Decided::Reply(answer) => send(client, &answer).await?,
                Decided::Drop => return Ok(()),
            },
            (Some(answer), false) => {
                if exchange.answer(&answer) {
                    send(client, &answer).await?;
                }
            }
            // The client has said all it wants to; answers may still be on their way.
            (None, true) => {
                while !exchange.is_idle() {
                    let answer = timeout(IDLE, answers.next_of(upstream.as_mut())).await??;
                    let Some(answer) = answer else { break };
                    if exchange.answer(&answer) {
                        send(client, &answer).await?;
                    }
                }
                return Ok(());
            }
            (None, false) if exchange.is_idle() => return Ok(()),
            (None, false) => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the server closed the connection",
                ));
            }
        }
    }
}

async fn send(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    // One write, so that both arrive in one segment (RFC 7766 §8).
    let framed = [&length.to_be_bytes()[..], message].concat();
    stream.write_all(&framed).await
}

/// Messages of a stream. Reading can be given up at any point and taken up again.
struct Frames<'b> {
    buffer: Vec<u8>,
    budget: &'b Budget,
    /// Memory of a message that is longer than most.
    held: Option<Taken>,
}

/// Bytes of a message that every connection has room for: what most answers fit in.
const ALWAYS: usize = 2 * 1024;
/// Bytes of any message, and of those behind it that come with it: a vector grows by doubling.
const LONGEST: usize = 128 * 1024;

impl<'b> Frames<'b> {
    fn of(budget: &'b Budget) -> Self {
        Self {
            buffer: Vec::new(),
            budget,
            held: None,
        }
    }

    /// The next message; `None` at the end of the stream.
    async fn next(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(length) = self.buffer.first_chunk().map(|l| u16::from_be_bytes(*l)) {
                let end = 2 + usize::from(length);
                if self.buffer.len() >= end {
                    let rest = self.buffer.split_off(end);
                    let message = std::mem::replace(&mut self.buffer, rest);
                    if self.buffer.len() <= ALWAYS {
                        self.held = None;
                    }
                    return Ok(Some(message[2..].to_vec()));
                }
                if end > ALWAYS && self.held.is_none() {
                    self.held = Some(self.budget.take(LONGEST).ok_or_else(no_memory)?);
                }
            }
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// As [`Frames::next`], waiting for ever if there is no stream yet.
    async fn next_of(&mut self, stream: Option<&mut TcpStream>) -> io::Result<Option<Vec<u8>>> {
        match stream {
            Some(stream) => self.next(stream).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Memory;

    #[tokio::test]
    async fn a_long_message_takes_from_its_clients_part() {
        let message = |length: u16| [&length.to_be_bytes()[..], &vec![7; length.into()]].concat();
        let (short, long) = (message(512), message(60_000));
        let memory = Memory::new(1 << 20);
        let budget = memory.budget();
        let mut frames = Frames::of(&budget);
        let (first, rest) = long.split_at(30_000);
        let read = frames.next(&mut &*first).await.unwrap();
        assert_eq!(read, None, "the stream ended before the message did");
        // While it is coming, what it may take is nobody else's.
        let others: Vec<_> = std::iter::from_fn(|| budget.take(16 << 10)).collect();
        let read = frames.next(&mut &*rest).await.unwrap().unwrap();
        assert_eq!(read.len(), 60_000);
        assert!(budget.take(LONGEST).is_some(), "it is given back");
        let held = budget.take(LONGEST);
        let mut frames = Frames::of(&budget);
        let read = frames.next(&mut &*short).await.unwrap().unwrap();
        assert_eq!(read.len(), 512, "short ones need no part");
        let error = frames.next(&mut &*long).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        drop((others, held));
    }
}
