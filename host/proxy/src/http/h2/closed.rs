//! What is remembered of streams that are over, so that late frames are told from
//! wrong ones (RFC 9113 §5.1).

use std::collections::BTreeMap;

/// Streams remembered one by one.
const REMEMBERED: usize = 512;

/// How a stream that is not open came to be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// Both ends finished.
    Done,
    /// The client cancelled it.
    Cancelled,
    /// We or upstream ended it, and the client may not know yet.
    Cut,
    /// It never was: the client used a higher id first.
    Skipped,
    /// Too long ago to know.
    Forgotten,
}

/// The streams of one connection that are over.
#[derive(Default)]
pub(super) struct Closed {
    recent: BTreeMap<u32, Past>,
    forgotten_to: u32,
}

impl Closed {
    pub(super) fn remember(&mut self, id: u32, past: Past) {
        self.recent.insert(id, past);
        if self.recent.len() > REMEMBERED
            && let Some((id, _)) = self.recent.pop_first()
        {
            self.forgotten_to = self.forgotten_to.max(id);
        }
    }

    /// What became of a stream that is not open, of an id that was reached already.
    pub(super) fn past(&self, id: u32) -> Past {
        match self.recent.get(&id) {
            Some(past) => *past,
            None if id <= self.forgotten_to => Past::Forgotten,
            None => Past::Skipped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_is_told_from_forgotten() {
        let mut closed = Closed::default();
        closed.remember(5, Past::Cut);
        assert_eq!((closed.past(5), closed.past(3)), (Past::Cut, Past::Skipped));
        for n in 0..REMEMBERED as u32 {
            closed.remember(7 + 2 * n, Past::Done);
        }
        assert_eq!(closed.past(5), Past::Forgotten);
        assert_eq!(closed.past(7), Past::Done);
        assert_eq!(closed.past(8), Past::Skipped);
    }
}
