//! HTTP/1.0 and HTTP/1.1: one request at a time (pipelined ones wait in the
//! buffer), one upstream connection per client connection, opened for the first
//! request that may pass.

mod answer;
mod filtered;
mod plan;
mod response;
mod underway;

use std::{cell::Cell, future::poll_fn, io, pin::pin, task::Poll};

use tidegate_contract::{
    Failure,
    FailureKind::{
        ClientClosed, ClientProtocol, ClientTimeout, Overload, PluginFailed, UpstreamProtocol,
        UpstreamReset, UpstreamTimeout,
    },
};
use tidegate_wire::http1::HeadScan;
use tokio::io::AsyncWriteExt;

pub(super) use self::filtered::Filtered;
use self::{
    answer::Answer,
    plan::{DRAINABLE, Forward, Plan, Refuse, Unreadable},
    response::{Expectation, Received, Silence, receive},
    underway::{Progress, UNASKED, Underway},
};
use super::{
    buffer::Buffer,
    ending::{cut_off, last_words},
    inspect::{Inspector, NoUpstream},
    opening::Opening,
    pump::{Pump, PumpError},
    reply::Reply,
    tunnel,
    watchdog::{Activity, Phase},
};
use crate::{
    budget::{Memory, NO_MEMORY, Taken},
    decide::exchange::Stop,
    leg::{Leg, Unasked},
};

/// Relays one client connection until either side closes. `buffer` holds what was
/// read from the client already.
pub(super) async fn serve(
    client: &mut Leg,
    buffer: Buffer,
    inspector: &impl Inspector,
    activity: &Activity,
) {
    let underway = Underway::new(inspector);
    activity.carry(inspector.options());
    let mut connection = Connection {
        client,
        upstream: None,
        requests: Pump::new(buffer),
        responses: Pump::new(Buffer::of(activity.budget())),
        inspector,
        activity,
        underway: &underway,
    };
    let expired = tokio::select! {
        biased;
        () = connection.run() => false,
        () = activity.expired() => true,
    };
    if !expired {
        return underway.abandoned(ClientClosed.because("client closed the connection"));
    }
    let (status, error) = match connection.requests.awaits_sender() {
        _ if activity.is_evicted() => {
            (503, Overload.because("too many connections of this client"))
        }
        true => (408, ClientTimeout.because("client stopped sending")),
        false => (504, UpstreamTimeout.because("upstream timed out")),
    };
    let (progress, asker) = (underway.progress(), underway.asker());
    underway.failed(status, error.clone());
    match progress {
        Progress::Nothing => {}
        Progress::Asked => {
            let reply = Reply::error(status, error.what());
            let answer = Answer::last(&reply).to(asker).encode();
            last_words(connection.client, &answer).await;
        }
        Progress::Answered => connection.cut_off(),
    }
}

/// Would a request with this head pass? See [`super::would_pass`].
pub(super) fn would_pass(head: &[u8], inspector: &impl Inspector) -> bool {
    // What becomes of its body is not known.
    let budget = Memory::new(0).budget();
    matches!(plan::plan(head, inspector, &budget), Plan::Forward(_))
}

struct Connection<'a, I> {
    client: &'a mut Leg,
    upstream: Option<Leg>,
    requests: Pump,
    responses: Pump,
    inspector: &'a I,
    activity: &'a Activity,
    underway: &'a Underway<'a, I>,
}

/// What follows an exchange.
enum Next {
    Request,
    /// The end, and the client knows that it is.
    Close,
    /// The end in the middle of something.
    CutOff,
    Tunnel(Held),
}

/// What a tunnel is held to, and the memory of that.
type Held = (Box<Opening>, Taken);

