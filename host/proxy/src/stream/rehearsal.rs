//! What is in shadow for one side of a connection: read from a copy of what its client and
//! the side say to each other, and compared request by request with what the side's first
//! filter tells. Nothing of it leads back.
//!
//! A request is known by its place among the bytes of the client: both filters read the
//! same ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate_contract::{L7Summary, Rehearsed};
use tidegate_policy::compiled::{Generation, RuleId};

use super::stage::{Stage, Told};
use crate::decide::{
    Attribution,
    stream::{Beside, StreamDirection},
};

/// Verdicts, records and places of requests that are kept each for the others to come.
const KEPT: usize = 8_192;
/// Times it is asked on end about what has come.
const TURNS: usize = 256;

/// What is in shadow for one side.
pub(super) struct Rehearsal {
    /// It stands before this stage.
    pub(super) gap: usize,
    /// That stage is this side's.
    beside: bool,
    /// That stage would be asked as it is asked now.
    same: bool,
    asked_by: RuleId,
    generation: Generation,
    stages: Vec<Stage>,
    /// What it says of requests whose records are not there yet, by place.
    verdicts: BTreeMap<u64, (Rehearsed, L7Summary)>,
    /// Places of requests that the stage beside it has told of.
    known: BTreeSet<u64>,
    /// Records for which it has not read far enough yet.
    waiting: VecDeque<Told>,
    /// Bytes of verdicts and records that are kept.
    kept_bytes: usize,
    /// Nothing passes it any more from this place on, for this reason.
    failed: Option<(u64, Rehearsed)>,
}

impl Rehearsal {
    pub(super) fn of(beside: Beside) -> Self {
        let mut told = Vec::new();
        let stages = beside.parts.into_iter();
        let stages = stages.map(|part| Stage::rehearses(part, &mut told));
        let mut rehearsal = Self {
            gap: beside.at,
            beside: beside.beside,
            same: beside.same,
            asked_by: beside.asked_by,
            generation: beside.generation,
            stages: stages.collect(),
            verdicts: BTreeMap::new(),
            known: BTreeSet::new(),
            waiting: VecDeque::new(),
            kept_bytes: 0,
            failed: None,
        };
        rehearsal.hear(told);
        rehearsal
    }

    /// Reads what goes one way.
    pub(super) fn read(&mut self, direction: StreamDirection, bytes: &[u8], end: bool) {
        let mut told = Vec::new();
        for stage in &mut self.stages {
            let mut nowhere = Default::default();
            let mut more = bytes;
            for _ in 0..TURNS {
                // Only reported, it closes nothing.
                let _ = stage.take(direction, more, end, &mut nowhere, &mut told);
                more = &[];
                if !stage.is_due(direction) {
                    break;
                }
            }
        }
        self.hear(told);
    }

    fn hear(&mut self, told: Vec<Told>) {
        for Told {
            by, summary, at, ..
        } in told
        {
            let is_failure = by.error.is_some();
            if is_failure && !by.audited {
                // Its fail mode is open.
                continue;
            }
            let verdict = Rehearsed {
                allowed: !by.audited,
                rules: by.rules,
                unmatched: by.unmatched,
                error: by.error,
            };
            if is_failure {
                self.failed.get_or_insert((at, verdict));
                continue;
            }
            let known = self.verdicts.entry(at);
            let kept = &mut self.kept_bytes;
            let known = known.or_insert_with(|| {
                *kept += bytes_of(&summary);
                (verdict.clone(), summary)
            });
            if !verdict.allowed && known.0.allowed {
                known.0 = verdict;
            }
        }
        if self.verdicts.len() > KEPT
            && let Some((_, (_, summary))) = self.verdicts.pop_first()
        {
            self.kept_bytes -= bytes_of(&summary);
        }
    }

