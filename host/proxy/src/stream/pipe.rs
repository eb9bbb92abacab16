//! The filters of a connection, one behind the other: the client's side first.

use tidegate_contract::Rehearsed;
use tidegate_policy::compiled::RuleId;

use super::{
    rehearsal::Rehearsal,
    stage::{Closed, Stage, Told, index},
};
use crate::decide::stream::{Part, Shadow, StreamDirection};

/// All filters of a connection.
pub(crate) struct Pipe {
    stages: Vec<Stage>,
    /// To be kept a record of.
    pub(super) told: Vec<Told>,
    /// A filter said that the connection cannot go on.
    pub(super) closed: bool,
    ended: [bool; 2],
    /// What is in shadow.
    rehearsals: Vec<Rehearsal>,
    /// Nothing would pass if what is in shadow were enforced, for this rule.
    refuses: Option<RuleId>,
    shadow: ShadowContent,
}

/// Tells what is in shadow for a connection from something else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShadowContent {
    filters: Vec<Vec<String>>,
    refuses: Option<RuleId>,
}

impl ShadowContent {
    pub(crate) fn of(shadow: &Shadow) -> Self {
        let of = |parts: &[Part]| parts.iter().map(|part| part.content.clone()).collect();
        Self {
            filters: shadow.beside.iter().map(|one| of(&one.parts)).collect(),
            refuses: shadow.refuses,
        }
    }
}

impl Pipe {
    pub(crate) fn of(parts: Vec<Part>, shadow: Shadow) -> Self {
        let mut pipe = Self {
            shadow: ShadowContent::of(&shadow),
            refuses: shadow.refuses,
            rehearsals: shadow.beside.into_iter().map(Rehearsal::of).collect(),
            stages: Vec::new(),
            told: Vec::new(),
            closed: false,
            ended: [false; 2],
        };
        for part in parts {
            match Stage::begin(part, &mut pipe.told) {
                Ok(stage) => pipe.stages.push(stage),
                Err(Closed) => pipe.closed = true,
            }
        }
        pipe.tell_of_shadow();
        pipe
    }

    /// What each filter has to go on having; see `Filter::content`.
    pub(super) fn contents(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().map(|stage| stage.content.as_str())
    }

    /// What is in shadow has become this: what was begun with something else ends, since
    /// nothing can begin in the middle of a connection.
    pub(super) fn keep_shadow(&mut self, now: &ShadowContent) {
        if self.shadow != *now {
            self.forget_shadow();
        }
    }

    /// Rehearses nothing any more.
    pub(super) fn forget_shadow(&mut self) {
        for mut rehearsal in self.rehearsals.drain(..) {
            rehearsal.end(&mut self.told);
        }
        self.refuses = None;
    }

    /// Takes in what came from one end; what is for the ends is added to `out`.
    pub(super) fn take(
        &mut self,
        direction: StreamDirection,
        bytes: Vec<u8>,
        end: bool,
        out: &mut [Vec<u8>; 2],
    ) {
        self.ended[index(direction)] |= end;
        let first = match direction {
            StreamDirection::ToServer => 0,
            StreamDirection::ToClient => self.stages.len(),
        };
        self.pour(first, direction, bytes, out);
        self.tell_of_shadow();
    }

    /// A way of which a filter is to be asked again.
    pub(super) fn due(&self, but: Option<StreamDirection>) -> Option<StreamDirection> {
        let both = [StreamDirection::ToServer, StreamDirection::ToClient];
        let is_due = |way: &StreamDirection| self.stages.iter().any(|stage| stage.is_due(*way));
        both.into_iter()
            .filter(|way| Some(*way) != but && !self.closed)
            .find(is_due)
    }

    /// Asks it again, once.
    pub(super) fn ask_again(&mut self, direction: StreamDirection, out: &mut [Vec<u8>; 2]) {
        if let Some(at) = self.stages.iter().position(|stage| stage.is_due(direction)) {
            let gap = match direction {
                StreamDirection::ToServer => at,
                StreamDirection::ToClient => at + 1,
            };
            self.pass_through(gap, at, direction, Vec::new(), out);
            self.tell_of_shadow();
        }
    }

    /// Is nothing more to be read of this way before something of the other has come?
    pub(super) fn is_stalled(&self, direction: StreamDirection) -> bool {
        self.stages.iter().any(|stage| stage.is_stalled(direction))
    }

