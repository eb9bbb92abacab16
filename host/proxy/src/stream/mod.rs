//! The byte path of a connection that filters of byte streams read. What a filter makes of
//! the bytes is pure ([`pipe`], `stage`, `lane`); here they are read and written.
//!
//! Nothing is read from an end while what came before waits to be written, so whoever does
//! not read gets no more; and nothing passes that no filter let pass.

mod lane;
mod pipe;
mod rehearsal;
mod stage;
#[cfg(test)]
mod tests;

use std::{cell::RefCell, collections::VecDeque, io, sync::Weak, time::Duration};

use tidegate_contract::FailureKind::{
    Overload, PluginUnavailable, RulesChanged, UpstreamConnection,
};
use tidegate_wire::tls::{NoHello, Watch, alert};
use tokio::{net::TcpStream, time::Instant};

pub(crate) use self::pipe::{Pipe, ShadowContent};
use self::stage::index;
use crate::{
    budget::{NO_MEMORY, Taken},
    decide::{
        Attribution,
        stream::{
            StreamDirection::{self, ToClient, ToServer},
            Unknown,
        },
    },
    flow::{FlowContext, Settled},
    http::{Activity, Phase, carry, cut_off, in_order},
    state::State,
    tls::{Opening, with_alert, with_status},
};

/// Bytes read at once.
const READ: usize = 64 << 10;
/// Bytes that may wait to be written before no more is read.
const UNWRITTEN: usize = 64 << 10;
/// Bytes every connection may hold; more is taken from its client's part of the memory,
/// in such steps.
const FREE: usize = 64 << 10;
/// How long an end may take to be given what passed before the connection was closed.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long a connection waits for rules that are put together for it, which most often
/// takes some milliseconds.
const PREPARED: Duration = Duration::from_secs(2);
/// How long requests may stay unanswered once their connection's rules have changed.
const CHANGED: Duration = Duration::from_secs(5);

