//! Memory of requests that have no answer yet, counted per connection and per worker.
//! Every request is counted while it is open, and given back with it.

use std::{cell::Cell, rc::Rc};

/// What the open requests of one worker may take together, bytes.
const WORKER: usize = 32 << 20;
/// What those of one connection may take, bytes.
const CONNECTION: usize = 1 << 20;
/// What those of one connection always may, bytes.
const ALWAYS: usize = 16 << 10;

thread_local! {
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

/// One connection's part.
#[derive(Default)]
pub(super) struct Share(Rc<Cell<usize>>);

impl Share {
    /// Takes bytes for a request; `None` if the connection has its part already: all it
    /// may have, or a quarter of what nobody has.
    pub(super) fn take(&self, bytes: usize) -> Option<Held> {
        let free = WORKER.saturating_sub(TAKEN.get());
        let most = (free / 4).clamp(ALWAYS, CONNECTION);
        (self.0.get() + bytes <= most).then(|| {
            add(&self.0, bytes);
            Held {
                bytes,
                share: self.0.clone(),
            }
        })
    }
}

fn add(share: &Cell<usize>, bytes: usize) {
    share.set(share.get() + bytes);
    TAKEN.set(TAKEN.get() + bytes);
}

/// Bytes that are taken until this is dropped.
pub(super) struct Held {
    bytes: usize,
    share: Rc<Cell<usize>>,
}

impl Held {
    /// Gives back what exceeds `bytes`.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.share.set(self.share.get() - less);
        TAKEN.set(TAKEN.get() - less);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_connection_never_has_all_and_everybody_has_some() {
        let greedy: Vec<Share> = (0..200).map(|_| Share::default()).collect();
        let mut held = Vec::new();
        for share in &greedy {
            while let Some(more) = share.take(2_000) {
                held.push(more);
            }
            assert!(share.0.get() <= CONNECTION);
        }
        assert!(TAKEN.get() <= WORKER + greedy.len() * ALWAYS);
        let late = Share::default();
        let mut own = late.take(ALWAYS).expect("always some");
        own.shrink(100);
        assert_eq!(late.0.get(), 100);
        drop((own, held));
        assert_eq!(TAKEN.get(), 0, "all is given back");
    }
}
