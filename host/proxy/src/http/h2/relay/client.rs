//! What the client sends.

use tidegate_contract::FailureKind::{ClientClosed, ClientProtocol};
use tidegate_wire::http2::{
    Frame, check_trailers,
    frame::{self, code, flag, kind},
};

use super::{MAX_UNACKED, Past, Relay, Upstream};
use crate::http::{
    h2::{
        Fault,
        half::{Block, Step},
        settings::{Peer, Settings},
        window,
    },
    inspect::Inspector,
};

impl<I: Inspector> Relay<'_, I> {
    /// Deals with bytes from the client; returns how many, 0 if it needs more or
    /// upstream has to be asked first.
    pub(in super::super) fn feed_client(&mut self, input: &[u8]) -> Result<usize, Fault> {
        if matches!(self.upstream, Upstream::Asked(_)) {
            return Ok(0);
        }
        match self.requests.step(input, &mut self.to_upstream)? {
            Step::More => Ok(0),
            Step::Took(count) => Ok(count),
            Step::Data(frame, body) => {
                let passes = self.client_data(&frame, body)?;
                self.requests.begin(&frame, !passes, &mut self.to_upstream);
                if !passes {
                    self.to_client.window_update(0, frame.length);
                }
                Ok(frame::HEAD)
            }
            Step::Unknown(frame) => {
                self.calm.idle_frame()?;
                self.requests.begin(&frame, true, &mut self.to_upstream);
                Ok(frame::HEAD)
            }
            Step::Whole(frame, length) => {
                self.client_frame(&frame, &input[frame::HEAD..length])?;
                Ok(length)
            }
        }
    }

    /// May this DATA pass?
    fn client_data(&mut self, frame: &Frame, body: u64) -> Result<bool, Fault> {
        let (id, end) = (frame.stream, frame.has(flag::END_STREAM));
        self.reject_idle(id)?;
        match body == 0 && !end {
            true => self.calm.idle_frame()?,
            false if self.streams.contains_key(&id) => self.calm.used(),
            false => self.calm.idle_frame()?,
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            match self.closed.past(id) {
                Past::Cut if end => self.closed.remember(id, Past::Done),
                Past::Cut => {}
                _ => self.to_client.reset(id, code::STREAM_CLOSED),
            }
            return Ok(false);
        };
        let wrong = if stream.client_done {
            Some((code::STREAM_CLOSED, "DATA after the end of its stream"))
        } else if stream.request_left.take(body, end).is_err() {
            let reason = "content-length contradicts the request's body";
            Some((code::PROTOCOL_ERROR, reason))
        } else {
            None
        };
        if let Some((code, reason)) = wrong {
            self.client_error(id, code, reason)?;
            return Ok(false);
        }
        if !self.tunnel_stands(id) {
            return Ok(false);
        }
        if end {
            self.client_done(id);
        }
        Ok(true)
    }

    fn client_frame(&mut self, frame: &Frame, payload: &[u8]) -> Result<(), Fault> {
        match frame.kind {
            kind::HEADERS | kind::CONTINUATION => {
                if frame.length == 0 {
                    self.calm.idle_frame()?;
                }
                if let Some(block) = self.requests.headers(frame, payload)? {
                    self.client_block(&block)?;
                }
                Ok(())
            }
            kind::SETTINGS if frame.has(flag::ACK) => {
                self.calm.idle_frame()?;
                if self.client_owes.pop_front() == Some(true) {
                    self.to_upstream.own(frame::write_settings_ack);
                }
                Ok(())
            }
            kind::SETTINGS => self.client_settings(payload),
            kind::WINDOW_UPDATE => self.client_window_update(frame.stream, payload),
            kind::RST_STREAM => self.client_reset(frame.stream, payload),
            kind::PUSH_PROMISE => Err(Fault::protocol("PUSH_PROMISE from a client")),
            kind::PRIORITY => self.client_priority(frame, payload),
            kind::PING => {
                self.calm.idle_frame()?;
                if frame.has(flag::ACK) && self.retirement.acknowledged(payload) {
                    return Ok(());
                }
                match (self.is_open(), frame.has(flag::ACK)) {
                    (true, _) => pass(frame, payload, &mut self.to_upstream),
                    (false, false) => {
                        self.to_client
                            .own(|out| frame::write_ping_ack(payload, out));
                    }
                    (false, true) => {}
                }
                Ok(())
            }
            // GOAWAY: no more pushes, of which there are none; the client ends the
            // connection when it is ready.
            _ => self.calm.idle_frame(),
        }
    }

    fn client_settings(&mut self, payload: &[u8]) -> Result<(), Fault> {
        self.calm.idle_frame()?;
        let mut announced = Settings::default();
        announced.read(payload, Peer::Client)?;
        match (self.client.is_some(), announced.table) {
            (false, size) => self.response_blocks.allow(size),
            (true, Some(size)) => self.response_blocks.shrink(size),
            (true, None) => {}
        }
        self.client
            .get_or_insert_default()
            .read(payload, Peer::Client)?;
        if let Some(window) = announced.window {
            let change = i64::from(window) - self.stream_window;
            self.stream_window = i64::from(window);
            for stream in self.streams.values_mut() {
                stream.window += change;
                if stream.window > window::MOST {
                    return Err(Fault::new(
                        code::FLOW_CONTROL_ERROR,
                        "window of a stream too large",
                    ));
                }
            }
        }
        if !self.is_open() {
            self.to_client.own(frame::write_settings_ack);
            return Ok(());
        }
        if self.upstream_owes.len() >= MAX_UNACKED {
            return Err(Fault::new(code::ENHANCE_YOUR_CALM, "too many SETTINGS"));
        }
        self.upstream_owes.push_back(true);
        let pairs = announced.for_upstream(false, self.list);
        self.to_upstream
            .own(|out| frame::write_settings(&pairs, out));
        Ok(())
    }

    fn client_window_update(&mut self, id: u32, payload: &[u8]) -> Result<(), Fault> {
        self.calm.idle_frame()?;
        let credit = number(payload)? & 0x7fff_ffff;
        if id == 0 {
            if credit == 0 {
                return Err(Fault::protocol("WINDOW_UPDATE of 0"));
            }
            let passed = self.window.credit(credit).ok_or(Fault::new(
                code::FLOW_CONTROL_ERROR,
                "window of the connection too large",
            ))?;
            if self.is_open() {
                self.to_upstream.window_update(0, passed);
            }
            return Ok(());
        }
        self.reject_idle(id)?;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        stream.window += i64::from(credit);
        let too_large = stream.window > window::MOST;
        match (credit, too_large) {
            (0, _) => self.client_error(id, code::PROTOCOL_ERROR, "WINDOW_UPDATE of 0"),
            (_, true) => {
                let reason = "window of the stream too large";
                self.client_error(id, code::FLOW_CONTROL_ERROR, reason)
            }
            (_, false) => {
                self.to_upstream.window_update(id, credit);
                Ok(())
            }
        }
    }

    fn client_reset(&mut self, id: u32, payload: &[u8]) -> Result<(), Fault> {
        self.reject_idle(id)?;
        let Some(stream) = self.streams.remove(&id) else {
            self.calm.idle_frame()?;
            if self.closed.past(id) == Past::Cut {
                self.closed.remember(id, Past::Done);
            }
            return Ok(());
        };
        self.closed.remember(id, Past::Cancelled);
        let reason = "cancelled by the client";
        match stream.exchange {
            Some(exchange) if stream.answered => exchange.left(reason, self.inspector),
            Some(exchange) => {
                exchange.failed(0, ClientClosed.because(reason), self.inspector);
                self.calm.cancelled()?;
            }
            None => {}
        }
        let code = number(payload)?;
        self.to_upstream.reset(id, code);
        Ok(())
    }

    /// Priorities are forgotten: they may be of streams that upstream never sees, and
    /// RFC 9113 §5.3.2 deprecates them.
    fn client_priority(&mut self, frame: &Frame, payload: &[u8]) -> Result<(), Fault> {
        self.calm.idle_frame()?;
        let (code, reason) = if frame.length != 5 {
            (code::FRAME_SIZE_ERROR, "PRIORITY of a wrong length")
        } else if frame.depends_on(payload) == Some(frame.stream) {
            (code::PROTOCOL_ERROR, "a stream that depends on itself")
        } else {
            return Ok(());
        };
        // A stream that is not open cannot be reset.
        match self.streams.contains_key(&frame.stream) {
            true => self.client_error(frame.stream, code, reason),
            false => Err(Fault::new(code, reason)),
        }
    }

    fn client_block(&mut self, block: &Block) -> Result<(), Fault> {
        let id = block.stream;
        if id.is_multiple_of(2) {
            return Err(Fault::protocol("even stream id from a client"));
        }
        if id > self.highest_stream {
            self.highest_stream = id;
            self.calm.used();
            return self.request(block);
        }
        if self.streams.contains_key(&id) {
            return self.client_trailers(block);
        }
        self.calm.idle_frame()?;
        match self.closed.past(id) {
            // Trailers, sent before our answer arrived.
            Past::Cut if block.end_stream => self.closed.remember(id, Past::Done),
            Past::Cut => {}
            Past::Done => {
                return Err(Fault::new(
                    code::STREAM_CLOSED,
                    "HEADERS on a closed stream",
                ));
            }
            Past::Skipped => return Err(Fault::protocol("a smaller stream id than before")),
            Past::Cancelled | Past::Forgotten => self.to_client.reset(id, code::STREAM_CLOSED),
        }
        Ok(())
    }

    fn client_trailers(&mut self, block: &Block) -> Result<(), Fault> {
        let id = block.stream;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let (code, reason) = if stream.client_done {
            (code::STREAM_CLOSED, "HEADERS after the end of their stream")
        } else if block.depends_on_itself {
            (code::PROTOCOL_ERROR, "a stream that depends on itself")
        } else if !block.end_stream {
            (
                code::PROTOCOL_ERROR,
                "trailers that do not end their stream",
            )
        } else if let Err(error) = check_trailers(&block.fields) {
            return self.client_error(
                id,
                code::PROTOCOL_ERROR,
                &format!("malformed trailers: {error}"),
            );
        } else if stream.request_left.take(0, true).is_err() {
            let reason = "content-length contradicts the request's body";
            (code::PROTOCOL_ERROR, reason)
        } else {
            self.pass_request_block(block, None, None)?;
            self.client_done(id);
            return Ok(());
        };
        self.client_error(id, code, reason)
    }

    /// A stream error of the client's making, which counts as a cancelled request.
    pub(super) fn client_error(&mut self, id: u32, code: u32, reason: &str) -> Result<(), Fault> {
        self.stream_error(id, code, ClientProtocol.because(reason.to_owned()));
        self.calm.cancelled()
    }

    /// RFC 9113 §5.1: on an idle stream only HEADERS and PRIORITY may come.
    fn reject_idle(&self, id: u32) -> Result<(), Fault> {
        match id > self.highest_stream || id.is_multiple_of(2) {
            true => Err(Fault::protocol("frame on an idle stream")),
            false => Ok(()),
        }
    }
}

/// Passes a whole frame as it is.
pub(super) fn pass(frame: &Frame, payload: &[u8], to: &mut crate::http::h2::outbox::Outbox) {
    to.own(|out| {
        frame.write(out);
        out.extend_from_slice(payload);
    });
}

pub(super) fn number(payload: &[u8]) -> Result<u32, Fault> {
    frame::number(payload)
        .map_err(|_| Fault::new(code::FRAME_SIZE_ERROR, "frame of a wrong length"))
}
