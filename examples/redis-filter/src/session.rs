//! One connection: commands are judged as they come, replies are counted, so that a refusal
//! stands where its command stood.

use std::{
    collections::{BTreeSet, VecDeque},
    rc::Rc,
};

use tidegate_sdk::{Answer, Asked, Data, Direction, Operations, Reply, StreamSession};

use crate::{
    keys,
    reply::{Kind, Piece, Reader},
    request::{self, Front},
    rules::{Rules, Verdict, word},
};

/// Commands or replies looked at in one call; the rest is looked at in the next.
const AT_ONCE: usize = 256;
/// Commands that may wait for a reply; further ones are read later.
const WAITING: usize = 4_096;

/// What the client hears instead of a reply.
const REFUSED: &[u8] = b"-NOPERM this command or key is not allowed by policy\r\n";
/// And of a transaction one of whose commands was refused, as the server itself would say.
const ABORTED: &[u8] = b"-EXECABORT Transaction discarded because of previous errors.\r\n";

/// What is known of one connection.
pub struct Session {
    rules: Rc<Rules>,
    enforced: bool,
    /// Names the next command.
    next: u32,
    /// Replies the client is owed, in order.
    waiting: VecDeque<Waiting>,
    reader: Reader,
    multi: Multi,
    /// What it listens to: kind of channel, and name.
    channels: BTreeSet<(u8, Vec<u8>)>,
}

/// A transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Multi {
    None,
    Open,
    /// A command of it was refused.
    Broken,
}

enum Waiting {
    /// For the server.
    Server {
        id: u32,
        /// It tells so many channels instead, each by itself.
        channels: usize,
        /// The client hears this in place of what the server says.
        instead: Option<&'static [u8]>,
    },
    /// For those before it.
    Turn(&'static [u8]),
}

impl StreamSession for Session {
    fn on_data(&mut self, data: Data<'_>) -> Operations {
        let mut said = Operations::none();
        let mut rest = data.bytes;
        for turn in 0.. {
            if rest.is_empty() {
                break;
            }
            let full = data.direction == Direction::ToServer && self.waiting.len() >= WAITING;
            if turn == AT_ONCE || full {
                said.again();
                break;
            }
            let step = match data.direction {
                Direction::ToServer => self.command(rest, &mut said),
                Direction::ToClient => self.reply(rest, &mut said),
            };
            match step {
                Ok(Step::Done(count)) => {
                    let count = usize::try_from(count).unwrap_or(usize::MAX);
                    rest = rest.get(count..).unwrap_or_default();
                }
                Ok(Step::Needs(count)) => {
                    said.hold(u32::try_from(count).unwrap_or(u32::MAX));
                    break;
                }
                Err(reason) => {
                    said.close(reason);
                    break;
                }
            }
        }
        said
    }
}

enum Step {
    /// Bytes that are done with; some may not have come yet.
    Done(u64),
    /// Bytes that must be there first.
    Needs(usize),
}

impl Session {
    pub(crate) fn new(rules: Rc<Rules>, enforced: bool) -> Self {
        Self {
            rules,
            enforced,
            next: 0,
            waiting: VecDeque::new(),
            reader: Reader::default(),
            multi: Multi::None,
            channels: BTreeSet::new(),
        }
    }

    fn command(&mut self, bytes: &[u8], said: &mut Operations) -> Result<Step, &'static str> {
        let (arguments, length) = match request::read(bytes)? {
            Front::Needs(count) => return Ok(Step::Needs(count)),
            Front::Empty(length) => {
                said.pass(length as u64);
                return Ok(Step::Done(length as u64));
            }
            Front::Command(arguments, length) => (arguments, length as u64),
        };
        let name = word(arguments.first());
        match self.rules.decide(&arguments) {
            Verdict::Allowed(_) if name == "EXEC" && self.multi == Multi::Broken => {
                self.abort(length, said);
            }
            Verdict::Allowed(rule) => self.pass(&name, &arguments, (length, true, rule), said),
            Verdict::Refused if !self.enforced => {
                self.pass(&name, &arguments, (length, false, None), said);
            }
            Verdict::Refused => {
                if self.multi == Multi::Open {
                    self.multi = Multi::Broken;
                }
                let told = Reply::Given(answer(Some("NOPERM")));
                self.tell(&name, &arguments, (false, None, told), said);
                said.discard(length);
                match self.waiting.is_empty() {
                    true => drop(said.inject(Direction::ToClient, REFUSED.to_vec())),
                    false => self.waiting.push_back(Waiting::Turn(REFUSED)),
                }
            }
        }
        Ok(Step::Done(length))
    }

