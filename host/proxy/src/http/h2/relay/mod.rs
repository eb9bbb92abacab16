//! The two directions of one HTTP/2 connection pair. No IO: bytes in, bytes into
//! two outboxes.
//!
//! Stream ids and stream windows are end to end: upstream sees the client's own
//! streams, minus the ones we refuse. Everything else is each leg's own:
//!
//! - Upstream gets nothing, not even a greeting, before the first request that may pass.
//! - Header blocks of both directions are decoded, checked and written again, with a
//!   table of our own towards each peer, as blocks of refused requests and of answers
//!   nobody waits for are missing from the other leg.
//! - Frames that are wrong are the sender's error: of the stream where RFC 9113 says so,
//!   else of the connection. Frames of unknown types are forgotten.
//! - Frames of a stream that is not open are forgotten, and their flow-control credit
//!   goes back to the sender.
//! - Bodies of our own refusals need connection window that upstream does not know
//!   of: see [`window`](super::window).

mod client;
mod request;
mod upstream;

use std::{
    collections::{HashMap, VecDeque},
    rc::Rc,
    time::{Duration, Instant},
};

use tidegate_contract::{
    Failure,
    FailureKind::{RulesChanged, UpstreamTimeout},
};
use tidegate_policy::http_options::HttpOptions;
use tidegate_wire::http2::{
    Length, TableEncoder,
    frame::{self, PREFACE, code},
};

use super::{
    Fault,
    calm::Calm,
    closed::{Closed, Past},
    half::Half,
    memory::{Held, Share},
    outbox::Outbox,
    retirement::Retirement,
    settings::Settings,
    window::ClientWindow,
};
use crate::http::{
    exchange::Exchange,
    inspect::{Inspector, NoUpstream},
    opening::Opening,
    reply::{Asker, Reply},
    request::Sees,
};

/// Most SETTINGS of one peer that may wait for the other's acknowledgement.
const MAX_UNACKED: usize = 32;

/// One connection pair.
pub(super) struct Relay<'a, I> {
    inspector: &'a I,
    pub(super) to_client: Outbox,
    pub(super) to_upstream: Outbox,
    requests: Half,
    responses: Half,
    /// Longest header list either way, bytes.
    list: u32,
    request_blocks: TableEncoder,
    response_blocks: TableEncoder,
    expansion: Expansion,
    streams: HashMap<u32, Stream>,
    closed: Closed,
    highest_stream: u32,
    upstream: Upstream,
    upstream_greeted: bool,
    /// What the client has announced so far, if it has.
    client: Option<Settings>,
    /// What a new stream may send to the client.
    stream_window: i64,
    window: ClientWindow,
    /// SETTINGS the client has not acknowledged, and whether upstream waits for that.
    client_owes: VecDeque<bool>,
    /// SETTINGS upstream has not acknowledged, and whether the client waits for that.
    upstream_owes: VecDeque<bool>,
    calm: Calm,
    pub(super) retirement: Retirement,
    share: Share,
    /// Held once more by each stream that is a tunnel.
    tunnels: Rc<()>,
    /// Requests decided since somebody asked.
    decided: u32,
}

/// How far the other leg has come.
enum Upstream {
    /// No request may pass yet.
    Unasked,
    /// One may: this many bytes of what waits are the greeting, and nothing else may
    /// be sent before upstream has greeted too, in HTTP/2.
    Asked(usize),
    Open,
    /// There is none: what every request that may pass is answered.
    Absent(NoUpstream),
}

/// A stream that upstream knows of.
struct Stream {
    /// Until its record is kept: with the head of its response, or with the end of a call.
    exchange: Option<Exchange>,
    sees_response: Sees,
    /// The final head has passed.
    answered: bool,
    client_done: bool,
    upstream_done: bool,
    /// What it may still send to the client.
    window: i64,
    request_left: Length,
    response_left: Length,
    held: Held,
    /// What a tunnel is held to, if it was asked for one.
    opening: Option<Box<Opening>>,
    /// CONNECT, accepted: it lasts as long as its ends like.
    tunnel: Option<Rc<()>>,
}

/// What request blocks grew by on their way, beyond a share of their own length.
#[derive(Default)]
struct Expansion(usize);

impl Expansion {
    /// How much longer than received blocks may be in the long run. Our table remembers
    /// what the client's does, so there is no reason for much; a client that does not
    /// heed upstream's smaller table gives one.
    const RATIO: usize = 8;
    /// What may be added at first, bytes.
    const SLACK: usize = 64 * 1024;

