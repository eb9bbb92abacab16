//! One filter of a connection: shows it what has come, carries out what it says.

use std::{collections::BTreeMap, time::Instant};

use tidegate_contract::{
    Failure,
    FailureKind::{ClientProtocol, PluginFailed, UpstreamProtocol},
    L7Summary,
};
use tidegate_policy::compiled::FailMode;

use super::lane::Lane;
use crate::decide::{
    Attribution,
    stream::{Part, Session, StreamAnswer, StreamDirection, StreamOperation, StreamRequest, Who},
};

/// Requests that may wait for an answer to be recorded; further ones are recorded without.
const WAITING: usize = 4_096;

/// Something to be kept a record of.
#[derive(Debug)]
pub(super) struct Told {
    /// Who decided.
    pub(super) by: Attribution,
    /// Does it pass?
    pub(super) allowed: bool,
    pub(super) summary: L7Summary,
    /// Where it stands among what the client says: the bytes before it.
    pub(super) at: u64,
}

/// A request that waits for its answer.
struct Waiting {
    request: StreamRequest,
    began: Instant,
    at: u64,
}

impl Waiting {
    fn bytes(&self) -> usize {
        let texts = &self.request.targets;
        let texts: usize = texts
            .iter()
            .map(|text| size_of::<String>() + text.len())
            .sum();
        size_of::<Self>() + self.request.command.len() + texts
    }
}

/// A filter and what it has of the connection.
pub(super) struct Stage {
    by: Who,
    pub(super) content: String,
    /// `None`: everything passes.
    session: Option<Box<dyn Session>>,
    lanes: [Lane; 2],
    waiting: BTreeMap<u32, Waiting>,
    /// Bytes of those.
    waiting_bytes: usize,
    /// Places of the requests it has told of since they were asked for.
    places: Vec<u64>,
    /// It is told of requests as they come, and not when they are answered.
    at_once: bool,
}

/// Why a connection cannot go on.
#[derive(Debug)]
pub(super) struct Closed;

impl Stage {
    /// A stage, unless the filter could not begin and nothing may pass without it.
    pub(super) fn begin(part: Part, told: &mut Vec<Told>) -> Result<Self, Closed> {
        let (stage, begun) = Self::of(part, false, told);
        begun.map(|()| stage)
    }

    /// A stage that only rehearses. It tells of requests as they come.
    pub(super) fn rehearses(mut part: Part, told: &mut Vec<Told>) -> Self {
        part.by.audit = true;
        // Only reported, it closes nothing.
        let (stage, _) = Self::of(part, true, told);
        stage
    }

    /// A stage, and whether the connection can go on with it.
    fn of(part: Part, at_once: bool, told: &mut Vec<Told>) -> (Self, Result<(), Closed>) {
        let mut stage = Self {
            by: part.by,
            content: part.content,
            session: None,
            lanes: Default::default(),
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            places: Vec::new(),
            at_once,
        };
        let begun = match part.session {
            Ok(session) => {
                stage.session = Some(session);
                Ok(())
            }
            Err(failure) => stage.lost(failure.told(), failure.is_of_load(), told),
        };
        (stage, begun)
    }

    /// Takes in what came one way; what comes out both ways is added to `out`.
    pub(super) fn take(
        &mut self,
        direction: StreamDirection,
        bytes: &[u8],
        end: bool,
        out: &mut [Vec<u8>; 2],
        told: &mut Vec<Told>,
    ) -> Result<(), Closed> {
        let own = index(direction);
        if self.by.audit {
            // It passes whatever is said of it; the filter gets a copy.
            out[own].extend_from_slice(bytes);
            let mut nowhere = Default::default();
            let judged = self.judge(direction, bytes, end, &mut nowhere, told);
            if judged.is_err() {
                self.give_up();
            }
            return Ok(());
        }
        self.judge(direction, bytes, end, out, told)
    }