    fn pass(
        &mut self,
        name: &str,
        arguments: &[&[u8]],
        (length, allowed, rule): (u64, bool, Option<u32>),
        said: &mut Operations,
    ) {
        match name {
            "MULTI" if self.multi == Multi::None => self.multi = Multi::Open,
            "EXEC" | "DISCARD" => self.multi = Multi::None,
            _ => {}
        }
        let channels = self.listen(name, &arguments[1..]);
        let id = self.tell(name, arguments, (allowed, rule, Reply::Awaited), said);
        said.pass(length);
        self.waiting.push_back(Waiting::Server {
            id,
            channels,
            instead: None,
        });
    }

    /// The server is told to forget the transaction, and the client that it was.
    fn abort(&mut self, length: u64, said: &mut Operations) {
        self.multi = Multi::None;
        let id = self.tell("EXEC", &[], (false, None, Reply::Awaited), said);
        said.discard(length);
        said.inject(Direction::ToServer, b"*1\r\n$7\r\nDISCARD\r\n".to_vec());
        self.waiting.push_back(Waiting::Server {
            id,
            channels: 0,
            instead: Some(ABORTED),
        });
    }

    /// Notes what the client listens to; how many channels the server will tell of.
    fn listen(&mut self, name: &str, channels: &[&[u8]]) -> usize {
        let (begins, kind) = match name {
            "SUBSCRIBE" => (true, b' '),
            "PSUBSCRIBE" => (true, b'P'),
            "SSUBSCRIBE" => (true, b'S'),
            "UNSUBSCRIBE" => (false, b' '),
            "PUNSUBSCRIBE" => (false, b'P'),
            "SUNSUBSCRIBE" => (false, b'S'),
            _ => return 0,
        };
        if !begins && channels.is_empty() {
            let before = self.channels.len();
            self.channels.retain(|(of, _)| *of != kind);
            return (before - self.channels.len()).max(1);
        }
        for channel in channels {
            let channel = (kind, channel.to_vec());
            match begins {
                true => self.channels.insert(channel),
                false => self.channels.remove(&channel),
            };
        }
        channels.len()
    }

    fn reply(&mut self, bytes: &[u8], said: &mut Operations) -> Result<Step, &'static str> {
        let about_channels = |one: &Waiting| matches!(one, Waiting::Server { channels: 1.., .. });
        let listens = !self.channels.is_empty() || self.waiting.iter().any(about_channels);
        let (length, ended) = match self.reader.read(bytes, listens)? {
            Piece::Needs(count) => return Ok(Step::Needs(count)),
            Piece::Bytes(length, ended) => (length, ended),
        };
        let front = self.waiting.front_mut();
        let instead = match &front {
            Some(Waiting::Server { instead, .. }) => *instead,
            _ => None,
        };
        match instead {
            Some(_) => said.discard(length),
            None => said.pass(length),
        };
        let error = match (ended, front) {
            (Some(Kind::Answer(error)), Some(_)) => error,
            (Some(Kind::Channel), Some(Waiting::Server { channels, .. })) => {
                *channels = channels.saturating_sub(1);
                if *channels > 0 {
                    return Ok(Step::Done(length));
                }
                None
            }
            // Not at its end, or not asked for.
            _ => return Ok(Step::Done(length)),
        };
        if let Some(Waiting::Server { id, instead, .. }) = self.waiting.pop_front() {
            let told = match instead {
                Some(_) => Some("EXECABORT"),
                None => error.as_deref(),
            };
            said.answered(id, answer(told));
            if let Some(instead) = instead {
                said.inject(Direction::ToClient, instead.to_vec());
            }
        }
        while let Some(Waiting::Turn(refused)) = self.waiting.front() {
            said.inject(Direction::ToClient, refused.to_vec());
            self.waiting.pop_front();
        }
        Ok(Step::Done(length))
    }

    fn tell(
        &mut self,
        name: &str,
        arguments: &[&[u8]],
        (allowed, rule, reply): (bool, Option<u32>, Reply),
        said: &mut Operations,
    ) -> u32 {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let keys = keys::of(name, arguments).unwrap_or_default();
        let keys = keys.into_iter().take(32);
        said.request(Asked {
            id,
            command: name.to_owned(),
            targets: keys
                .map(|key| String::from_utf8_lossy(key).into_owned())
                .collect(),
            allowed,
            rule,
            reply,
        });
        id
    }
}

/// A reply in a record: 1 and its words for an error.
fn answer(error: Option<&str>) -> Answer {
    Answer {
        code: i32::from(error.is_some()),
        text: error.unwrap_or_default().to_owned(),
    }
}
