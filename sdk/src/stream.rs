//! Byte-stream filters: the traits, what is shown and said, and the glue behind
//! [`stream_filter!`](crate::stream_filter).

use crate::bindings::stream_world::exports::tidegate::filter::byte_stream as wit;

/// A filter over TCP connections. One value is made per binding and instance; what it
/// knows of a connection belongs in the [`Session`](StreamFilter::Session).
pub trait StreamFilter: Sized + 'static {
    /// One connection.
    type Session: StreamSession;

    /// Makes a filter from the binding's configuration (JSON text).
    ///
    /// # Errors
    ///
    /// A sentence for the operator; the version before stays in use.
    fn configure(config: &str) -> Result<Self, String>;

    /// A connection begins. If not `enforced`, everything passes whatever the session
    /// says: it is run for its records, and a request it refuses is answered by the
    /// server.
    fn open(&self, enforced: bool) -> Self::Session;
}

/// What a filter knows of one connection.
pub trait StreamSession: 'static {
    /// Looks at what has come one way and did not pass yet.
    fn on_data(&mut self, data: Data<'_>) -> Operations;
}

/// Which way bytes go. The client is who opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// What the client says.
    ToServer,
    /// What the server says.
    ToClient,
}

/// What has come one way and did not pass yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data<'a> {
    /// Which way.
    pub direction: Direction,
    /// From the front.
    pub bytes: &'a [u8],
    /// That side will say no more.
    pub end: bool,
}

/// What becomes of a connection, in order; see [`Operations`]' methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// See [`Operations::pass`].
    Pass(u64),
    /// See [`Operations::discard`].
    Drop(u64),
    /// See [`Operations::undecided`].
    Undecided {
        /// Bytes at the front.
        length: u64,
        /// Why.
        reason: String,
    },
    /// See [`Operations::hold`].
    Hold(u32),
    /// See [`Operations::inject`].
    Inject(Direction, Vec<u8>),
    /// See [`Operations::request`].
    Request(Asked),
    /// See [`Operations::answered`].
    Answered(u32, Answer),
    /// See [`Operations::close`].
    Close(String),
}

/// A request as it is decided, for its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Names it among the requests of this connection that are not answered yet.
    pub id: u32,
    /// What is asked for, e.g. `Produce v9`.
    pub command: String,
    /// What it is asked of.
    pub targets: Vec<String>,
    /// Does it pass?
    pub allowed: bool,
    /// Index of the rule that decided.
    pub rule: Option<u32>,
    /// Is there, or will there be, an answer?
    pub reply: Reply,
}

/// Is there, or will there be, an answer to a request?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// [`Operations::answered`] will say so.
    Awaited,
    /// The protocol has none.
    None,
    /// This one, which the filter injects.
    Given(Answer),
}

/// Something said in answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The protocol's own number; 0 where it has none for "well".
    pub code: i32,
    /// Its name, or the words themselves.
    pub text: String,
}

/// What becomes of a connection: said in order, carried out in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operations(Vec<Operation>);

impl Operations {
    /// Nothing said: the host waits for more and shows it together with what there is.
    pub fn none() -> Self {
        Self::default()
    }

    /// Lets bytes from the front go on as they are. More than was shown is welcome: the
    /// rest follows as it comes, without being shown.
    pub fn pass(&mut self, count: u64) -> &mut Self {
        if let Some(Operation::Pass(before)) = self.0.last_mut() {
            *before = before.saturating_add(count);
            return self;
        }
        self.push(Operation::Pass(count))
    }

    /// Forgets bytes from the front; as [`Self::pass`] otherwise.
    pub fn discard(&mut self, count: u64) -> &mut Self {
        self.push(Operation::Drop(count))
    }

    /// Bytes that cannot be judged: they pass if the binding's fail mode is open; closed,
    /// the connection ends.
    pub fn undecided(&mut self, count: u64, reason: impl Into<String>) -> &mut Self {
        self.push(Operation::Undecided {
            length: count,
            reason: reason.into(),
        })
    }

    /// Shows nothing of what remains before it is `count` bytes, or ends.
    pub fn hold(&mut self, count: u32) -> &mut Self {
        self.push(Operation::Hold(count))
    }