    fn judge(
        &mut self,
        direction: StreamDirection,
        bytes: &[u8],
        end: bool,
        out: &mut [Vec<u8>; 2],
        told: &mut Vec<Told>,
    ) -> Result<(), Closed> {
        let own = index(direction);
        let has_come = self.lanes[own].add(bytes, end);
        self.lanes[own].flow(&mut out[own]);
        let Some(session) = &self.session else {
            return Ok(());
        };
        let most = session.buffer_bytes();
        let before = self.lanes[own].ordered();
        let Some((held, ended)) = self.lanes[own].shown() else {
            return self.check_load(own, most, told);
        };
        let said = match session.data(direction, held, ended) {
            Ok(said) => said,
            Err(failure) => {
                self.lost(failure.told(), failure.is_of_load(), told)?;
                self.flow(out);
                return Ok(());
            }
        };
        for operation in said {
            let done = self.carry_out(direction, operation, told);
            self.flow(out);
            done?;
        }
        self.check_load(own, most, told)?;
        self.flow(out);
        let has_moved = self.lanes[own].ordered() > before;
        if has_moved {
            self.lanes[own].resume();
        }
        // One that only was asked again and said nothing new is no news for the other way:
        // two that wait for each other would be asked for ever.
        if has_moved || has_come {
            self.lanes[1 - own].resume();
        }
        Ok(())
    }

    fn carry_out(
        &mut self,
        direction: StreamDirection,
        operation: StreamOperation,
        told: &mut Vec<Told>,
    ) -> Result<(), Closed> {
        let lane = &mut self.lanes[index(direction)];
        match operation {
            StreamOperation::Pass(count) => lane.pass(count),
            StreamOperation::Drop(count) => lane.discard(count),
            StreamOperation::Hold(count) => lane.want(usize::try_from(count).unwrap_or(usize::MAX)),
            StreamOperation::Inject(to, bytes) => self.lanes[index(to)].send(bytes),
            StreamOperation::Undecided(count, reason) => {
                let cuts = self.by.fail_mode == FailMode::Closed;
                if cuts && !self.by.audit {
                    return Err(self.close(said_of(direction, reason), told));
                }
                lane.pass(count);
                self.tell_failure(said_of(direction, reason), cuts, told);
            }
            StreamOperation::Request(request) => self.request(request, told),
            StreamOperation::Answered(id, answer) => {
                if let Some(waiting) = self.waiting.remove(&id) {
                    self.waiting_bytes -= waiting.bytes();
                    self.tell(&waiting, Some(answer), told);
                }
            }
            StreamOperation::Close(reason) => {
                return Err(self.close(said_of(direction, reason), told));
            }
        }
        Ok(())
    }

    /// A filter that is shown all there is and wants more has failed.
    fn check_load(&mut self, own: usize, most: usize, told: &mut Vec<Told>) -> Result<(), Closed> {
        let (held, wanted) = self.lanes[own].load();
        if self.lanes[own].is_held() && held.max(wanted) > most {
            let why =
                format!("plugin wants to see more than {most} bytes together (streamBufferBytes)");
            return self.lost(PluginFailed.because(why), false, told);
        }
        Ok(())
    }

    /// The filter has no part in the connection any more; what becomes of that is its
    /// fail mode's to say.
    fn lost(&mut self, why: Failure, of_load: bool, told: &mut Vec<Told>) -> Result<(), Closed> {
        let cuts = self.by.fail_mode == FailMode::Closed || of_load;
        if cuts && !self.by.audit {
            return Err(self.close(why, told));
        }
        self.tell_failure(why, cuts, told);
        self.give_up();
        Ok(())
    }

    fn give_up(&mut self) {
        self.session = None;
        self.lanes.iter_mut().for_each(Lane::open);
    }

    fn close(&mut self, why: Failure, told: &mut Vec<Told>) -> Closed {
        self.tell_failure(why, true, told);
        Closed
    }

    /// `cuts`: the connection cannot go on for it, but where that is only reported.
    fn tell_failure(&self, why: Failure, cuts: bool, told: &mut Vec<Told>) {
        let attribution = Attribution {
            audited: cuts && self.by.audit,
            ..self.by.failed(why)
        };
        let allowed = !cuts || self.by.audit;
        told.push(Told {
            by: attribution,
            allowed,
            summary: self.summary(None, None, 0),
            at: self.at(),
        });
    }

