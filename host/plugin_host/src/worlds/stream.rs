//! The world `stream-filter`: sessions, one per TCP connection, each in an instance that
//! serves one client alone.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use wasmtime::{Store, component::ResourceAny};

use self::bindings::{
    StreamFilter, StreamFilterPre,
    exports::tidegate::filter::byte_stream::{self as wit, Operation},
};
use super::{Configured, Needs};
use crate::{
    catalog::Binding,
    failure::{Failure, shorten},
    host_calls::Facts,
    hosted::{Hosted, Session},
    instance::{Instance, State},
    worker::Worker,
};

#[allow(missing_docs, unreachable_pub)]
pub(in crate::worlds) mod bindings {
    //! Generated.
    wasmtime::component::bindgen!({
        path: "../../wit/filter@0.2.0",
        world: "stream-filter",
    });
}

/// Operations one call may answer with.
const OPERATIONS: usize = 4_096;
/// Longest text in a record, bytes, and most targets.
const TEXT: usize = 256;
const TARGETS: usize = 32;

/// A configured instance.
pub(crate) type Exports = StreamFilter;

/// Instantiates and configures.
pub(super) fn configure(
    pre: &StreamFilterPre<State>,
    store: &mut Store<State>,
    config: &str,
) -> Configured {
    let exports = pre.instantiate(&mut *store)?;
    let answer = exports
        .tidegate_filter_byte_stream()
        .call_configure(store, config)?;
    Ok(answer.map(|()| (super::Exports::Stream(exports), Needs::Stream)))
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamDirection {
    /// What the client says.
    ToServer,
    /// What the server says.
    ToClient,
}

/// What becomes of a connection; see `byte-stream.operation` of the contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamOperation {
    /// Bytes go on as they are.
    Pass(u64),
    /// Bytes are forgotten.
    Drop(u64),
    /// Bytes that cannot be judged, and why.
    Undecided(u64, String),
    /// Nothing is shown before it is so many bytes.
    Hold(u32),
    /// Bytes of the filter's own.
    Inject(StreamDirection, Vec<u8>),
    /// A request.
    Request(StreamRequest),
    /// What a request was answered.
    Answered(u32, StreamAnswer),
    /// The connection cannot go on.
    Close(String),
}

/// A request as it is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRequest {
    /// Its name until it is answered.
    pub id: u32,
    /// What is asked for.
    pub command: String,
    /// What it is asked of.
    pub targets: Vec<String>,
    /// Does it pass.
    pub allowed: bool,
    /// Index of the rule that decided.
    pub rule: Option<u32>,
    /// Is an answer to come: `None`; else what is known of it, if there is any.
    pub reply: Option<Option<StreamAnswer>>,
}

/// Something said in answer to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamAnswer {
    /// The protocol's own number.
    pub code: i32,
    /// Its name.
    pub text: String,
}

/// One connection's part of a plugin.
pub struct StreamSession {
    hosted: Rc<RefCell<Hosted>>,
    session: ResourceAny,
    binding: Arc<Binding>,
    facts: Arc<Facts>,
}

