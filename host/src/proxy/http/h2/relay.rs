//! The two directions of one HTTP/2 connection pair. No IO: bytes in, bytes into
//! two outboxes.
//!
//! Stream ids, flow control and settings are end to end: upstream sees the client's
//! own streams, minus the ones we refuse. What we take away or add ourselves has to
//! stay invisible to both windows and both header tables:
//!
//! - Request blocks are written again without a dynamic table, because blocks of
//!   refused requests are missing upstream.
//! - Response blocks pass as received, and are decoded only to keep records, until a
//!   plugin first asks to see responses; from then on they are written again too.
//! - Frames of a stream that is not open are forgotten, and their flow-control credit
//!   goes back to the sender.
//! - Bodies of our own refusals need connection window that upstream does not know
//!   of: a little is kept back from the client's updates beforehand.

use std::{collections::HashMap, time::Instant};

use tidegate_wire::{
    http::{HttpHead, ResponseHead, Version},
    http2::{
        BlockEncoder, Frame, Malformed, Request,
        frame::{self, code, flag, kind, setting},
    },
    path::{Normalised, normalise},
};

use super::{
    Fault,
    half::{Announced, Block, Half, Step},
    outbox::Outbox,
    refusal::Refusal,
};
use crate::proxy::http::{
    exchange::Exchange,
    inspect::{Attribution, Inspector, Verdict},
};

/// Most streams open at once, whatever upstream would allow.
const MAX_STREAMS: usize = 2048;
/// Most requests a client may cancel before their response, beyond those that were
/// answered.
const MAX_RESETS: u32 = 1000;
/// Connection window kept back for bodies of our own, bytes.
const RESERVE: u32 = 16 * 1024;

/// One connection pair.
pub(super) struct Relay<'a, I> {
    inspector: &'a I,
    pub(super) to_client: Outbox,
    pub(super) to_upstream: Outbox,
    requests: Half,
    responses: Half,
    streams: HashMap<u32, Stream>,
    highest_stream: u32,
    /// The next request block is the first one upstream gets.
    first_request: bool,
    rewriting: Rewriting,
    /// Table size the client must be told of before the next block reaches it.
    smaller_table: Option<u32>,
    /// What a new stream may send to the client.
    client_window: u32,
    reserve: u32,
    resets: u32,
    /// Status and reason for every request that may pass, if there is no upstream.
    unreachable: Option<(u16, String)>,
}

/// Whether response blocks pass as received.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rewriting {
    No,
    /// From the next block on, which must empty the client's table.
    Begins,
    Yes,
}

/// A stream that upstream knows of.
struct Stream {
    /// Until its record is kept.
    exchange: Option<Exchange>,
    sees_response: bool,
    client_done: bool,
    upstream_done: bool,
}

impl<'a, I: Inspector> Relay<'a, I> {
    pub(super) fn new(inspector: &'a I) -> Self {
        Self {
            inspector,
            to_client: Outbox::held(),
            to_upstream: Outbox::default(),
            requests: Half::default(),
            responses: Half::default(),
            streams: HashMap::new(),
            highest_stream: 0,
            first_request: true,
            rewriting: Rewriting::No,
            smaller_table: None,
            client_window: 65_535,
            reserve: 0,
            resets: 0,
            unreachable: None,
        }
    }

    /// One without an upstream: what may pass is answered with `status` instead, and
    /// what it would send to upstream is to be thrown away.
    pub(super) fn unreachable(inspector: &'a I, status: u16, error: String) -> Self {
        let mut relay = Self::new(inspector);
        relay.settings_to_client(&[]);
        relay.unreachable = Some((status, error));
        relay
    }

    /// Has a request come?
    pub(super) fn has_begun(&self) -> bool {
        self.highest_stream > 0
    }

    pub(super) fn is_idle(&self) -> bool {
        self.streams.is_empty()
    }

    /// Tells the client why the connection ends.
    pub(super) fn say_goodbye(&mut self, fault: Fault) {
        let last = self.highest_stream;
        if !self.responses.has_greeted() && self.unreachable.is_none() {
            self.settings_to_client(&[]);
        }
        self.to_client
            .own(|out| frame::write_goaway(last, fault.code, fault.reason, out));
    }