    fn block(&mut self, received: usize, sent: usize) -> Result<(), Fault> {
        self.0 = (self.0 + sent).saturating_sub(received * Self::RATIO);
        match self.0 > Self::SLACK {
            true => Err(Fault::new(
                code::ENHANCE_YOUR_CALM,
                "header blocks expand too much",
            )),
            false => Ok(()),
        }
    }
}

impl<'a, I: Inspector> Relay<'a, I> {
    /// One whose client has been greeted. `list` is the longest header list, bytes.
    pub(super) fn new(inspector: &'a I, now: Instant, list: u32) -> Self {
        let mut relay = Self {
            inspector,
            to_client: Outbox::default(),
            to_upstream: Outbox::default(),
            requests: Half::new(list),
            responses: Half::new(list),
            list,
            request_blocks: TableEncoder::default(),
            response_blocks: TableEncoder::default(),
            expansion: Expansion::default(),
            streams: HashMap::new(),
            closed: Closed::default(),
            highest_stream: 0,
            upstream: Upstream::Unasked,
            upstream_greeted: false,
            client: None,
            stream_window: 65_535,
            window: ClientWindow::new(),
            client_owes: VecDeque::from([false]),
            upstream_owes: VecDeque::new(),
            calm: Calm::new(now),
            retirement: Retirement::default(),
            share: Share::default(),
            tunnels: Rc::default(),
            decided: 0,
        };
        let greeting = Settings::greeting(list);
        relay
            .to_client
            .own(|out| frame::write_settings(&greeting, out));
        relay
    }

    /// How many requests were decided since this was asked last.
    pub(super) fn take_decided(&mut self) -> u32 {
        std::mem::take(&mut self.decided)
    }

    /// Time has passed.
    pub(super) fn refill(&mut self, now: Instant) {
        self.calm.refill(now);
    }

    /// Gives back memory in which nothing waits.
    pub(super) fn release(&mut self) {
        self.to_client.release();
        self.to_upstream.release();
        if self.streams.is_empty() {
            self.streams.shrink_to_fit();
        }
    }

    /// Memory of what waits to be sent or for the rest of its message, bytes. What open
    /// requests take is counted by their [`Share`].
    pub(super) fn waiting(&self) -> usize {
        let outboxes = self.to_client.memory() + self.to_upstream.memory();
        outboxes + self.requests.memory() + self.responses.memory()
    }

    /// Has a tunnel been opened in a stream? Who is in it may be silent.
    pub(super) fn has_tunnel(&self) -> bool {
        Rc::strong_count(&self.tunnels) > 1
    }

    pub(super) fn is_idle(&self) -> bool {
        self.streams.is_empty()
    }

    /// What upstream must be sent, and answer with a greeting of its own, before the
    /// client is read on. `None` if nobody waits for that.
    pub(super) fn greeting(&self) -> Option<&[u8]> {
        match self.upstream {
            Upstream::Asked(length) => Some(&self.to_upstream.unsent()[..length]),
            _ => None,
        }
    }

    /// The greeting was sent and answered.
    pub(super) fn open(&mut self) {
        if let Upstream::Asked(length) = self.upstream {
            self.to_upstream.mark_sent(length);
            self.upstream = Upstream::Open;
        }
    }

    /// There is no upstream, or none that speaks HTTP/2: what may pass is answered with
    /// `status` instead.
    pub(super) fn give_up(&mut self, because: NoUpstream) {
        self.to_upstream.clear();
        let reply = because.reply();
        let streams: Vec<_> = self.streams.drain().collect();
        for (id, stream) in streams {
            let asker = asker(stream.exchange.as_ref());
            self.answer((id, stream.client_done), &reply, asker);
            if let Some(exchange) = stream.exchange {
                exchange.failed(because.status, because.error.clone(), self.inspector);
            }
        }
        self.upstream = Upstream::Absent(because);
    }

    /// Begins the other leg. Upstream is told the sum of what the client said so far.
    fn ask(&mut self) {
        if !matches!(self.upstream, Upstream::Unasked) {
            return;
        }
        let settings = self
            .client
            .unwrap_or_default()
            .for_upstream(true, self.list);
        let credit = self.window.beyond_initial();
        self.to_upstream.pass(PREFACE, 0);
        self.to_upstream
            .own(|out| frame::write_settings(&settings, out));
        self.to_upstream.window_update(0, credit);
        self.upstream_owes.push_back(false);
        self.upstream = Upstream::Asked(self.to_upstream.unsent().len());
    }

    /// Is it not what its rules want any more?
    pub(in crate::http::h2) fn is_over(&self) -> bool {
        self.inspector.is_over()
    }

    /// How HTTP is carried on this flow.
    pub(super) fn options(&self) -> HttpOptions {
        self.inspector.options()
    }