    /// What is refused in shadow as a whole.
    fn tell_of_shadow(&mut self) {
        for rehearsal in &mut self.rehearsals {
            let front = self.stages.get(rehearsal.gap).map_or(0, Stage::at);
            rehearsal.alone(front, &mut self.told);
        }
        let Some(rule) = self.refuses else { return };
        for told in &mut self.told {
            if told.allowed && !told.by.audited && told.by.error.is_none() {
                told.by.rehearsed = Some(Box::new(Rehearsed {
                    allowed: false,
                    rules: vec![rule],
                    unmatched: false,
                    error: None,
                }));
            }
        }
    }

    /// Lets bytes flow on from the gap before stage `gap`.
    fn pour(
        &mut self,
        gap: usize,
        direction: StreamDirection,
        bytes: Vec<u8>,
        out: &mut [Vec<u8>; 2],
    ) {
        if !self.closed {
            let end = self.comes_no_more(gap, direction);
            for rehearsal in self.rehearsals.iter_mut().filter(|one| one.gap == gap) {
                rehearsal.read(direction, &bytes, end);
            }
        }
        let next = match direction {
            StreamDirection::ToServer => (gap < self.stages.len()).then_some(gap),
            StreamDirection::ToClient => gap.checked_sub(1),
        };
        match next {
            None => out[index(direction)].extend(bytes),
            // Nobody judges it any more.
            Some(_) if self.closed => {}
            Some(at) => self.pass_through(gap, at, direction, bytes, out),
        }
    }

    /// Shows stage `at` what has come to the gap beside it.
    fn pass_through(
        &mut self,
        gap: usize,
        at: usize,
        direction: StreamDirection,
        bytes: Vec<u8>,
        out: &mut [Vec<u8>; 2],
    ) {
        let end = self.comes_no_more(gap, direction);
        let (mut came, mut told) = ([Vec::new(), Vec::new()], Vec::new());
        let taken = self.stages[at].take(direction, &bytes, end, &mut came, &mut told);
        let places = self.stages[at].places();
        for rehearsal in self.rehearsals.iter_mut().filter(|one| one.gap == at) {
            rehearsal.compare(&mut told, &places);
        }
        self.told.append(&mut told);
        let [to_server, to_client] = came;
        // What passed before it was closed is sent.
        for (to, bytes, gap) in [
            (StreamDirection::ToServer, to_server, at + 1),
            (StreamDirection::ToClient, to_client, at),
        ] {
            let ends = to == direction && end;
            if !bytes.is_empty() || ends {
                self.pour(gap, to, bytes, out);
            }
        }
        self.closed |= taken.is_err();
    }

    /// Has all come to a gap that will come one way?
    fn comes_no_more(&self, gap: usize, direction: StreamDirection) -> bool {
        let before = match direction {
            StreamDirection::ToServer => &self.stages[..gap],
            StreamDirection::ToClient => &self.stages[gap..],
        };
        self.ended[index(direction)] && before.iter().all(|stage| stage.is_over(direction))
    }

    /// Is there no filter?
    pub(super) fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// Will nothing come out this way any more?
    pub(super) fn is_over(&self, direction: StreamDirection) -> bool {
        self.ended[index(direction)] && self.stages.iter().all(|stage| stage.is_over(direction))
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.stages.iter().all(Stage::is_quiet)
    }

    /// Is nothing of the connection held?
    pub(super) fn holds_nothing(&self) -> bool {
        let stages = self.stages.iter().map(Stage::held);
        let rehearsals = self.rehearsals.iter().map(Rehearsal::held);
        stages.chain(rehearsals).all(|held| held == 0)
    }

    /// Bytes that are held, and kept for records.
    pub(super) fn memory(&self) -> usize {
        let stages = self.stages.iter().map(Stage::memory);
        let rehearsals = self.rehearsals.iter().map(Rehearsal::memory);
        stages.chain(rehearsals).sum()
    }

    /// Is something in shadow read beside it?
    pub(super) fn rehearses(&self) -> bool {
        !self.rehearsals.is_empty()
    }

    /// The connection is over.
    pub(super) fn end(&mut self) {
        for (at, stage) in self.stages.iter_mut().enumerate() {
            let mut told = Vec::new();
            stage.end(&mut told);
            for rehearsal in self.rehearsals.iter_mut().filter(|one| one.gap == at) {
                rehearsal.compare(&mut told, &[]);
            }
            self.told.append(&mut told);
        }
        self.tell_of_shadow();
        self.forget_shadow();
    }
}