    /// Keeps the records of what was not answered.
    pub(super) fn finish(&mut self, error: &str) {
        for (_, stream) in self.streams.drain() {
            if let Some(exchange) = stream.exchange {
                exchange.failed(0, error, self.inspector);
            }
        }
    }

    /// Deals with bytes from the client; returns how many, 0 if it needs more.
    pub(super) fn feed_client(&mut self, input: &[u8]) -> Result<usize, Fault> {
        match self.requests.step(input, &mut self.to_upstream)? {
            Step::More => Ok(0),
            Step::Took(count) => Ok(count),
            Step::Begins(frame) => {
                self.client_long_frame(&frame)?;
                Ok(frame::HEAD)
            }
            Step::Whole(frame, length) => {
                self.client_frame(&frame, &input[..length])?;
                Ok(length)
            }
        }
    }

    fn client_long_frame(&mut self, frame: &Frame) -> Result<(), Fault> {
        let mut discarded = false;
        if frame.kind == kind::DATA {
            if frame.stream == 0 || frame.stream > self.highest_stream {
                return Err(Fault::protocol("DATA on an idle stream"));
            }
            discarded = !self.streams.contains_key(&frame.stream);
            if discarded {
                self.to_client.window_update(0, frame.length);
            } else if frame.has(flag::END_STREAM) {
                self.client_done(frame.stream);
            }
        }
        self.requests.begin(frame, discarded, &mut self.to_upstream);
        Ok(())
    }

    fn client_frame(&mut self, frame: &Frame, bytes: &[u8]) -> Result<(), Fault> {
        let payload = &bytes[frame::HEAD..];
        match frame.kind {
            kind::HEADERS | kind::CONTINUATION => {
                if let Some(block) = self.requests.headers(frame, bytes)? {
                    self.client_block(block)?;
                }
            }
            kind::SETTINGS if frame.has(flag::ACK) => {
                self.requests.acknowledged();
                self.to_upstream.pass(bytes, 0);
            }
            kind::SETTINGS => self.client_settings(payload)?,
            kind::WINDOW_UPDATE => self.client_window_update(frame, payload)?,
            kind::RST_STREAM => self.client_reset(frame.stream, bytes)?,
            kind::PUSH_PROMISE => return Err(Fault::protocol("PUSH_PROMISE from a client")),
            // Priority of streams that upstream may never see; deprecated anyway.
            kind::PRIORITY => {}
            _ => self.to_upstream.pass(bytes, 0),
        }
        Ok(())
    }

    fn client_settings(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let mut announced = Announced::read(payload)?;
        self.responses.announced(announced.table)?;
        if let Some(window) = announced.initial_window {
            self.client_window = window;
        }
        // A pushed response would answer a request that no rule saw.
        if !announced
            .pairs
            .iter()
            .any(|(id, _)| *id == setting::ENABLE_PUSH)
        {
            announced.pairs.push((setting::ENABLE_PUSH, 0));
        }
        self.to_upstream
            .own(|out| frame::write_settings(&announced.pairs, out));
        if self.unreachable.is_some() {
            self.to_client.own(frame::write_settings_ack);
        }
        Ok(())
    }

    fn client_window_update(&mut self, frame: &Frame, payload: &[u8]) -> Result<(), Fault> {
        let malformed = |_| Fault::new(code::FRAME_SIZE_ERROR, "malformed WINDOW_UPDATE");
        let mut credit = frame::number(payload).map_err(malformed)? & 0x7fff_ffff;
        if frame.stream == 0 {
            if credit == 0 {
                return Err(Fault::protocol("WINDOW_UPDATE of 0"));
            }
            let kept = credit.min(RESERVE - self.reserve);
            self.reserve += kept;
            credit -= kept;
            self.to_upstream.window_update(0, credit);
        } else if self.streams.contains_key(&frame.stream) {
            self.to_upstream
                .own(|out| frame::write_number(kind::WINDOW_UPDATE, frame.stream, credit, out));
        }
        Ok(())
    }