thread_local! {
    /// What was just read.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// Relays one connection through its filters until either end, or one of them, closes it.
/// With an `opening` what was read before goes first, and goes on being looked after.
pub(crate) async fn serve(
    client: TcpStream,
    flow: &FlowContext,
    activity: &Activity,
    opening: Option<Opening>,
) {
    activity.enter(Phase::Tunnel);
    let begun = tokio::select! {
        begun = begin(flow) => begun,
        () = activity.evicted() => return cut_off(&client),
    };
    let (mut pipe, state) = match begun {
        Ok(parts) => parts,
        Err(error) => {
            let error = match error {
                Unknown::Never(failure) => failure,
                Unknown::Preparing => PluginUnavailable.because(error.to_string()),
            };
            flow.stream_failed(error);
            return cut_off(&client);
        }
    };
    keep_records(&mut pipe, flow);
    if pipe.closed {
        return cut_off(&client);
    }
    let upstream = tokio::select! {
        upstream = flow.connect_upstream() => upstream,
        () = activity.evicted() => return cut_off(&client),
    };
    let upstream = match upstream {
        Ok(upstream) => upstream,
        Err(error) => {
            let error = UpstreamConnection.because(format!("upstream unreachable: {error}"));
            match opening {
                Some(opening) => flow.hello_failed(error, opening.summary),
                None => flow.stream_failed(error),
            }
            return cut_off(&client);
        }
    };
    cut_off(&client);
    cut_off(&upstream);
    let mut relay = Relay {
        pipe,
        flow,
        activity,
        state,
        ends: [End::of(&client), End::of(&upstream)],
        memory: Vec::new(),
        changed: None,
        opening: None,
    };
    let ended = match opening {
        Some(opening) => match relay.open(opening) {
            Ok(()) => relay.run().await,
            Err(_) => Ended::Cut,
        },
        None => relay.run().await,
    };
    relay.pipe.end();
    keep_records(&mut relay.pipe, flow);
    let Relay { ends, opening, .. } = relay;
    if ended == Ended::Unread {
        activity.enter(Phase::Tunnel);
        let settled = Settled::default();
        let passes = || still_passes(flow, opening.as_ref(), &settled);
        tokio::select! {
            () = carry(client, upstream, activity.budget(), passes) => {}
            () = activity.evicted() => {}
        }
        return;
    }
    if ended == Ended::InOrder {
        in_order(&client);
        in_order(&upstream);
    } else {
        let _ = tokio::time::timeout(LAST_WORDS, last_words(ends)).await;
    }
}

/// Begins with the filters, once they are there.
async fn begin(flow: &FlowContext) -> Result<(Pipe, Weak<State>), Unknown> {
    let until = Instant::now() + PREPARED;
    loop {
        match flow.begin_stream() {
            Err(Unknown::Preparing) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            begun => return begun,
        }
    }
}

/// Do the rules still let a connection pass unread that asked for this? If not it has a record.
fn still_passes(flow: &FlowContext, opening: Option<&Opening>, settled: &Settled) -> bool {
    let Some(Opening { asked, summary, .. }) = opening else {
        return true;
    };
    let seen = flow.state();
    if settled.is(&seen) {
        return true;
    }
    let reads = flow.stream_contents();
    let (passes, attribution) = flow.decide_hello(asked.as_ref());
    if !passes {
        let why = "its rules have changed".to_owned();
        flow.record(attribution, false, with_status(summary.clone(), why));
    }
    settled.settle(flow, seen);
    let unread = reads.is_ok_and(|(filters, _)| filters.is_empty());
    if passes && !unread {
        let why = "its rules ask by now for what it says, which was not read";
        flow.stream_failed(RulesChanged.because(why));
    }
    passes && unread
}

fn keep_records(pipe: &mut Pipe, flow: &FlowContext) {
    for told in pipe.told.drain(..) {
        flow.record(told.by, told.allowed, told.summary);
    }
}

/// Sends what passed before a connection is cut off.
async fn last_words(ends: [End<'_>; 2]) {
    for mut end in ends {
        while !end.unwritten.is_empty() {
            if end.stream.writable().await.is_err() || end.write().is_err() {
                break;
            }
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Both ends said all they had to.
    InOrder,
    /// It was cut off.
    Cut,
    /// It has not: from now on it passes unread.
    Unread,
}

/// One end of the connection.
struct End<'s> {
    stream: &'s TcpStream,
    unwritten: VecDeque<u8>,
    /// It says no more.
    ended: bool,
    /// It was told that nothing more comes.
    shut: bool,
}

impl<'s> End<'s> {
    fn of(stream: &'s TcpStream) -> Self {
        Self {
            stream,
            unwritten: VecDeque::new(),
            ended: false,
            shut: false,
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let (front, _) = self.unwritten.as_slices();
        match self.stream.try_write(front) {
            Ok(count) => {
                self.unwritten.drain(..count);
                if self.unwritten.is_empty() {
                    self.unwritten = VecDeque::new();
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn is_full(&self) -> bool {
        self.unwritten.len() >= UNWRITTEN
    }
}

/// A connection under way.
struct Relay<'a> {
    pipe: Pipe,
    flow: &'a FlowContext,
    activity: &'a Activity,
    /// The filters were last compared with this one.
    state: Weak<State>,
    /// The client, the server.
    ends: [End<'a>; 2],
    memory: Vec<Taken>,
    /// Its rules have changed: it ends then at the latest.
    changed: Option<Instant>,
    /// How it began, if it was asked which server the client wants.
    opening: Option<Opening>,
}

/// Something that can go on.
enum Ready {
    Read(StreamDirection),
    Write(StreamDirection),
    /// A filter wants to be asked again.
    Again(StreamDirection),
}

impl Relay<'_> {
    async fn run(&mut self) -> Ended {
        loop {
            self.shut_what_is_over();
            if self.ends.iter().all(|end| end.shut) {
                return Ended::InOrder;
            }
            if self.changed.is_some() && self.pipe.is_quiet() && self.is_written() {
                return Ended::Cut;
            }
            if self.passes_unread() {
                return Ended::Unread;
            }
            let idle = self.pipe.holds_nothing() && self.is_written();
            self.activity
                .enter(if idle { Phase::Tunnel } else { Phase::Exchange });
            let ready = tokio::select! {
                ready = self.ready() => ready,
                () = self.activity.expired() => return Ended::Cut,
            };
            let went = match ready {
                Some(Ready::Read(direction)) => self.read(direction),
                Some(Ready::Write(direction)) => self.ends[other(direction)].write(),
                Some(Ready::Again(direction)) => self.again(direction),
                None => return Ended::Cut,
            };
            keep_records(&mut self.pipe, self.flow);
            if went.is_err() || self.pipe.closed {
                return Ended::Cut;
            }
            self.activity.progress();
        }
    }

    /// Waits for something to do; `None` if the time is over.
    async fn ready(&self) -> Option<Ready> {
        let [client, server] = &self.ends;
        // A client that reads no refusals gets no further ones either.
        let full = client.is_full();
        let hear_client = !client.ended
            && !full
            && !server.is_full()
            && self.changed.is_none()
            && !self.pipe.is_stalled(ToServer);
        let hear_server = !server.ended && !full && !self.pipe.is_stalled(ToClient);
        // Once its rules have changed it passes no further request.
        let but = self.changed.map(|_| ToServer);
        let due = self.pipe.due(but).filter(|_| !full && !server.is_full());
        if let Some(direction) = due {
            // Others have their turn between.
            tokio::task::yield_now().await;
            return Some(Ready::Again(direction));
        }
        let until = self
            .changed
            .unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600));
        tokio::select! {
            _ = client.stream.writable(), if !client.unwritten.is_empty() => Some(Ready::Write(ToClient)),
            _ = server.stream.writable(), if !server.unwritten.is_empty() => Some(Ready::Write(ToServer)),
            _ = client.stream.readable(), if hear_client => Some(Ready::Read(ToServer)),
            _ = server.stream.readable(), if hear_server => Some(Ready::Read(ToClient)),
            () = tokio::time::sleep_until(until), if self.changed.is_some() => None,
            else => None,
        }
    }

    fn read(&mut self, direction: StreamDirection) -> io::Result<()> {
        let from = index(direction);
        let read = SCRATCH.with_borrow_mut(|scratch| {
            let count = self.ends[from].stream.try_read(scratch)?;
            Ok(scratch[..count].to_vec())
        });
        let bytes: Vec<u8> = match read {
            Err(error) if io::Error::kind(&error) == io::ErrorKind::WouldBlock => return Ok(()),
            read => read?,
        };
        if self.is_for_other_rules(direction)? {
            return Ok(());
        }
        let end = bytes.is_empty();
        self.ends[from].ended |= end;
        let bytes = self.look_at(direction, bytes)?;
        self.take(direction, bytes, end)
    }

    /// Gives what came, or what was read before, to the filters.
    fn take(&mut self, direction: StreamDirection, bytes: Vec<u8>, end: bool) -> io::Result<()> {
        let mut out = Default::default();
        self.pipe.take(direction, bytes, end, &mut out);
        self.send(out)
    }

    fn again(&mut self, direction: StreamDirection) -> io::Result<()> {
        if self.is_for_other_rules(direction)? {
            return Ok(());
        }
        let mut out = Default::default();
        self.pipe.ask_again(direction, &mut out);
        self.send(out)
    }

    fn send(&mut self, [to_server, to_client]: [Vec<u8>; 2]) -> io::Result<()> {
        self.ends[1].unwritten.extend(to_server);
        self.ends[0].unwritten.extend(to_client);
        self.take_memory()
    }

    /// Has what comes this way to be judged by other rules than it began with? The client
    /// says it again, then.
    fn is_for_other_rules(&mut self, direction: StreamDirection) -> io::Result<bool> {
        if direction == ToClient || self.is_unchanged()? {
            return Ok(false);
        }
        self.changed = Some(Instant::now() + CHANGED);
        Ok(true)
    }

    /// Begins with what was read before.
    fn open(&mut self, mut opening: Opening) -> io::Result<()> {
        let held = std::mem::take(&mut opening.held);
        // From here on it is counted where it is held.
        opening.memory.clear();
        self.opening = Some(opening);
        self.take(ToServer, held, false)?;
        let rest = self.look_at(ToServer, Vec::new())?;
        self.take(ToServer, rest, false)
    }

    /// What passes of what came, as long as the client may still ask for something else.
    fn look_at(&mut self, direction: StreamDirection, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let Some(opening) = &mut self.opening else {
            return Ok(bytes);
        };
        let Some(watch) = &mut opening.watch else {
            return Ok(bytes);
        };
        let (mut passed, mut late) = (Vec::new(), Vec::new());
        let looked = match direction {
            ToServer => watch.from_client(&bytes, &mut passed),
            ToClient => {
                let is_late = watch.from_server(&bytes);
                passed = bytes;
                match is_late {
                    true => watch.from_client(&[], &mut late),
                    false => Ok(()),
                }
            }
        };
        if watch.is_open() {
            opening.watch = None;
        }
        if let Err(error) = looked {
            self.refuse(error);
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if !late.is_empty() {
            self.take(ToServer, late, false)?;
        }
        Ok(passed)
    }

    /// A second hello that may not be: the server hears nothing of it.
    fn refuse(&mut self, error: NoHello) {
        let Some(opening) = &self.opening else {
            return;
        };
        let description = Some(alert::ACCESS_DENIED);
        let alert = alert::fatal(opening.legacy_version, alert::ACCESS_DENIED);
        self.ends[0].unwritten.extend(alert);
        let summary = with_status(opening.summary.clone(), error.to_string());
        let attribution = Attribution {
            rules: self.flow.asking_rules(),
            unmatched: true,
            ..Attribution::default()
        };
        self.flow
            .record(attribution, false, with_alert(summary, description));
    }

    /// It encrypts now. Is there nobody who would look at that?
    fn passes_unread(&self) -> bool {
        let opening = self.opening.as_ref();
        let plain = self.ends.iter().all(|end| !end.ended && !end.shut);
        opening.is_some_and(|opening| opening.watch.is_none())
            && self.pipe.is_empty()
            && !self.pipe.rehearses()
            && self.changed.is_none()
            && plain
            && self.is_written()
    }

    /// Are the filters still those that its rules ask for?
    fn is_unchanged(&mut self) -> io::Result<bool> {
        let state = self.flow.state();
        if state.ptr_eq(&self.state) {
            return Ok(true);
        }
        let (contents, shadow) = self.flow.stream_contents().map_err(io::Error::other)?;
        let unchanged = self.pipe.contents().eq(contents.iter().map(String::as_str));
        let unchanged = unchanged
            && match &self.opening {
                Some(opening) => self.flow.decide_hello(opening.asked.as_ref()).0,
                None => self.flow.asks_for_server_name().is_none(),
            };
        if unchanged {
            self.pipe.keep_shadow(&shadow);
            self.state = state;
        }
        Ok(unchanged)
    }

    /// What is held beyond the usual is the client's part of the memory.
    fn take_memory(&mut self) -> io::Result<()> {
        while self.memory.len() != self.wanted() {
            self.memory.truncate(self.wanted());
            if self.memory.len() == self.wanted() {
                break;
            }
            let Some(taken) = self.activity.budget().take(FREE) else {
                if self.pipe.rehearses() {
                    // What is in shadow costs nobody a connection.
                    self.pipe.forget_shadow();
                    continue;
                }
                self.flow.stream_failed(Overload.because(NO_MEMORY));
                return Err(io::ErrorKind::OutOfMemory.into());
            };
            self.memory.push(taken);
        }
        Ok(())
    }

    /// Steps of memory it needs.
    fn wanted(&self) -> usize {
        let unwritten = self.ends.iter().map(|end| end.unwritten.len());
        let watch = self.opening.as_ref().and_then(|o| o.watch.as_ref());
        let watched = watch.map_or(0, Watch::memory);
        let held = self.pipe.memory() + watched + unwritten.sum::<usize>();
        held.saturating_sub(FREE).div_ceil(FREE)
    }

    /// Passes on that an end says no more, once all it said is written.
    fn shut_what_is_over(&mut self) {
        for direction in [ToServer, ToClient] {
            let end = &mut self.ends[other(direction)];
            if !end.shut && end.unwritten.is_empty() && self.pipe.is_over(direction) {
                end.shut = true;
                // One that is gone needs no word.
                let _ = nix::sys::socket::shutdown(
                    std::os::fd::AsRawFd::as_raw_fd(end.stream),
                    nix::sys::socket::Shutdown::Write,
                );
            }
        }
    }

    fn is_written(&self) -> bool {
        self.ends.iter().all(|end| end.unwritten.is_empty())
    }
}

/// The end that hears what goes this way.
fn other(direction: StreamDirection) -> usize {
    1 - index(direction)
}
