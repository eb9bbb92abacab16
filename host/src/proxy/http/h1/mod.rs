//! HTTP/1.0 and HTTP/1.1: one request at a time (pipelined ones wait in the
//! buffer), one upstream connection per client connection, opened for the first
//! request that may pass.

mod answer;
mod plan;
mod response;

use std::{cell::RefCell, future::poll_fn, io, pin::pin, task::Poll};

use tidegate_wire::http1::{HeadError, HeadScan};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use self::{
    answer::Answer,
    plan::{DRAINABLE, Forward, Plan, Refuse},
    response::{Expectation, Received, Silence, receive},
};
use super::{
    buffer::Buffer,
    exchange::Exchange,
    inspect::{Inspector, no_upstream},
    last_words::last_words,
    pump::{Pump, PumpError},
    tunnel,
    watchdog::{Activity, Phase},
};

/// Relays one client connection until either side closes. `buffer` holds what was
/// read from the client already.
pub(super) async fn serve(
    client: &mut TcpStream,
    buffer: Buffer,
    inspector: &impl Inspector,
    activity: &Activity,
) {
    let exchange = RefCell::new(None);
    let mut connection = Connection {
        client,
        upstream: None,
        requests: Pump::new(buffer),
        responses: Pump::new(Buffer::default()),
        inspector,
        activity,
        exchange: &exchange,
    };
    let expired = tokio::select! {
        biased;
        () = connection.run() => false,
        () = activity.expired() => true,
    };
    // No record yet means no final response has begun.
    let Some(exchange) = exchange.take() else {
        return;
    };
    if expired {
        let (status, error) = match connection.requests.awaits_sender() {
            true => (408, "client stopped sending"),
            false => (504, "upstream timed out"),
        };
        exchange.failed(status, error, inspector);
        let answer = Answer::error(status, &format!("{error}\r\n")).encode();
        last_words(connection.client, &answer).await;
    } else {
        exchange.failed(0, "client closed the connection", inspector);
    }
}

struct Connection<'a, I> {
    client: &'a mut TcpStream,
    upstream: Option<TcpStream>,
    requests: Pump,
    responses: Pump,
    inspector: &'a I,
    activity: &'a Activity,
    /// The request under way, until its record is kept.
    exchange: &'a RefCell<Option<Exchange>>,
}

/// What follows an exchange.
enum Next {
    Request,
    Close,
    Tunnel,
}