impl StreamSession {
    /// Most bytes that are held for it, each way.
    pub fn buffer_bytes(&self) -> usize {
        let bytes = self
            .hosted
            .borrow()
            .of()
            .version
            .info
            .limits
            .stream_buffer_bytes;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

impl Binding {
    /// Tells one content from another: plugin, rules and configuration. A new version of
    /// the plugin is none.
    pub fn content(&self) -> String {
        let config = self
            .configured
            .as_ref()
            .map(|configured| &configured.config);
        format!(
            "{} {:?} {} {:?}",
            self.plugin,
            self.rules,
            self.bound,
            config.ok()
        )
    }
}

impl Drop for StreamSession {
    /// Tells the plugin that the connection is over.
    fn drop(&mut self) {
        self.hosted
            .borrow_mut()
            .leave(Session::Resource(self.session), &self.facts);
    }
}

impl Worker {
    /// Begins a session. If it is not `enforced`, it is run for its records alone.
    ///
    /// # Errors
    ///
    /// Why there is none; the binding's fail mode is the caller's to apply.
    pub fn stream_open(
        &mut self,
        binding: &Arc<Binding>,
        facts: &Arc<Facts>,
        enforced: bool,
    ) -> Result<StreamSession, Failure> {
        let configured = binding.configured.as_ref().map_err(Clone::clone)?;
        let hosted = self.hosted(configured, facts.source.ip().to_canonical())?;
        let session = self.call_in(&hosted, binding, facts, |instance| {
            instance.stream_open(enforced)
        })?;
        hosted.borrow_mut().enter();
        Ok(StreamSession {
            hosted,
            session,
            binding: binding.clone(),
            facts: facts.clone(),
        })
    }

    /// Shows a session what has come.
    ///
    /// # Errors
    ///
    /// As [`Self::stream_open`]; the session is lost then.
    pub fn stream_data(
        &mut self,
        session: &StreamSession,
        direction: StreamDirection,
        bytes: &[u8],
        end: bool,
    ) -> Result<Vec<StreamOperation>, Failure> {
        let StreamSession {
            hosted,
            session,
            binding,
            facts,
        } = session;
        self.call_in(hosted, binding, facts, |instance| {
            instance.stream_data(*session, direction, bytes, end)
        })
    }
}

impl Instance {
    fn stream_open(&mut self, enforced: bool) -> Result<ResourceAny, Failure> {
        self.ask(|exports, store| {
            let super::Exports::Stream(exports) = exports else {
                return None;
            };
            let stream = exports.tidegate_filter_byte_stream();
            Some(stream.session().call_constructor(store, enforced))
        })
    }

    fn stream_data(
        &mut self,
        session: ResourceAny,
        direction: StreamDirection,
        bytes: &[u8],
        end: bool,
    ) -> Result<Vec<StreamOperation>, Failure> {
        let direction = match direction {
            StreamDirection::ToServer => wit::Direction::ToServer,
            StreamDirection::ToClient => wit::Direction::ToClient,
        };
        let said = self.ask(|exports, store| {
            let super::Exports::Stream(exports) = exports else {
                return None;
            };
            let stream = exports.tidegate_filter_byte_stream().session();
            Some(stream.call_on_data(store, session, direction, bytes, end))
        })?;
        if said.len() > OPERATIONS {
            return Err(Failure::Invalid("too many operations"));
        }
        Ok(said.into_iter().map(operation).collect())
    }
}

/// An operation with texts that fit a record.
fn operation(said: Operation) -> StreamOperation {
    match said {
        Operation::Pass(count) => StreamOperation::Pass(count),
        Operation::Drop(count) => StreamOperation::Drop(count),
        Operation::Undecided(wit::Undecided { length, reason }) => {
            StreamOperation::Undecided(length, shorten(reason))
        }
        Operation::Hold(count) => StreamOperation::Hold(count),
        Operation::Inject(wit::Injection { direction, bytes }) => {
            let direction = match direction {
                wit::Direction::ToServer => StreamDirection::ToServer,
                wit::Direction::ToClient => StreamDirection::ToClient,
            };
            StreamOperation::Inject(direction, bytes)
        }
        Operation::Request(request) => StreamOperation::Request(StreamRequest {
            id: request.id,
            command: fit(request.command),
            targets: request.targets.into_iter().take(TARGETS).map(fit).collect(),
            allowed: request.allowed,
            rule: request.rule,
            reply: match request.reply {
                wit::Reply::Awaited => None,
                wit::Reply::None => Some(None),
                wit::Reply::Given(given) => Some(Some(answer(given))),
            },
        }),
        Operation::Answered((id, said)) => StreamOperation::Answered(id, answer(said)),
        Operation::Close(reason) => StreamOperation::Close(shorten(reason)),
    }
}

fn answer(said: wit::Answer) -> StreamAnswer {
    StreamAnswer {
        code: said.code,
        text: fit(said.text),
    }
}

/// Words of a filter for a record: short, on one line.
fn fit(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT));
    text.replace(char::is_control, "\u{fffd}")
}
