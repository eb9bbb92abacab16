//! DNS over TCP: messages with a length of two bytes in front (RFC 1035 §4.2.2, RFC
//! 7766). One upstream connection per client connection, opened for the first query
//! that may pass; answers are relayed in the order the server gives them.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::exchange::{Decided, Exchange};
use crate::flow::FlowContext;

/// A connection without a message for this long is closed (RFC 7766 §6.2.3 leaves the
/// time to the server).
const IDLE: Duration = Duration::from_secs(30);

/// Serves one connection until either side closes.
pub(crate) async fn serve(mut client: TcpStream, flow: &FlowContext) {
    let mut exchange = Exchange::new(flow);
    if let Err(error) = relay(&mut client, flow, &mut exchange).await {
        tracing::debug!(source = %flow.source, %error, "a DNS connection ended");
        for answer in exchange.fail(&error.to_string()) {
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
) -> io::Result<()> {
    let mut upstream: Option<TcpStream> = None;
    let mut queries = Frames::default();
    let mut answers = Frames::default();
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
#[derive(Default)]
struct Frames {
    buffer: Vec<u8>,
}

impl Frames {
    /// The next message; `None` at the end of the stream.
    async fn next(&mut self, stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(length) = self.buffer.first_chunk().map(|l| u16::from_be_bytes(*l)) {
                let end = 2 + usize::from(length);
                if self.buffer.len() >= end {
                    let rest = self.buffer.split_off(end);
                    let message = std::mem::replace(&mut self.buffer, rest);
                    return Ok(Some(message[2..].to_vec()));
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
