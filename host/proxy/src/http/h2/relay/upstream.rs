//! What upstream sends.

use tidegate_contract::FailureKind::{UpstreamProtocol, UpstreamReset};
use tidegate_wire::{
    grpc,
    http::{CheckedEdit, Header, ResponseHead},
    http1::Asked,
    http2::{
        Frame, Malformed, Response, check_trailers,
        frame::{self, code, flag, kind},
    },
};

use super::{
    MAX_UNACKED, Past, Relay, Stream, asker,
    client::{number, pass},
    ended,
};
use crate::http::{
    exchange::Exchange,
    h2::{
        Fault,
        half::{Block, Step},
        settings::{Peer, Settings},
    },
    inspect::Inspector,
    reply::{Asker, Reply},
    request::{Responded, Sees, respond},
};

impl<I: Inspector> Relay<'_, I> {
    /// Deals with bytes from upstream; returns how many, 0 if it needs more. What is
    /// wrong with them is no fault of the client's.
    pub(in super::super) fn feed_upstream(&mut self, input: &[u8]) -> Result<usize, Fault> {
        self.upstream_bytes(input).map_err(Fault::of_upstream)
    }

    fn upstream_bytes(&mut self, input: &[u8]) -> Result<usize, Fault> {
        match self.responses.step(input, &mut self.to_client)? {
            Step::More => Ok(0),
            Step::Took(count) => Ok(count),
            Step::Data(frame, body) => {
                let passes = self.upstream_data(&frame, body)?;
                self.responses.begin(&frame, !passes, &mut self.to_client);
                let credit = match passes {
                    true => self.window.sent(frame.length),
                    false => frame.length,
                };
                self.to_upstream.window_update(0, credit);
                Ok(frame::HEAD)
            }
            Step::Unknown(frame) => {
                self.responses.begin(&frame, true, &mut self.to_client);
                Ok(frame::HEAD)
            }
            Step::Whole(frame, length) => {
                self.upstream_frame(&frame, &input[frame::HEAD..length])?;
                Ok(length)
            }
        }
    }

    /// May this DATA pass?
    fn upstream_data(&mut self, frame: &Frame, body: u64) -> Result<bool, Fault> {
        let (id, end) = (frame.stream, frame.has(flag::END_STREAM));
        self.reject_unasked(id)?;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(false);
        };
        if !stream.answered {
            self.malformed_response(id, "DATA before the head of a response");
            return Ok(false);
        }
        if stream.upstream_done || stream.response_left.take(body, end).is_err() {
            let reason = "content-length contradicts the response's body";
            self.stream_error(id, code::PROTOCOL_ERROR, UpstreamProtocol.because(reason));
            return Ok(false);
        }
        if !self.tunnel_stands(id) {
            return Ok(false);
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.window -= i64::from(frame.length);
        }
        self.calm.used();
        if end {
            self.upstream_done(id);
        }
        Ok(true)
    }

    fn upstream_frame(&mut self, frame: &Frame, payload: &[u8]) -> Result<(), Fault> {
        match frame.kind {
            kind::HEADERS | kind::CONTINUATION => {
                if let Some(block) = self.responses.headers(frame, payload)? {
                    self.upstream_block(&block)?;
                }
            }
            kind::SETTINGS if frame.has(flag::ACK) => self.upstream_acknowledged(),
            kind::SETTINGS => self.upstream_settings(payload)?,
            kind::RST_STREAM => {
                self.reject_unasked(frame.stream)?;
                if let Some(stream) = self.streams.remove(&frame.stream) {
                    self.closed
                        .remember(frame.stream, ended(stream.client_done));
                    if let Some(exchange) = stream.exchange {
                        exchange.failed(
                            0,
                            UpstreamReset.because("reset by upstream"),
                            self.inspector,
                        );
                    }
                    self.to_client.reset(frame.stream, number(payload)?);
                }
            }
            kind::WINDOW_UPDATE => {
                let credit = number(payload)? & 0x7fff_ffff;
                match frame.stream {
                    0 if credit == 0 => return Err(Fault::protocol("WINDOW_UPDATE of 0")),
                    0 => self.to_client.window_update(0, credit),
                    id => {
                        self.reject_unasked(id)?;
                        match self.streams.contains_key(&id) {
                            true if credit == 0 => {
                                self.stream_error(
                                    id,
                                    code::PROTOCOL_ERROR,
                                    UpstreamProtocol.because("WINDOW_UPDATE of 0"),
                                );
                            }
                            true => self.to_client.window_update(id, credit),
                            false => {}
                        }
                    }
                }
            }
            kind::PUSH_PROMISE => return Err(Fault::protocol("push was not allowed")),
            kind::PING | kind::GOAWAY => pass(frame, payload, &mut self.to_client),
            // PRIORITY is the client's to say.
            _ => {}
        }
        Ok(())
    }

    fn upstream_acknowledged(&mut self) {
        if self.upstream_owes.pop_front() == Some(true) {
            self.to_client.own(frame::write_settings_ack);
        }
    }

    fn upstream_settings(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let mut announced = Settings::default();
        announced.read(payload, Peer::Upstream)?;
        let first = !std::mem::replace(&mut self.upstream_greeted, true);
        match (first, announced.table) {
            (true, size) => self.request_blocks.allow(size),
            (false, Some(size)) => self.request_blocks.shrink(size),
            (false, None) => {}
        }
        if self.client_owes.len() >= MAX_UNACKED {
            return Err(Fault::new(code::ENHANCE_YOUR_CALM, "too many SETTINGS"));
        }
        self.client_owes.push_back(true);
        let pairs = announced.for_client(first, self.list);
        self.to_client.own(|out| frame::write_settings(&pairs, out));
        Ok(())
    }

    fn upstream_block(&mut self, block: &Block) -> Result<(), Fault> {
        let id = block.stream;
        self.reject_unasked(id)?;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        if stream.upstream_done {
            self.stream_error(
                id,
                code::PROTOCOL_ERROR,
                UpstreamProtocol.because("HEADERS after the response's end"),
            );
            return Ok(());
        }
        if stream.answered {
            self.upstream_trailers(block);
            return Ok(());
        }
        let response = match Response::read(&block.fields) {
            Ok(response) if response.status >= 200 || !block.end_stream => response,
            Ok(_) => {
                self.malformed_response(id, "an interim response ends its stream");
                return Ok(());
            }
            Err(error) => {
                self.malformed_response(id, &error.to_string());
                return Ok(());
            }
        };
        if response.status < 200 {
            self.pass_response_block(block, None);
            return Ok(());
        }
        let to_head = asker(stream.exchange.as_ref()).head;
        stream.response_left = response.length;
        if to_head {
            stream.response_left.forget();
        }
        if block.end_stream && stream.response_left.take(0, true).is_err() {
            self.malformed_response(id, &Malformed::Length.to_string());
            return Ok(());
        }
        stream.answered = true;
        self.calm.answered();
        let mut edit = None;
        if let Some(mut exchange) = stream.exchange.take() {
            if !stream.sees_response.is_nobody() {
                let sees = stream.sees_response.clone();
                match self.inspect_response(block, response.status, exchange, &sees) {
                    Some((checked, inspected)) => (edit, exchange) = (checked, inspected),
                    None => return Ok(()),
                }
            }
            self.head_passes(block, response.status, exchange);
        }
        self.pass_response_block(block, edit.as_ref());
        if block.end_stream {
            self.upstream_done(id);
        }
        Ok(())
    }

    /// Keeps the record of a request that is answered, or what a call's will need once its
    /// trailers have come.
    fn head_passes(&mut self, block: &Block, status: u16, mut exchange: Exchange) {
        exchange.says(grpc::status(block.fields.iter()));
        let Some(stream) = self.streams.get_mut(&block.stream) else {
            return;
        };
        match exchange.asked == Asked::Connect && status < 300 {
            true => stream.tunnel = Some(self.tunnels.clone()),
            false => stream.opening = None,
        }
        if exchange.ends_in_trailers() {
            exchange.begins_to_be_answered(status);
            stream.exchange = Some(exchange);
        } else {
            let opening = stream.opening.as_ref();
            let kept = opening.map_or(0, |opening| opening.memory());
            stream.held.shrink(size_of::<Stream>() + kept);
            exchange.answered(status, self.inspector);
        }
    }

    fn upstream_trailers(&mut self, block: &Block) {
        let id = block.stream;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let wrong = !block.end_stream
            || check_trailers(&block.fields).is_err()
            || stream.response_left.take(0, true).is_err();
        if wrong {
            return self.stream_error(
                id,
                code::PROTOCOL_ERROR,
                UpstreamProtocol.because("malformed trailers from upstream"),
            );
        }
        if let Some(exchange) = &mut stream.exchange {
            exchange.says(grpc::status(block.fields.iter()));
        }
        self.pass_response_block(block, None);
        self.upstream_done(id);
    }

    /// Passes a response head through the plugins that asked for it; `None` if it was
    /// replaced.
    fn inspect_response(
        &mut self,
        block: &Block,
        status: u16,
        mut exchange: Exchange,
        sees: &Sees,
    ) -> Option<(Option<CheckedEdit>, Exchange)> {
        let fields = block
            .fields
            .iter()
            .filter(|(name, _)| !name.starts_with(b":"));
        let headers: Vec<_> = fields
            .filter_map(|(name, value)| {
                let name = std::str::from_utf8(name).ok()?;
                Some(Header { name, value })
            })
            .collect();
        let head = ResponseHead {
            status,
            headers: &headers,
        };
        let asker = exchange.asker();
        let tunnel = exchange.asked == Asked::Connect && status < 300;
        let bodyless = asker.head || tunnel || matches!(status, 204 | 304);
        let attribution = &mut exchange.attribution;
        let responded = respond((&head, bodyless), attribution, sees, self.inspector);
        match responded {
            Responded::Pass { edit, line: None } => Some((edit, exchange)),
            Responded::Pass {
                edit,
                line: Some(line),
            } => match line.unseen(block.end_stream, edit, attribution) {
                Ok(edit) => Some((edit, exchange)),
                Err(stop) => {
                    let reply = exchange.stopped(*stop, self.inspector);
                    self.replace(block.stream, block.end_stream, &reply, asker);
                    None
                }
            },
            Responded::Replace { reply, error } => {
                match error {
                    None => exchange.denied(reply.status, self.inspector),
                    Some(error) => exchange.failed(reply.status, error, self.inspector),
                }
                self.replace(block.stream, block.end_stream, &reply, asker);
                None
            }
        }
    }

    /// Answers a request whose response may not be passed on (RFC 9113 §8.1.1).
    fn malformed_response(&mut self, id: u32, error: &str) {
        let exchange = self
            .streams
            .get_mut(&id)
            .and_then(|stream| stream.exchange.take());
        let asker = asker(exchange.as_ref());
        if let Some(exchange) = exchange {
            let error = UpstreamProtocol.because(format!("malformed response: {error}"));
            exchange.failed(502, error, self.inspector);
        }
        let reply = Reply::error(502, "malformed response");
        self.replace(id, false, &reply, asker);
    }

    /// Answers in upstream's place, and tells it that the rest is not wanted.
    pub(super) fn replace(&mut self, id: u32, upstream_done: bool, reply: &Reply, asker: Asker) {
        let stream = self.streams.remove(&id);
        let client_done = stream.is_none_or(|stream| stream.client_done);
        if !(upstream_done && client_done) {
            self.to_upstream.reset(id, code::CANCEL);
        }
        self.answer((id, client_done), reply, asker);
    }

    fn pass_response_block(&mut self, block: &Block, edit: Option<&CheckedEdit>) {
        let bytes = self.response_blocks.encode(&block.fields, None, edit);
        self.to_client
            .own(|out| frame::write_block(block.stream, block.end_stream, &bytes, out));
    }

    /// A stream that the client never asked for, or that upstream never saw.
    fn reject_unasked(&self, id: u32) -> Result<(), Fault> {
        let never = id > self.highest_stream || id.is_multiple_of(2);
        match never || (!self.streams.contains_key(&id) && self.closed.past(id) == Past::Skipped) {
            true => Err(Fault::protocol("frame on an idle stream")),
            false => Ok(()),
        }
    }
}