impl<I: Inspector> Connection<'_, I> {
    async fn run(&mut self) {
        loop {
            let plan = match self.next_head().await {
                Ok(Some(head_len)) => {
                    let head = &self.requests.buffer.filled()[..head_len];
                    let budget = self.activity.budget();
                    (head_len, plan::plan(head, self.inspector, budget))
                }
                Ok(None) => return,
                Err(error) => (0, plan::unreadable(&error, self.inspector)),
            };
            self.activity.carry(self.inspector.options());
            self.activity.enter(Phase::Exchange);
            let next = match plan {
                (head_len, Plan::Refuse(refuse)) => self.refuse(head_len, refuse).await,
                (head_len, Plan::Forward(forward)) => self.forward(head_len, *forward).await,
            };
            match next {
                Next::Request => {}
                Next::Close => return,
                Next::CutOff => return self.cut_off(),
                Next::Tunnel(held) => return self.tunnel(held).await,
            }
        }
    }

    /// Waits for a complete request head; `None` if there will be no other one.
    async fn next_head(&mut self) -> Result<Option<usize>, Unreadable> {
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
                if let Err(unasked) = self.client_speaks().await {
                    if unasked == Unasked::Spoke {
                        self.underway.unasked();
                    }
                    return Ok(None);
                }
            }
            match self.requests.buffer.fill(self.client).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                    return Err(Unreadable::NoMemory);
                }
                Err(_) => {
                    // A reset stays one.
                    self.cut_off();
                    return Ok(None);
                }
            }
        }
    }

    /// Waits between requests. An error if upstream did something meanwhile: the client
    /// learns of its end as if it were connected directly, and never gets a response
    /// that it did not ask for (RFC 9112 §9.2).
    async fn client_speaks(&self) -> Result<(), Unasked> {
        poll_fn(|cx| {
            if let Poll::Ready(ready) = self.client.poll_readable(cx) {
                return Poll::Ready(ready.map_err(|_| Unasked::Ended));
            }
            let Some(upstream) = &self.upstream else {
                return Poll::Pending;
            };
            upstream.poll_unasked(cx).map(Err)
        })
        .await
    }

    /// Answers a request ourselves.
    async fn refuse(&mut self, head_len: usize, refuse: Refuse) -> Next {
        let Some(framing) = refuse.keep else {
            return self.say(&refuse.bytes).await;
        };
        if self.requests.discard(head_len, framing).is_err() {
            // Where the next request begins is not known; the answer is due all the same.
            return self.say(&refuse.bytes).await;
        }
        let said = async {
            self.client.write_all(&refuse.bytes).await?;
            self.client.flush().await
        };
        if said.await.is_err() {
            return Next::CutOff;
        }
        match self.requests.drain(self.client, DRAINABLE).await {
            Ok(true) => Next::Request,
            Ok(false) | Err(PumpError::Malformed(_)) => self.close().await,
            // It has its answer, and needs no more of it than that.
            Err(_) => Next::Close,
        }
    }

    /// Passes a request on and its response back.
    async fn forward(&mut self, head_len: usize, forward: Forward) -> Next {
        self.underway.begin(forward.exchange);
        let begun = match forward.filtered {
            Some(filtered) => self.see(head_len, filtered, forward.expects).await,
            None => self
                .requests
                .begin(head_len, forward.rewritten, forward.framing),
        };
        match begun {
            Ok(()) => {}
            Err(PumpError::Stopped(stop)) => return self.stop(*stop, forward.persistent).await,
            Err(PumpError::Malformed(error)) => {
                return self
                    .fail(400, ClientProtocol.because(error.to_string()))
                    .await;
            }
            Err(PumpError::Sender(error)) if error.kind() == io::ErrorKind::OutOfMemory => {
                return self.fail(503, Overload.because(NO_MEMORY)).await;
            }
            Err(error) => {
                self.underway
                    .abandoned(ClientClosed.because(error.to_string()));
                return Next::CutOff;
            }
        }
        let held = match forward.opening {
            None => None,
            Some(opening) => match self.activity.budget().take(opening.memory()) {
                Some(taken) => Some((opening, taken)),
                None => return self.fail(503, Overload.because(NO_MEMORY)).await,
            },
        };
        let reused = self.upstream.is_some();
        // What came before the request went out cannot be its response. The client sees
        // a close instead, after which it may repeat its request (RFC 9112 §9.3.1).
        if let Some(unasked) = self.upstream.as_ref().and_then(Leg::unasked) {
            self.underway.failed(
                0,
                match unasked {
                    Unasked::Spoke => UpstreamProtocol.because(UNASKED),
                    Unasked::Ended => UpstreamReset.because("upstream closed the connection"),
                },
            );
            return self.close().await;
        }
        let upstream = match &mut self.upstream {
            Some(upstream) => upstream,
            // Not given up if the client resets meanwhile: a handshake that nobody ends
            // would be in the way of the client's next connection from the same port.
            none => match self.inspector.connect_upstream().await {
                Ok(stream) => none.insert(stream),
                Err(error) => {
                    let because = NoUpstream::from(error);
                    return self.give_up(&because.reply(), because.error).await;
                }
            },
        };
        let expected = Expectation {
            may_upgrade: forward.may_upgrade,
            sees_response: &forward.sees_response,
            old: forward.old,
            request_sent: &Cell::new(false),
        };
        let exchange = exchange(
            (self.client, &mut self.requests),
            (upstream, &mut self.responses),
            &expected,
            self.underway,
            self.activity,
        );
        let received = tokio::select! {
            biased;
            received = exchange => received,
            () = unanswered(self.underway, self.activity) => {
                return self.fail(504, UpstreamTimeout.because("upstream timed out")).await;
            }
        };
        match received {
            Ok(Received::Complete { persistent: true })
                if forward.persistent && self.requests.is_done() =>
            {
                if self.responses.buffer.is_empty() {
                    return Next::Request;
                }
                self.underway.unasked();
                self.close().await
            }
            Ok(Received::Complete { .. } | Received::Replaced) => self.close().await,
            Ok(Received::Tunnel) => match held.filter(|_| self.requests.is_done()) {
                Some(held) => Next::Tunnel(held),
                None => Next::CutOff,
            },
            Ok(Received::Broken) => Next::CutOff,
            // On a connection that worked before, a client may repeat its request, but
            // only if it sees the close that happened.
            Ok(Received::Nothing(Silence::Gone(error))) if reused => {
                self.underway.failed(
                    0,
                    UpstreamReset.because(format!("upstream closed: {error}")),
                );
                Next::Close
            }
            Ok(Received::Nothing(Silence::Gone(error))) => {
                let error = UpstreamReset.because(format!("upstream closed: {error}"));
                self.fail(502, error).await
            }
            Ok(Received::Nothing(Silence::Malformed(error))) => {
                let error = UpstreamProtocol.because(format!("invalid response: {error}"));
                self.fail(502, error).await
            }
            Err(PumpError::Stopped(stop)) => {
                // What upstream has of it must not look like all of it.
                if let Some(upstream) = &self.upstream {
                    cut_off(upstream);
                }
                match self.underway.progress() {
                    Progress::Answered => {
                        let error = stop.attribution.error.unwrap_or_else(refused);
                        self.underway.failed(0, error);
                        Next::CutOff
                    }
                    _ => self.stop(*stop, false).await,
                }
            }
            Err(PumpError::Malformed(error)) if self.underway.progress() == Progress::Asked => {
                self.fail(400, ClientProtocol.because(error.to_string()))
                    .await
            }
            Err(error) => {
                self.underway
                    .abandoned(ClientClosed.because(error.to_string()));
                Next::CutOff
            }
        }
    }

    /// Begins a request whose body filters see, and reads as much of it as they want to see
    /// before its head goes on. Upstream is not asked so long.
    async fn see(
        &mut self,
        head_len: usize,
        filtered: Filtered,
        expects: bool,
    ) -> Result<(), PumpError> {
        self.requests.begin_filtered(head_len, filtered)?;
        if self.requests.head_waits() && expects && self.requests.buffer.is_empty() {
            // Upstream cannot say it, for it knows of nothing yet (RFC 9110 §10.1.1).
            let word = b"HTTP/1.1 100 Continue\r\n\r\n";
            let told = async {
                self.client.write_all(word).await?;
                self.client.flush().await
            };
            told.await.map_err(PumpError::Sender)?;
        }
        self.requests.hold(self.client, self.activity).await?;
        let requests = &mut self.requests;
        self.underway
            .change(|attribution, _| requests.tell(attribution));
        Ok(())
    }

    /// Answers a request that a filter stopped when it saw the body.
    async fn stop(&mut self, stop: Stop, persistent: bool) -> Next {
        let asker = self.underway.asker();
        let status = self.underway.stopped(*stop.attribution, stop.denial.status);
        let reply = Reply::from(stop.denial);
        debug_assert!(status.is_some(), "one is under way");
        // All of it has come, and nothing has gone on: the next one can be read.
        let keep = persistent && self.requests.stopped_at_its_end();
        let answer = Answer {
            reply: &reply,
            close: !keep,
            asker,
        };
        let bytes = answer.encode();
        if !keep {
            return self.say(&bytes).await;
        }
        let said = async {
            self.client.write_all(&bytes).await?;
            self.client.flush().await
        };
        match said.await {
            Ok(()) => Next::Request,
            Err(_) => Next::CutOff,
        }
    }

    /// Ends in order: the client has its answer.
    async fn close(&mut self) -> Next {
        self.say(&[]).await
    }

    /// Says the last, and ends.
    async fn say(&mut self, bytes: &[u8]) -> Next {
        // Upstream need not wait for the client's end, and whoever needs the place may
        // have it.
        self.upstream = None;
        self.requests.buffer.forget();
        self.responses.buffer.forget();
        self.activity.enter(Phase::Idle);
        last_words(self.client, bytes).await;
        Next::Close
    }

    /// What was passed on is not all there is: both ends must see that.
    fn cut_off(&self) {
        cut_off(&*self.client);
        if let Some(upstream) = &self.upstream {
            cut_off(upstream);
        }
    }

    /// Tells the client that its request came to nothing.
    async fn fail(&mut self, status: u16, error: Failure) -> Next {
        self.give_up(&Reply::error(status, error.what()), error)
            .await
    }

    /// Says and records something that is not the same.
    async fn give_up(&mut self, reply: &Reply, error: Failure) -> Next {
        let asker = self.underway.asker();
        self.underway.failed(reply.status, error);
        let answer = Answer::last(reply).to(asker).encode();
        self.say(&answer).await
    }

    async fn tunnel(&mut self, (opening, _taken): Held) {
        self.activity.enter(Phase::Tunnel);
        let Some(upstream) = &mut self.upstream else {
            return;
        };
        let empty = || Buffer::of(self.activity.budget());
        let sent = std::mem::replace(&mut self.requests.buffer, empty());
        let received = std::mem::replace(&mut self.responses.buffer, empty());
        let passes = || opening.still_passes(self.inspector);
        tunnel::relay(self.client, sent, upstream, received, passes).await;
    }
}

