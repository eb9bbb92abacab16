//! The host's part in a byte-stream filter's tests: holds bytes, shows them, carries out
//! what is said, and is strict about what may be said.

use std::collections::VecDeque;

use crate::stream::{Answer, Asked, Data, Direction, Operation, StreamSession};

/// Operations of one answer that a host takes.
const OPERATIONS: usize = 4_096;

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
    orders: VecDeque<Order>,
    wanted: usize,
    /// Something has come since it was shown last, or it is to be shown again.
    fresh: bool,
    again: bool,
    ended: bool,
    ordered: u64,
    out: Vec<u8>,
}

/// What was said of the front, carried out one after the other.
enum Order {
    Pass(u64),
    Drop(u64),
    Send(Vec<u8>),
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
        self.say(Direction::ToServer, bytes, false);
        self.take(Direction::ToServer)
    }

    /// The server says something, or nothing; what has come to the client since the
    /// last time.
    pub fn server(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.say(Direction::ToClient, bytes, false);
        self.take(Direction::ToClient)
    }

    /// Who sends this way says no more.
    pub fn end(&mut self, direction: Direction) {
        self.say(direction, &[], true);
    }

    /// What has come one way since the last time.
    pub fn take(&mut self, direction: Direction) -> Vec<u8> {
        std::mem::take(&mut self.lanes[index(direction)].out)
    }

    /// The last request that was told of.
    pub fn last(&self) -> &Asked {
        self.requests.last().expect("no request was told of")
    }

    fn say(&mut self, direction: Direction, bytes: &[u8], end: bool) {
        let lane = &mut self.lanes[index(direction)];
        lane.held.extend(bytes);
        lane.fresh |= !bytes.is_empty() || end;
        lane.ended |= end;
        lane.flow();
        while let Some(due) = [Direction::ToServer, Direction::ToClient]
            .into_iter()
            .find(|way| self.closed.is_none() && self.lanes[index(*way)].is_due())
        {
            self.show(due);
        }
    }

    fn show(&mut self, direction: Direction) {
        let own = index(direction);
        let lane = &mut self.lanes[own];
        self.held = self.held.max(lane.held.len());
        (lane.wanted, lane.fresh, lane.again) = (0, false, false);
        let before = lane.ordered;
        let said = self.session.on_data(Data {
            direction,
            bytes: &lane.held.clone(),
            end: lane.ended,
        });
        assert!(said.len() <= OPERATIONS, "{} operations", said.len());
        for operation in said.iter().cloned() {
            let lane = &mut self.lanes[own];
            match operation {
                Operation::Pass(count) => {
                    lane.ordered += count;
                    lane.orders.push_back(Order::Pass(count));
                }
                Operation::Drop(count) => {
                    lane.ordered += count;
                    lane.orders.push_back(Order::Drop(count));
                }
                Operation::Undecided { length, reason } => {
                    lane.ordered += length;
                    lane.orders.push_back(Order::Pass(length));
                    self.undecided.push(reason);
                }
                Operation::Hold(count) => {
                    lane.wanted = count as usize;
                    lane.again = lane.wanted <= lane.held.len() && !lane.held.is_empty();
                }
                Operation::Inject(to, bytes) => {
                    self.lanes[index(to)].orders.push_back(Order::Send(bytes));
                }
                Operation::Request(asked) => self.requests.push(asked),
                Operation::Answered(id, answer) => self.answers.push((id, answer)),
                Operation::Close(reason) => self.closed = Some(reason),
            }
            self.lanes.iter_mut().for_each(Lane::flow);
        }
        if self.lanes[own].ordered > before {
            self.lanes[own].resume();
        }
        self.lanes[1 - own].resume();
    }
}

impl Lane {
    fn is_due(&self) -> bool {
        let enough = !self.held.is_empty() && (self.ended || self.held.len() >= self.wanted);
        self.fresh && enough && self.orders.is_empty()
    }

    /// What it waited for has come about.
    fn resume(&mut self) {
        self.fresh |= self.again;
    }

    fn flow(&mut self) {
        while let Some(order) = self.orders.pop_front() {
            let (left, passes) = match order {
                Order::Pass(left) => (left, true),
                Order::Drop(left) => (left, false),
                Order::Send(bytes) => {
                    self.out.extend(bytes);
                    continue;
                }
            };
            let count =
                usize::try_from(left).map_or(self.held.len(), |left| left.min(self.held.len()));
            let gone = self.held.drain(..count);
            if passes {
                self.out.extend(gone);
            }
            let left = left - count as u64;
            if left > 0 {
                let rest = if passes {
                    Order::Pass(left)
                } else {
                    Order::Drop(left)
                };
                self.orders.push_front(rest);
                return;
            }
        }
    }
}

fn index(direction: Direction) -> usize {
    match direction {
        Direction::ToServer => 0,
        Direction::ToClient => 1,
    }
}