    /// Asks the client to send no further request here.
    pub(super) fn retire(&mut self) {
        if let Some(frames) = self.retirement.begin() {
            self.to_client.own(|out| out.extend_from_slice(&frames));
        }
    }

    /// Does the client know that, and is nothing of it under way?
    pub(super) fn has_retired(&self) -> bool {
        self.retirement == Retirement::Known && self.streams.is_empty()
    }

    /// Answers requests that have waited for so long.
    pub(super) fn give_up_overdue(&mut self, limit: Duration) {
        let waits = |stream: &Stream| !stream.answered;
        let overdue = self.streams.iter().filter(|(_, stream)| {
            let exchange = stream.exchange.as_ref();
            waits(stream) && exchange.is_some_and(|exchange| exchange.age() >= limit)
        });
        let overdue: Vec<u32> = overdue.map(|(id, _)| *id).collect();
        for id in overdue {
            let (status, error) = (504, "upstream timed out");
            let exchange = self.streams.get_mut(&id).and_then(|s| s.exchange.take());
            let asker = asker(exchange.as_ref());
            if let Some(exchange) = exchange {
                exchange.failed(status, UpstreamTimeout.because(error), self.inspector);
            }
            self.replace(id, false, &Reply::error(status, error), asker);
        }
    }

    /// Is there an upstream to pass frames to?
    fn is_open(&self) -> bool {
        matches!(self.upstream, Upstream::Open)
    }

    /// Tells the client why the connection ends.
    pub(super) fn say_goodbye(&mut self, fault: Fault) {
        let last = self.highest_stream;
        self.to_client
            .own(|out| frame::write_goaway(last, fault.code, fault.reason, out));
    }

    /// Keeps the records of what was not answered, or not to its end; that is no failure
    /// if the client left.
    pub(super) fn finish(&mut self, error: Failure, left: bool) {
        for (_, stream) in self.streams.drain() {
            match stream.exchange {
                Some(exchange) if left && stream.answered => {
                    exchange.left(error.what(), self.inspector)
                }
                Some(exchange) => exchange.failed(0, error.clone(), self.inspector),
                None => {}
            }
        }
    }

    /// Answers a request in upstream's place, and forgets its stream.
    fn answer(&mut self, (id, client_done): (u32, bool), reply: &Reply, asker: Asker) {
        let stream_window = u32::try_from(self.stream_window).unwrap_or(0);
        let window = self.window.kept().min(stream_window);
        let block = self.response_blocks.begin();
        let mut spent = 0;
        self.to_client
            .own(|out| spent = reply.write(id, block, window, asker, out));
        self.window.spend(spent);
        self.closed.remember(id, ended(client_done));
        if !client_done {
            self.to_client.reset(id, code::NO_ERROR);
        }
    }

    /// Ends one stream for an error, towards both ends; the connection goes on.
    fn stream_error(&mut self, id: u32, code: u32, reason: Failure) {
        if let Some(stream) = self.streams.remove(&id) {
            if let Some(exchange) = stream.exchange {
                exchange.failed(0, reason, self.inspector);
            }
            self.to_upstream.reset(id, code::CANCEL);
            self.closed.remember(id, ended(stream.client_done));
        }
        self.to_client.reset(id, code);
    }

    /// May what comes through a stream pass, should it be a tunnel? If not, it ends.
    fn tunnel_stands(&mut self, id: u32) -> bool {
        let stream = self
            .streams
            .get(&id)
            .filter(|stream| stream.tunnel.is_some());
        let opening = stream.and_then(|stream| stream.opening.as_ref());
        let stands = opening.is_none_or(|opening| opening.still_passes(self.inspector));
        if !stands {
            self.stream_error(
                id,
                code::CONNECT_ERROR,
                RulesChanged.because("the rules of its tunnel have changed"),
            );
        }
        stands
    }

    fn client_done(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.client_done = true;
            if stream.upstream_done {
                self.done(id);
            }
        }
    }

    fn upstream_done(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.upstream_done = true;
            if let Some(exchange) = stream.exchange.take() {
                exchange.ended(self.inspector);
            }
            if stream.client_done {
                self.done(id);
            }
        }
    }

    fn done(&mut self, id: u32) {
        self.streams.remove(&id);
        self.closed.remember(id, Past::Done);
    }
}

/// What an answer to a stream's request depends on.
fn asker(exchange: Option<&Exchange>) -> Asker {
    exchange.map(Exchange::asker).unwrap_or_default()
}

/// What is to be remembered of a stream that not the client ended.
fn ended(client_done: bool) -> Past {
    match client_done {
        true => Past::Done,
        false => Past::Cut,
    }
}