    fn client_reset(&mut self, id: u32, bytes: &[u8]) -> Result<(), Fault> {
        let Some(stream) = self.streams.remove(&id) else {
            return Ok(());
        };
        if let Some(exchange) = stream.exchange {
            exchange.failed(0, "cancelled by the client", self.inspector);
            self.resets += 1;
            if self.resets > MAX_RESETS {
                return Err(Fault::new(code::ENHANCE_YOUR_CALM, "too many resets"));
            }
        }
        self.to_upstream.pass(bytes, 0);
        Ok(())
    }

    fn client_block(&mut self, block: Block) -> Result<(), Fault> {
        if self.streams.contains_key(&block.stream) {
            return self.client_trailers(&block);
        }
        if block.stream <= self.highest_stream {
            // Trailers of a stream that was refused, reset or answered early.
            return Ok(());
        }
        if block.stream.is_multiple_of(2) {
            return Err(Fault::protocol("even stream id from a client"));
        }
        self.highest_stream = block.stream;
        if self.streams.len() >= MAX_STREAMS {
            self.to_client.reset(block.stream, code::REFUSED_STREAM);
            return Ok(());
        }
        let began = Instant::now();
        match Request::read(&block.fields) {
            Ok(request) => self.request(&block, &request, began),
            Err(error) => {
                self.unreadable(&block, error);
                Ok(())
            }
        }
    }

    fn client_trailers(&mut self, block: &Block) -> Result<(), Fault> {
        if !block.end_stream || Request::check_trailers(&block.fields).is_err() {
            return Err(Fault::protocol("invalid trailers"));
        }
        self.pass_request_block(block, |encoder| encoder.edited(block.fields.iter(), None));
        self.client_done(block.stream);
        Ok(())
    }

    fn request(
        &mut self,
        block: &Block,
        request: &Request<'_>,
        began: Instant,
    ) -> Result<(), Fault> {
        let mut head = HttpHead {
            version: Version::Http2,
            method: request.method,
            path: request.path,
            authority: request.authority,
            headers: &request.headers,
        };
        let normalised = normalise(head.path);
        match &normalised {
            Ok(Normalised::Unchanged) => {}
            Ok(Normalised::Changed(path)) => head.path = path,
            Ok(Normalised::Redirect(path)) => {
                let refusal = Refusal::redirect(path);
                self.refuse(block, &head, refusal, "escaped slash in path", began);
                return Ok(());
            }
            Err(error) => {
                let refusal = Refusal::error(400, "malformed path\r\n");
                self.refuse(block, &head, refusal, &error.to_string(), began);
                return Ok(());
            }
        }
        let decision = self.inspector.decide_request(&head);
        let edit = match &decision.verdict {
            Verdict::Allow => None,
            Verdict::Edit(edit) => match edit.check() {
                Ok(()) => Some(edit),
                Err(error) => {
                    let refusal = Refusal::error(500, "invalid header edit\r\n");
                    self.refuse(block, &head, refusal, &error.to_string(), began);
                    return Ok(());
                }
            },
            Verdict::Deny(denial) => {
                self.answer(block, Refusal::denial(denial), head.method == "HEAD");
                Exchange::new(&head, decision.attribution, began)
                    .denied(denial.status, self.inspector);
                return Ok(());
            }
        };
        if let Some((status, error)) = &self.unreachable {
            let (status, error) = (*status, error.clone());
            let body = format!("{error}\r\n");
            self.answer(block, Refusal::error(status, &body), head.method == "HEAD");
            Exchange::new(&head, decision.attribution, began).failed(
                status,
                &error,
                self.inspector,
            );
            return Ok(());
        }
        self.pass_request_block(block, |encoder| encoder.request(request, head.path, edit));
        if decision.sees_response && self.rewriting == Rewriting::No {
            self.rewriting = Rewriting::Begins;
        }
        let stream = Stream {
            exchange: Some(Exchange::new(&head, decision.attribution, began)),
            sees_response: decision.sees_response,
            client_done: block.end_stream,
            upstream_done: false,
        };
        self.streams.insert(block.stream, stream);
        Ok(())
    }

    fn pass_request_block(&mut self, block: &Block, write: impl FnOnce(&mut BlockEncoder)) {
        let mut encoder = BlockEncoder::default();
        if std::mem::take(&mut self.first_request) {
            // No table at all: then upstream may announce any size for it.
            encoder.table_size(0);
        }
        write(&mut encoder);
        let bytes = encoder.finish();
        self.to_upstream
            .own(|out| frame::write_block(block.stream, block.end_stream, &bytes, out));
    }