    /// Has what remains shown again although nothing more has come: at once if something
    /// was said of what stood before it, so that an answer can be short; else when
    /// something has come the other way. Until then no more is read.
    pub fn again(&mut self) -> &mut Self {
        self.hold(0)
    }

    /// How many there are. One answer may have 4,096.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Is nothing said?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sends bytes of the filter's own, after everything that was to pass that way.
    pub fn inject(&mut self, direction: Direction, bytes: Vec<u8>) -> &mut Self {
        if let Some(Operation::Inject(to, before)) = self.0.last_mut()
            && *to == direction
        {
            before.extend(bytes);
            return self;
        }
        self.push(Operation::Inject(direction, bytes))
    }

    /// Tells of a request. Each becomes one record.
    pub fn request(&mut self, asked: Asked) -> &mut Self {
        self.push(Operation::Request(asked))
    }

    /// Tells what a request was answered that was to be.
    pub fn answered(&mut self, id: u32, answer: Answer) -> &mut Self {
        self.push(Operation::Answered(id, answer))
    }

    /// Ends the connection, which cannot go on for this reason.
    pub fn close(&mut self, reason: impl Into<String>) -> &mut Self {
        self.push(Operation::Close(reason.into()))
    }

    /// What was said, for tests and the glue.
    pub fn iter(&self) -> impl Iterator<Item = &Operation> {
        self.0.iter()
    }

    fn push(&mut self, operation: Operation) -> &mut Self {
        self.0.push(operation);
        self
    }
}

impl From<Direction> for wit::Direction {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::ToServer => Self::ToServer,
            Direction::ToClient => Self::ToClient,
        }
    }
}

impl From<Answer> for wit::Answer {
    fn from(Answer { code, text }: Answer) -> Self {
        Self { code, text }
    }
}

impl From<Operation> for wit::Operation {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Pass(count) => Self::Pass(count),
            Operation::Drop(count) => Self::Drop(count),
            Operation::Undecided { length, reason } => {
                Self::Undecided(wit::Undecided { length, reason })
            }
            Operation::Hold(count) => Self::Hold(count),
            Operation::Inject(direction, bytes) => Self::Inject(wit::Injection {
                direction: direction.into(),
                bytes,
            }),
            Operation::Request(asked) => Self::Request(wit::Request {
                id: asked.id,
                command: asked.command,
                targets: asked.targets,
                allowed: asked.allowed,
                rule: asked.rule,
                reply: match asked.reply {
                    Reply::Awaited => wit::Reply::Awaited,
                    Reply::None => wit::Reply::None,
                    Reply::Given(answer) => wit::Reply::Given(answer.into()),
                },
            }),
            Operation::Answered(id, answer) => Self::Answered((id, answer.into())),
            Operation::Close(reason) => Self::Close(reason),
        }
    }
}

/// Makes a plugin of a type that implements [`StreamFilter`]; the second argument is
/// its manifest, as for [`http_filter!`](crate::http_filter).
#[macro_export]
macro_rules! stream_filter {
    ($filter:ty, $manifest:tt) => {
        // Natively nobody calls the filter but its tests; it is in use all the same.
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn(&str) -> Result<$filter, String> = <$filter as $crate::StreamFilter>::configure;

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::stream_glue as glue;

            $crate::embed_manifest!($manifest);

            struct Export;

            ::std::thread_local! {
                static FILTER: glue::Slot<$filter> = const { glue::Slot::new(None) };
            }

            struct Connection(glue::Cell<<$filter as $crate::StreamFilter>::Session>);

            impl glue::Guest for Export {
                type Session = Connection;

                fn configure(config: String) -> Result<(), String> {
                    FILTER.with(|slot| glue::configure(slot, &config))
                }
            }

            impl glue::GuestSession for Connection {
                fn new(enforced: bool) -> Self {
                    Self(FILTER.with(|slot| glue::open(slot, enforced)))
                }

                fn on_data(
                    &self,
                    direction: glue::Direction,
                    data: Vec<u8>,
                    end: bool,
                ) -> Vec<glue::Operation> {
                    glue::on_data(&self.0, direction, &data, end)
                }
            }

            $crate::bindings::stream_world::export!(
                Export with_types_in $crate::bindings::stream_world
            );
        };
    };
}