    /// What it says of the request at a place. `None`: it has not read so far.
    fn verdict(&mut self, at: u64) -> Option<Rehearsed> {
        if let Some((_, failed)) = self.failed.as_ref().filter(|(from, _)| *from <= at) {
            return Some(failed.clone());
        }
        let said = self.verdicts.get(&at);
        let is_last = said.is_some_and(|(said, _)| !said.allowed || self.stages.len() == 1);
        let mut reads = self.stages.iter().filter(|stage| !stage.is_lost());
        if !is_last && reads.any(|stage| stage.at() <= at) {
            return None;
        }
        Some(match self.verdicts.remove(&at) {
            Some((verdict, summary)) => {
                self.kept_bytes -= bytes_of(&summary);
                verdict
            }
            None => Rehearsed {
                allowed: true,
                rules: Vec::new(),
                unmatched: false,
                error: None,
            },
        })
    }

    /// Takes records of the stage beside it, compares them and gives them on, as soon as it
    /// can say something of them. `places` are those of the requests it has told of since,
    /// whose records may wait for an answer.
    pub(super) fn compare(&mut self, told: &mut Vec<Told>, places: &[u64]) {
        let came = std::mem::take(told);
        self.known.extend(places);
        while self.known.len() > KEPT {
            self.known.pop_first();
        }
        let came_bytes: usize = came.iter().map(|told| bytes_of(&told.summary)).sum();
        self.kept_bytes += came_bytes;
        self.waiting.extend(came);
        let mut waiting = std::mem::take(&mut self.waiting);
        // In their order, unless too many wait.
        while let Some(mut record) = waiting.pop_front() {
            let bytes = bytes_of(&record.summary);
            self.kept_bytes -= bytes;
            if record.by.error.is_none() {
                match self.verdict(record.at) {
                    Some(verdict) => record.by.rehearsed = self.beside(&record, verdict),
                    None if waiting.len() < KEPT => {
                        self.kept_bytes += bytes;
                        waiting.push_front(record);
                        break;
                    }
                    None => {}
                }
            }
            told.push(record);
        }
        self.waiting = waiting;
    }

    /// What is said beside a record, if it is something else.
    fn beside(&self, record: &Told, verdict: Rehearsed) -> Option<Box<Rehearsed>> {
        let is_allowed = record.allowed && !record.by.audited;
        let differs = match is_allowed {
            true => !verdict.allowed,
            // Who refuses it now would do so then.
            false => verdict.allowed && !self.same,
        };
        differs.then(|| Box::new(verdict))
    }

    /// Records of its own: of requests that it would refuse and that nobody else tells of.
    /// `front` is how far the stage beside it has come.
    pub(super) fn alone(&mut self, front: u64, told: &mut Vec<Told>) {
        let behind: Vec<u64> = match self.beside {
            true => self.verdicts.range(..front),
            false => self.verdicts.range(..),
        }
        .map(|(at, _)| *at)
        .filter(|at| !self.known.contains(at))
        .collect();
        for at in behind {
            let Some((verdict, summary)) = self.verdicts.remove(&at) else {
                continue;
            };
            self.kept_bytes -= bytes_of(&summary);
            if verdict.allowed {
                continue;
            }
            told.push(Told {
                by: Attribution {
                    rules: vec![self.asked_by],
                    generation: self.generation,
                    rehearsed: Some(Box::new(verdict)),
                    ..Attribution::default()
                },
                allowed: true,
                summary,
                at,
            });
        }
    }

    /// The connection is over: gives on what still waits.
    pub(super) fn end(&mut self, told: &mut Vec<Told>) {
        let waiting = self.waiting.iter();
        let bytes: usize = waiting.map(|told| bytes_of(&told.summary)).sum();
        self.kept_bytes -= bytes;
        told.extend(self.waiting.drain(..));
    }

    /// Bytes of the connection that it holds.
    pub(super) fn held(&self) -> usize {
        self.stages.iter().map(Stage::held).sum()
    }

    /// Bytes it holds, with what it keeps to be compared.
    pub(super) fn memory(&self) -> usize {
        let stages: usize = self.stages.iter().map(Stage::memory).sum();
        stages + self.kept_bytes
    }
}

/// Bytes of what a filter told, with what is kept beside it.
fn bytes_of(summary: &L7Summary) -> usize {
    let texts = match summary {
        L7Summary::Stream {
            command, targets, ..
        } => {
            let texts = targets.iter().map(|text| size_of::<String>() + text.len());
            command.len() + texts.sum::<usize>()
        }
        _ => 0,
    };
    size_of::<Told>() + size_of::<Rehearsed>() + texts
}