    fn unreadable(&mut self, block: &Block, error: Malformed) {
        let reason = error.to_string();
        self.answer(
            block,
            Refusal::error(error.status(), "malformed request\r\n"),
            false,
        );
        Exchange::unreadable(Version::Http2.as_str(), reason)
            .denied(error.status(), self.inspector);
    }

    /// Refuses for a reason that is not a rule.
    fn refuse(
        &mut self,
        block: &Block,
        head: &HttpHead<'_>,
        refusal: Refusal<'_>,
        error: &str,
        began: Instant,
    ) {
        let status = refusal.status;
        self.answer(block, refusal, head.method == "HEAD");
        let exchange = Exchange::new(head, Attribution::default(), began);
        exchange.failed(status, error, self.inspector);
    }

    /// Answers a request upstream never sees, and forgets its stream.
    fn answer(&mut self, block: &Block, refusal: Refusal<'_>, to_head: bool) {
        let window = self.reserve.min(self.client_window);
        let table = self.smaller_table.take();
        let mut spent = 0;
        self.to_client
            .own(|out| spent = refusal.write(block.stream, table, window, to_head, out));
        self.reserve -= spent;
        if !block.end_stream {
            self.to_client.reset(block.stream, code::NO_ERROR);
        }
    }

    /// Deals with bytes from upstream; returns how many, 0 if it needs more.
    pub(super) fn feed_upstream(&mut self, input: &[u8]) -> Result<usize, Fault> {
        match self.responses.step(input, &mut self.to_client)? {
            Step::More => Ok(0),
            Step::Took(count) => Ok(count),
            Step::Begins(frame) => {
                self.upstream_long_frame(&frame);
                Ok(frame::HEAD)
            }
            Step::Whole(frame, length) => {
                self.upstream_frame(&frame, &input[..length])?;
                Ok(length)
            }
        }
    }

    fn upstream_long_frame(&mut self, frame: &Frame) {
        let discarded = frame.kind == kind::DATA && self.is_hidden(frame.stream);
        if discarded {
            self.to_upstream.window_update(0, frame.length);
        } else if frame.kind == kind::DATA && frame.has(flag::END_STREAM) {
            self.upstream_done(frame.stream);
        }
        self.responses.begin(frame, discarded, &mut self.to_client);
    }

    /// Was this stream's response replaced, so that the client must not see the rest?
    /// (Where responses pass as received, the client itself forgets late frames.)
    fn is_hidden(&self, stream: u32) -> bool {
        self.rewriting != Rewriting::No && !self.streams.contains_key(&stream)
    }

    fn upstream_frame(&mut self, frame: &Frame, bytes: &[u8]) -> Result<(), Fault> {
        match frame.kind {
            kind::HEADERS | kind::CONTINUATION => {
                if let Some(block) = self.responses.headers(frame, bytes)? {
                    self.upstream_block(&block)?;
                }
            }
            kind::SETTINGS if frame.has(flag::ACK) => {
                if let Some(smaller) = self.responses.acknowledged() {
                    self.smaller_table = Some(smaller);
                }
                self.to_client.pass(bytes, 0);
            }
            kind::SETTINGS => {
                let announced = Announced::read(&bytes[frame::HEAD..])?;
                self.requests.announced(announced.table)?;
                self.settings_to_client(&announced.pairs);
            }
            kind::RST_STREAM => {
                if let Some(stream) = self.streams.remove(&frame.stream) {
                    if let Some(exchange) = stream.exchange {
                        exchange.failed(0, "reset by upstream", self.inspector);
                    }
                    self.to_client.pass(bytes, 0);
                }
            }
            kind::PUSH_PROMISE => return Err(Fault::protocol("push was not allowed")),
            _ => self.to_client.pass(bytes, 0),
        }
        Ok(())
    }

    fn settings_to_client(&mut self, pairs: &[(u16, u32)]) {
        let mut bytes = Vec::new();
        frame::write_settings(pairs, &mut bytes);
        self.to_client.pass(&bytes, 0);
    }