/// What [`stream_filter!`](crate::stream_filter) expands to calls of.
pub mod glue {
    pub use std::cell::RefCell as Cell;

    pub use super::wit::{Direction, Guest, GuestSession, Operation};
    use super::{Data, StreamFilter, StreamSession};

    /// Where the one filter of an instance lives once it is configured.
    pub type Slot<F> = Cell<Option<F>>;

    /// `configure` of the contract.
    ///
    /// # Errors
    ///
    /// The filter's own.
    pub fn configure<F: StreamFilter>(slot: &Slot<F>, config: &str) -> Result<(), String> {
        slot.replace(Some(F::configure(config)?));
        Ok(())
    }

    /// The constructor of `session`.
    pub fn open<F: StreamFilter>(slot: &Slot<F>, enforced: bool) -> Cell<F::Session> {
        match slot.borrow().as_ref() {
            Some(filter) => Cell::new(filter.open(enforced)),
            // The host configures before it opens; a host that does not gets a trap.
            None => panic!("opened before configured"),
        }
    }

    /// `session.on-data` of the contract.
    pub fn on_data<S: StreamSession>(
        session: &Cell<S>,
        direction: Direction,
        bytes: &[u8],
        end: bool,
    ) -> Vec<Operation> {
        let direction = match direction {
            Direction::ToServer => super::Direction::ToServer,
            Direction::ToClient => super::Direction::ToClient,
        };
        let data = Data {
            direction,
            bytes,
            end,
        };
        let said = session.borrow_mut().on_data(data);
        said.0.into_iter().map(Operation::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines; those that begin with `!` are refused.
    struct Lines(char);

    struct Line(char, u32);

    impl StreamFilter for Lines {
        type Session = Line;

        fn configure(config: &str) -> Result<Self, String> {
            config.chars().next().map(Self).ok_or("empty".to_owned())
        }

        fn open(&self, _: bool) -> Line {
            Line(self.0, 0)
        }
    }

    impl StreamSession for Line {
        fn on_data(&mut self, data: Data<'_>) -> Operations {
            let mut said = Operations::none();
            let Some(end) = data.bytes.iter().position(|byte| *byte == b'\n') else {
                said.hold(data.bytes.len() as u32 + 1);
                return said;
            };
            self.1 += 1;
            let length = end as u64 + 1;
            if data.bytes[0] == self.0 as u8 {
                let no = Answer {
                    code: 1,
                    text: "no".to_owned(),
                };
                said.discard(length).request(Asked {
                    id: self.1,
                    command: "line".to_owned(),
                    targets: Vec::new(),
                    allowed: false,
                    rule: Some(0),
                    reply: Reply::Given(no),
                });
                said.inject(Direction::ToClient, b"no\n".to_vec());
            } else {
                said.pass(length);
            }
            said
        }
    }

    #[test]
    fn the_glue_speaks_the_contract() {
        let slot = glue::Slot::<Lines>::new(None);
        assert_eq!(glue::configure(&slot, "").unwrap_err(), "empty");
        glue::configure(&slot, "!").unwrap();
        let (one, other) = (glue::open(&slot, true), glue::open(&slot, true));
        let ask =
            |session, bytes: &[u8]| glue::on_data(session, wit::Direction::ToServer, bytes, false);
        assert!(matches!(ask(&one, b"a\nb")[..], [wit::Operation::Pass(2)]));
        assert!(matches!(ask(&one, b"b")[..], [wit::Operation::Hold(2)]));
        match &ask(&one, b"!c\n")[..] {
            [
                wit::Operation::Drop(3),
                wit::Operation::Request(request),
                wit::Operation::Inject(injection),
            ] => {
                assert_eq!((request.id, request.rule), (2, Some(0)));
                assert!(matches!(&request.reply, wit::Reply::Given(answer) if answer.code == 1));
                assert_eq!(injection.bytes, b"no\n");
            }
            said => panic!("{said:?}"),
        }
        // Each connection counts for itself.
        match &ask(&other, b"!\n")[..] {
            [_, wit::Operation::Request(request), _] => assert_eq!(request.id, 1),
            said => panic!("{said:?}"),
        }
    }
}
