//! One request of the client: read, decided, passed or answered.

use std::time::Instant;

use tidegate_contract::FailureKind::{ClientProtocol, Overload};
use tidegate_wire::{
    grpc,
    http::{CheckedEdit, HttpHead, Version},
    http2::{
        Fields, Malformed, Request,
        frame::{self, code},
    },
};

use super::{Relay, Stream, Upstream};
use crate::http::{
    exchange::Exchange,
    h2::{Fault, half::Block, retirement::Retirement, settings::MAX_STREAMS},
    inspect::Inspector,
    opening::Opening,
    reply::{Asker, Reply},
    request,
};

impl<I: Inspector> Relay<'_, I> {
    pub(super) fn request(&mut self, block: &Block) -> Result<(), Fault> {
        if self.streams.len() >= MAX_STREAMS as usize || self.retirement == Retirement::Known {
            self.to_client.reset(block.stream, code::REFUSED_STREAM);
            self.remember_cut(block);
            return self.calm.cancelled();
        }
        let began = Instant::now();
        match Request::read(&block.fields) {
            Ok(request) if !block.depends_on_itself => {
                let mut length = request.length;
                if block.end_stream && length.take(0, true).is_err() {
                    return self.unreadable(block, Malformed::Length);
                }
                self.decide(block, &request, began)
            }
            Ok(_) => self.unreadable(block, Malformed::Pseudo),
            Err(error) => self.unreadable(block, error),
        }
    }

    /// Refuses what is no request: an error of its stream alone (RFC 9113 §8.1.1).
    fn unreadable(&mut self, block: &Block, error: Malformed) -> Result<(), Fault> {
        let exchange = Exchange::unreadable(
            Version::Http2.as_str(),
            ClientProtocol.because(error.to_string()),
        );
        if error == Malformed::TooLarge {
            let reply = Reply::error(431, "header list too large");
            let asker = Asker {
                head: false,
                call: content_type(&block.fields),
            };
            self.answer((block.stream, block.end_stream), &reply, asker);
            exchange.denied(431, self.inspector);
        } else {
            self.to_client.reset(block.stream, code::PROTOCOL_ERROR);
            self.remember_cut(block);
            exchange.denied(0, self.inspector);
        }
        self.calm.cancelled()
    }

    /// The client may still be sending what we do not want.
    fn remember_cut(&mut self, block: &Block) {
        self.closed
            .remember(block.stream, super::ended(block.end_stream));
    }

    fn decide(
        &mut self,
        block: &Block,
        request: &Request<'_>,
        began: Instant,
    ) -> Result<(), Fault> {
        let head = HttpHead {
            version: Version::Http2,
            method: request.method,
            path: request.path,
            authority: request.authority,
            headers: &request.headers,
        };
        self.decided += 1;
        let standing = (request.method == "CONNECT").then(|| self.inspector.standing());
        let asker = Asker::of(&head);
        let passed = match request::decide(head, began, self.inspector) {
            Ok(passed) => passed,
            Err(reply) => {
                self.answer((block.stream, block.end_stream), &reply, asker);
                return Ok(());
            }
        };
        let (mut exchange, mut edit) = (passed.exchange, passed.edit);
        let tunnel = request.method == "CONNECT";
        if let Some(line) = passed.sees_response.request_line().filter(|_| !tunnel) {
            let attribution = &mut exchange.attribution;
            match line.unseen(block.end_stream, edit, attribution) {
                Ok(changed) => edit = changed,
                Err(stop) => {
                    let reply = exchange.stopped(*stop, self.inspector);
                    self.answer((block.stream, block.end_stream), &reply, asker);
                    return Ok(());
                }
            }
        }
        if let Upstream::Absent(because) = &self.upstream {
            let reply = because.reply();
            exchange.failed(because.status, because.error.clone(), self.inspector);
            self.answer((block.stream, block.end_stream), &reply, asker);
            return Ok(());
        }
        let decided = HttpHead {
            path: passed.path.as_deref().unwrap_or(head.path),
            ..head
        };
        let opening = standing.map(|standing| Box::new(Opening::of(&decided, standing)));
        let kept = opening.as_ref().map_or(0, |opening| opening.memory());
        let memory = size_of::<Stream>() + exchange.memory() + kept;
        let Some(held) = self.share.take(memory) else {
            self.to_client.reset(block.stream, code::REFUSED_STREAM);
            self.remember_cut(block);
            exchange.failed(
                0,
                Overload.because("too many open requests"),
                self.inspector,
            );
            return self.calm.cancelled();
        };
        self.ask();
        let stream = Stream {
            exchange: Some(exchange),
            sees_response: passed.sees_response,
            answered: false,
            client_done: block.end_stream,
            upstream_done: false,
            window: self.stream_window,
            request_left: request.length,
            response_left: tidegate_wire::http2::Length::default(),
            held,
            opening,
            tunnel: None,
        };
        self.streams.insert(block.stream, stream);
        self.pass_request_block(block, passed.path.as_deref(), edit.as_ref())
    }

    pub(super) fn pass_request_block(
        &mut self,
        block: &Block,
        path: Option<&str>,
        edit: Option<&CheckedEdit>,
    ) -> Result<(), Fault> {
        let bytes = self.request_blocks.encode(&block.fields, path, edit);
        self.to_upstream
            .own(|out| frame::write_block(block.stream, block.end_stream, &bytes, out));
        // What plugins add is not the client's doing.
        let added = edit.into_iter().flat_map(|edit| &edit.set);
        let added: usize = added
            .map(|(name, value)| name.len() + value.len() + 8)
            .sum();
        let sent = bytes.len().saturating_sub(added);
        self.expansion.block(block.length, sent)
    }
}

/// Is what cannot be read a call of gRPC, as far as it is known?
fn content_type(fields: &Fields) -> Option<grpc::Kind> {
    let mut fields = fields.iter();
    let (_, value) = fields.find(|(name, _)| *name == b"content-type")?;
    grpc::Kind::of(value)
}