    fn upstream_block(&mut self, block: &Block) -> Result<(), Fault> {
        let mut edit = None;
        if let Some(stream) = self.streams.get_mut(&block.stream)
            && stream.exchange.is_some()
        {
            let status = block
                .fields
                .status()
                .ok_or(Fault::protocol("response without a status"))?;
            if status >= 200
                && let Some(exchange) = stream.exchange.take()
            {
                self.resets = self.resets.saturating_sub(1);
                if stream.sees_response {
                    match self.inspect_response(block, status, exchange) {
                        Some(checked) => edit = checked,
                        None => return Ok(()),
                    }
                } else {
                    exchange.answered(status, self.inspector);
                }
            }
        }
        self.pass_response_block(block, edit.as_ref());
        if block.end_stream {
            self.upstream_done(block.stream);
        }
        Ok(())
    }

    /// Passes a response head through the plugins that asked for it; `None` if it was
    /// replaced.
    fn inspect_response(
        &mut self,
        block: &Block,
        status: u16,
        mut exchange: Exchange,
    ) -> Option<Option<tidegate_wire::http::HeaderEdit>> {
        let fields = block
            .fields
            .iter()
            .filter(|(name, _)| !name.starts_with(b":"));
        let headers: Vec<_> = fields
            .filter_map(|(name, value)| {
                let name = std::str::from_utf8(name).ok()?;
                Some(tidegate_wire::http::Header { name, value })
            })
            .collect();
        let head = ResponseHead {
            status,
            headers: &headers,
        };
        let attribution = std::mem::take(&mut exchange.attribution);
        let decision = self.inspector.decide_response(attribution, &head);
        exchange.attribution = decision.attribution;
        let to_head = exchange.is_to_head();
        let denial = match decision.verdict {
            Verdict::Allow => {
                exchange.answered(status, self.inspector);
                return Some(None);
            }
            Verdict::Edit(edit) => match edit.check() {
                Ok(()) => {
                    exchange.answered(status, self.inspector);
                    return Some(Some(edit));
                }
                Err(error) => {
                    exchange.failed(500, &error.to_string(), self.inspector);
                    self.replace(
                        block,
                        Refusal::error(500, "invalid header edit\r\n"),
                        to_head,
                    );
                    return None;
                }
            },
            Verdict::Deny(denial) => denial,
        };
        exchange.denied(denial.status, self.inspector);
        self.replace(block, Refusal::denial(&denial), to_head);
        None
    }

    /// Answers in upstream's place, and tells it that the rest is not wanted.
    fn replace(&mut self, block: &Block, refusal: Refusal<'_>, to_head: bool) {
        let stream = self.streams.remove(&block.stream);
        let client_done = stream.is_none_or(|stream| stream.client_done);
        if !(block.end_stream && client_done) {
            self.to_upstream.reset(block.stream, code::CANCEL);
        }
        let answered = Block {
            stream: block.stream,
            end_stream: client_done,
            fields: tidegate_wire::http2::Fields::default(),
            frames: Vec::new(),
        };
        self.answer(&answered, refusal, to_head);
    }

    fn pass_response_block(
        &mut self,
        block: &Block,
        edit: Option<&tidegate_wire::http::HeaderEdit>,
    ) {
        // Upstream's own blocks carry the size update the client waits for.
        self.smaller_table = None;
        if self.rewriting == Rewriting::No {
            self.to_client.pass(&block.frames, 0);
            return;
        }
        if self.is_hidden(block.stream) {
            return;
        }
        let mut encoder = BlockEncoder::default();
        if self.rewriting == Rewriting::Begins {
            self.rewriting = Rewriting::Yes;
            encoder.table_size(0);
        }
        encoder.edited(block.fields.iter(), edit);
        let bytes = encoder.finish();
        self.to_client
            .own(|out| frame::write_block(block.stream, block.end_stream, &bytes, out));
    }

    fn client_done(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.client_done = true;
            if stream.upstream_done {
                self.streams.remove(&id);
            }
        }
    }

    fn upstream_done(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.upstream_done = true;
            if stream.client_done {
                self.streams.remove(&id);
            }
        }
    }
}
