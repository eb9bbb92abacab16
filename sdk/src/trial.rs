//! The host's part in a byte-stream filter's tests: holds bytes, shows them, carries out
//! what is said, and is strict about what may be said.

use crate::stream::{Answer, Asked, Data, Direction, Operation, StreamSession};

/// A connection through a session.
///
/// # Panics
///
/// Where the session says what the contract does not allow.
pub struct Trial<S> {
    session: S,
    lanes: [Lane; 2],
    /// Requests that were told of.
    pub requests: Vec<Asked>,
    /// Answers that were told of, by the request's id.
    pub answers: Vec<(u32, Answer)>,
    /// What could not be judged, and passed: the fail mode here is open.
    pub undecided: Vec<String>,
    /// Why the connection was closed, if it was.
    pub closed: Option<String>,
    /// Most bytes that were shown at a time.
    pub held: usize,
}

#[derive(Default)]
struct Lane {
    held: Vec<u8>,
    passing: u64,
    dropping: u64,
    wanted: usize,
    out: Vec<u8>,
}

impl<S: StreamSession> Trial<S> {
    /// A connection that has just begun.
    pub fn of(session: S) -> Self {
        Self {
            session,
            lanes: Default::default(),
            requests: Vec::new(),
            answers: Vec::new(),
            undecided: Vec::new(),
            closed: None,
            held: 0,
        }
    }

    /// The client says something; what has come to the server since the last time.
    pub fn client(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.say(Direction::ToServer, bytes);
        self.take(Direction::ToServer)
    }

    /// The server says something, or nothing; what has come to the client since the
    /// last time.
    pub fn server(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.say(Direction::ToClient, bytes);
        self.take(Direction::ToClient)
    }

    /// What has come one way since the last time.
    pub fn take(&mut self, direction: Direction) -> Vec<u8> {
        std::mem::take(&mut self.lanes[index(direction)].out)
    }

    /// The last request that was told of.
    pub fn last(&self) -> &Asked {
        self.requests.last().expect("no request was told of")
    }

    fn say(&mut self, direction: Direction, bytes: &[u8]) {
        let lane = &mut self.lanes[index(direction)];
        lane.held.extend(bytes);
        lane.flow();
        if self.closed.is_some() || lane.held.is_empty() || lane.held.len() < lane.wanted {
            return;
        }
        self.held = self.held.max(lane.held.len());
        lane.wanted = 0;
        let said = self.session.on_data(Data {
            direction,
            bytes: &lane.held.clone(),
            end: false,
        });
        for operation in said.iter().cloned() {
            let lane = &mut self.lanes[index(direction)];
            match operation {
                Operation::Pass(count) => lane.passing += count,
                Operation::Drop(count) => lane.dropping += count,
                Operation::Undecided { length, reason } => {
                    lane.passing += length;
                    self.undecided.push(reason);
                }
                Operation::Hold(count) => {
                    assert!(count as usize > lane.held.len(), "{count} are there");
                    lane.wanted = count as usize;
                }
                Operation::Inject(to, bytes) => {
                    let lane = &mut self.lanes[index(to)];
                    assert_eq!((lane.passing, lane.dropping), (0, 0), "in its turn");
                    lane.out.extend(bytes);
                }
                Operation::Request(asked) => self.requests.push(asked),
                Operation::Answered(id, answer) => self.answers.push((id, answer)),
                Operation::Close(reason) => self.closed = Some(reason),
            }
            self.lanes[index(direction)].flow();
        }
    }
}

impl Lane {
    fn flow(&mut self) {
        assert!(self.passing == 0 || self.dropping == 0, "one at a time");
        let passed = self.held.len().min(self.passing as usize);
        self.out.extend(self.held.drain(..passed));
        self.passing -= passed as u64;
        let dropped = self.held.len().min(self.dropping as usize);
        self.held.drain(..dropped);
        self.dropping -= dropped as u64;
    }
}

fn index(direction: Direction) -> usize {
    match direction {
        Direction::ToServer => 0,
        Direction::ToClient => 1,
    }
}