    fn flow(&mut self, out: &mut [Vec<u8>; 2]) {
        for (lane, out) in self.lanes.iter_mut().zip(out) {
            lane.flow(out);
        }
    }

    fn request(&mut self, request: StreamRequest, told: &mut Vec<Told>) {
        let waiting = Waiting {
            began: Instant::now(),
            at: self.at(),
            request,
        };
        self.places.push(waiting.at);
        match waiting.request.reply.clone() {
            None if self.waiting.len() < WAITING && !self.at_once => {
                self.waiting_bytes += waiting.bytes();
                let before = self.waiting.insert(waiting.request.id, waiting);
                if let Some(before) = before {
                    self.waiting_bytes -= before.bytes();
                    self.tell(&before, None, told);
                }
            }
            reply => self.tell(&waiting, reply.flatten(), told),
        }
    }

    /// Places of the requests it has told of since this was asked last.
    pub(super) fn places(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.places)
    }

    /// Bytes of the client of which it was said what becomes of them.
    pub(super) fn at(&self) -> u64 {
        self.lanes[index(StreamDirection::ToServer)].ordered()
    }

    fn tell(&self, waiting: &Waiting, answer: Option<StreamAnswer>, told: &mut Vec<Told>) {
        let request = &waiting.request;
        let latency_us = u64::try_from(waiting.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        told.push(Told {
            by: self.by.decided(request.allowed, request.rule),
            allowed: request.allowed || self.by.audit,
            summary: self.summary(Some(request), answer, latency_us),
            at: waiting.at,
        });
    }

    fn summary(
        &self,
        request: Option<&StreamRequest>,
        answer: Option<StreamAnswer>,
        latency_us: u64,
    ) -> L7Summary {
        let reader = self.by.label.split('@').next().unwrap_or_default();
        let (code, status) = match answer {
            Some(answer) => (Some(answer.code), answer.text),
            None => (None, String::new()),
        };
        L7Summary::Stream {
            reader: reader.to_owned(),
            command: request
                .map(|request| request.command.clone())
                .unwrap_or_default(),
            targets: request
                .map(|request| request.targets.clone())
                .unwrap_or_default(),
            code,
            status,
            latency_us,
        }
    }

    /// The connection is over: what still waits is told without an answer.
    pub(super) fn end(&mut self, told: &mut Vec<Told>) {
        self.waiting_bytes = 0;
        for waiting in std::mem::take(&mut self.waiting).into_values() {
            self.tell(&waiting, None, told);
        }
    }

    /// Will nothing come out this way any more?
    pub(super) fn is_over(&self, direction: StreamDirection) -> bool {
        self.by.audit || self.lanes[index(direction)].is_over()
    }

    /// Is no request open, and nothing of one under way?
    pub(super) fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.lanes.iter().all(Lane::is_quiet)
    }

    /// Is it to be asked again about what has come this way?
    pub(super) fn is_due(&self, direction: StreamDirection) -> bool {
        self.session.is_some() && self.lanes[index(direction)].is_due()
    }

    /// Does it look at no more of this way before it has seen something of the other?
    pub(super) fn is_stalled(&self, direction: StreamDirection) -> bool {
        !self.by.audit && self.session.is_some() && self.lanes[index(direction)].is_stalled()
    }

    /// Is it out of the connection?
    pub(super) fn is_lost(&self) -> bool {
        self.session.is_none()
    }

    /// Bytes of the connection that it holds.
    pub(super) fn held(&self) -> usize {
        self.lanes.iter().map(|lane| lane.load().0).sum()
    }

    /// Bytes it holds, with what it keeps for records.
    pub(super) fn memory(&self) -> usize {
        self.held() + self.waiting_bytes
    }
}

/// The usual order: to the server, to the client.
pub(super) fn index(direction: StreamDirection) -> usize {
    match direction {
        StreamDirection::ToServer => 0,
        StreamDirection::ToClient => 1,
    }
}

/// What a filter says against what came this way.
fn said_of(direction: StreamDirection, reason: String) -> Failure {
    match direction {
        StreamDirection::ToServer => ClientProtocol.because(reason),
        StreamDirection::ToClient => UpstreamProtocol.because(reason),
    }
}