impl<I: Inspector> Connection<'_, I> {
    async fn run(&mut self) {
        loop {
            let plan = match self.next_head().await {
                Ok(Some(head_len)) => {
                    let head = &self.requests.buffer.filled()[..head_len];
                    (head_len, plan::plan(head, self.inspector))
                }
                Ok(None) => return,
                Err(error) => (0, plan::unreadable(error, self.inspector)),
            };
            self.activity.enter(Phase::Exchange);
            let next = match plan {
                (head_len, Plan::Refuse(refuse)) => self.refuse(head_len, refuse).await,
                (head_len, Plan::Forward(forward)) => self.forward(head_len, forward).await,
            };
            match next {
                Next::Request => {}
                Next::Close => return,
                Next::Tunnel => return self.tunnel().await,
            }
        }
    }

    /// Waits for a complete request head; `None` if there will be no other one.
    async fn next_head(&mut self) -> Result<Option<usize>, HeadError> {
        let mut scan = HeadScan::default();
        loop {
            let buffer = &mut self.requests.buffer;
            // Empty lines before a request are skipped (RFC 9112 §2.2).
            while buffer.filled().starts_with(b"\r\n") && scan == HeadScan::default() {
                buffer.consume(2);
            }
            if !buffer.is_empty() && buffer.filled() != b"\r" {
                if let Some(head_len) = scan.advance(buffer.filled())? {
                    return Ok(Some(head_len));
                }
                self.activity.enter(Phase::Head);
            } else {
                self.activity.enter(Phase::Idle);
                buffer.release();
                self.responses.buffer.release();
                if !self.client_speaks().await {
                    return Ok(None);
                }
            }
            match self.requests.buffer.fill(self.client).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    }

    /// Waits between requests. False if upstream ended the connection meanwhile: the
    /// client learns of it as if it were connected directly.
    async fn client_speaks(&self) -> bool {
        poll_fn(|cx| {
            if let Poll::Ready(ready) = self.client.poll_read_ready(cx) {
                return Poll::Ready(ready.is_ok());
            }
            let Some(upstream) = &self.upstream else {
                return Poll::Pending;
            };
            while upstream.poll_read_ready(cx).is_ready() {
                match upstream.try_read(&mut [0]) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // Closed, failed, or speaks without having been asked.
                    _ => return Poll::Ready(false),
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Answers a request ourselves.
    async fn refuse(&mut self, head_len: usize, refuse: Refuse) -> Next {
        let Some(framing) = refuse.keep else {
            last_words(self.client, &refuse.bytes).await;
            return Next::Close;
        };
        if self.requests.discard(head_len, framing).is_err()
            || self.client.write_all(&refuse.bytes).await.is_err()
        {
            return Next::Close;
        }
        match self.requests.drain(self.client, DRAINABLE).await {
            Ok(true) => Next::Request,
            Ok(false) => {
                last_words(self.client, &[]).await;
                Next::Close
            }
            Err(_) => Next::Close,
        }
    }

    /// Passes a request on and its response back.
    async fn forward(&mut self, head_len: usize, forward: Forward) -> Next {
        *self.exchange.borrow_mut() = Some(forward.exchange);
        if let Err(error) = self
            .requests
            .begin(head_len, forward.rewritten, forward.framing)
        {
            return self.fail(400, &describe(&error)).await;
        }
        let reused = self.upstream.is_some();
        let upstream = match &mut self.upstream {
            Some(upstream) => upstream,
            none => match self.inspector.connect_upstream().await {
                Ok(stream) => none.insert(stream),
                Err(error) => {
                    let (status, reason) = no_upstream(&error);
                    return self.fail(status, &reason).await;
                }
            },
        };
        let expected = Expectation {
            may_upgrade: forward.may_upgrade,
            sees_response: forward.sees_response,
            exchange: self.exchange,
        };
        let received = exchange(
            (self.client, &mut self.requests),
            (upstream, &mut self.responses),
            &expected,
            self.inspector,
            self.activity,
        )
        .await;
        match received {
            Received::Complete { persistent: true } if forward.persistent => self.rest().await,
            Received::Complete { .. } => {
                last_words(self.client, &[]).await;
                Next::Close
            }
            Received::Tunnel => Next::Tunnel,
            Received::Broken => Next::Close,
            // On a connection that worked before, a client may repeat its request
            // (RFC 9112 §9.3.1), but only if it sees the close that happened.
            Received::Nothing(Silence::Gone(error)) if reused => {
                self.finish_failed(0, &format!("upstream closed: {error}"));
                Next::Close
            }
            Received::Nothing(Silence::Gone(error)) => {
                self.fail(502, &format!("upstream closed: {error}")).await
            }
            Received::Nothing(Silence::Malformed(error)) => {
                self.fail(502, &format!("invalid response: {error}")).await
            }
        }
    }

    /// The response came before the request had been sent: pass on what is left.
    async fn rest(&mut self) -> Next {
        if self.requests.is_done() {
            return Next::Request;
        }
        let Some(upstream) = &mut self.upstream else {
            return Next::Close;
        };
        match self
            .requests
            .run(self.client, upstream, self.activity)
            .await
        {
            Ok(()) => Next::Request,
            Err(_) => Next::Close,
        }
    }

    /// Tells the client that its request came to nothing.
    async fn fail(&mut self, status: u16, error: &str) -> Next {
        self.finish_failed(status, error);
        let answer = Answer::error(status, &format!("{error}\r\n")).encode();
        last_words(self.client, &answer).await;
        Next::Close
    }

    fn finish_failed(&self, status: u16, error: &str) {
        if let Some(exchange) = self.exchange.take() {
            exchange.failed(status, error, self.inspector);
        }
    }

    async fn tunnel(&mut self) {
        self.activity.enter(Phase::Tunnel);
        let Some(upstream) = &mut self.upstream else {
            return;
        };
        let sent = std::mem::take(&mut self.requests.buffer);
        let received = std::mem::take(&mut self.responses.buffer);
        tunnel::relay(self.client, sent, upstream, received).await;
    }
}

/// Sends the request and receives the response, both at once.
async fn exchange(
    (client, requests): (&mut TcpStream, &mut Pump),
    (upstream, responses): (&mut TcpStream, &mut Pump),
    expected: &Expectation<'_>,
    inspector: &impl Inspector,
    activity: &Activity,
) -> Received {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_upstream, mut to_upstream) = upstream.split();
    let sending = async {
        match requests
            .run(&mut from_client, &mut to_upstream, activity)
            .await
        {
            Ok(()) => {}
            // Upstream may have answered before it stopped listening.
            Err(PumpError::Receiver(_)) => return std::future::pending().await,
            Err(error) => return error,
        }
        watch(&mut requests.buffer, &mut from_client, &mut to_upstream).await
    };
    let receiving = receive(
        responses,
        &mut from_upstream,
        &mut to_client,
        expected,
        inspector,
        activity,
    );
    let (mut sending, mut receiving) = (pin!(sending), pin!(receiving));
    // The request goes first: on a quiet connection the response needs it.
    tokio::select! {
        biased;
        error = &mut sending => {
            if let Some(exchange) = expected.exchange.take() {
                exchange.failed(0, &describe(&error), inspector);
            }
            Received::Broken
        }
        received = &mut receiving => received,
    }
}

/// While the response is awaited: reads ahead as far as the buffer goes, hands on
/// the client's end of stream. Returns only when the client has failed.
async fn watch(
    buffer: &mut Buffer,
    from_client: &mut (impl tokio::io::AsyncRead + Unpin),
    to_upstream: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> PumpError {
    while !buffer.is_full() {
        match buffer.fill(from_client).await {
            Ok(0) => {
                let _ = to_upstream.shutdown().await;
                break;
            }
            Ok(_) => {}
            Err(error) => return PumpError::Sender(error),
        }
    }
    std::future::pending().await
}

fn describe(error: &PumpError) -> String {
    match error {
        PumpError::Sender(error) | PumpError::Receiver(error) => error.to_string(),
        PumpError::Malformed(error) => error.to_string(),
    }
}