/// What the record says of a body that was refused when it had begun to pass.
fn refused() -> Failure {
    PluginFailed.because("a filter refused the rest of the body")
}

/// Returns when a request has waited for the head of its response for as long as it may.
async fn unanswered(underway: &Underway<'_, impl Inspector>, activity: &Activity) {
    if let Some(limit) = activity.response_timeout() {
        tokio::time::sleep(limit).await;
        if underway.progress() == Progress::Asked {
            return;
        }
    }
    std::future::pending().await
}

/// Sends the request and receives the response, both at once. An error is the client's.
async fn exchange(
    (client, requests): (&mut Leg, &mut Pump),
    (upstream, responses): (&mut Leg, &mut Pump),
    expected: &Expectation<'_>,
    underway: &Underway<'_, impl Inspector>,
    activity: &Activity,
) -> Result<Received, PumpError> {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_upstream, mut to_upstream) = upstream.split();
    let sending = async {
        match requests
            .run(&mut from_client, &mut to_upstream, activity)
            .await
        {
            Ok(()) => expected.request_sent.set(true),
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
        underway,
        activity,
    );
    let (mut sending, mut receiving) = (pin!(sending), pin!(receiving));
    // The request goes first: on a quiet connection the response needs it.
    tokio::select! {
        biased;
        error = &mut sending => Err(error),
        received = &mut receiving => Ok(received),
    }
}

/// While the response is awaited: reads ahead as far as the buffer goes, hands on
/// the client's end of stream. Returns only when the client has failed.
async fn watch(
    buffer: &mut Buffer,
    from_client: &mut (impl tokio::io::AsyncRead + Unpin),
    to_upstream: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> PumpError {
    while buffer.has_room() {
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
