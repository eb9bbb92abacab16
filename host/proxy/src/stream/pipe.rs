//! The filters of a connection, one behind the other: the client's side first.

use super::stage::{Closed, Stage, Told, index};
use crate::decide::stream::{Part, StreamDirection};

/// All filters of a connection.
pub(crate) struct Pipe {
    stages: Vec<Stage>,
    /// To be kept a record of.
    pub(super) told: Vec<Told>,
    /// A filter said that the connection cannot go on.
    pub(super) closed: bool,
    ended: [bool; 2],
}

impl Pipe {
    pub(crate) fn of(parts: Vec<Part>) -> Self {
        let mut pipe = Self {
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
        pipe
    }

    /// What each filter has to go on having; see `StreamFilter::content`.
    pub(super) fn contents(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().map(|stage| stage.content.as_str())
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
    }

    /// Lets bytes flow on from the gap before stage `gap`.
    fn pour(
        &mut self,
        gap: usize,
        direction: StreamDirection,
        bytes: Vec<u8>,
        out: &mut [Vec<u8>; 2],
    ) {
        let next = match direction {
            StreamDirection::ToServer => (gap < self.stages.len()).then_some(gap),
            StreamDirection::ToClient => gap.checked_sub(1),
        };
        let Some(at) = next else {
            out[index(direction)].extend(bytes);
            return;
        };
        if self.closed {
            // Nobody judges it any more.
            return;
        }
        let end = self.comes_no_more(at, direction);
        let mut came = [Vec::new(), Vec::new()];
        let taken = self.stages[at].take(direction, &bytes, end, &mut came, &mut self.told);
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

    /// Has all come that a stage will see one way?
    fn comes_no_more(&self, at: usize, direction: StreamDirection) -> bool {
        let before = match direction {
            StreamDirection::ToServer => &self.stages[..at],
            StreamDirection::ToClient => &self.stages[at + 1..],
        };
        self.ended[index(direction)] && before.iter().all(|stage| stage.is_over(direction))
    }

    /// Will nothing come out this way any more?
    pub(super) fn is_over(&self, direction: StreamDirection) -> bool {
        self.ended[index(direction)] && self.stages.iter().all(|stage| stage.is_over(direction))
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.stages.iter().all(Stage::is_quiet)
    }

    /// Bytes that are held.
    pub(super) fn memory(&self) -> usize {
        self.stages.iter().map(Stage::memory).sum()
    }

    /// The connection is over.
    pub(super) fn end(&mut self) {
        for stage in &mut self.stages {
            stage.end(&mut self.told);
        }
    }
}
