//! Memory of the bytes that one worker has read and not passed on yet. Clients share it
//! as they share places: one has three quarters at most of what the others leave.

use std::{cell::Cell, rc::Rc};

/// The memory of one worker.
pub(super) struct Memory {
    /// Most of all clients together, bytes.
    limit: usize,
    taken: Cell<usize>,
}

impl Memory {
    pub(super) fn new(limit: usize) -> Rc<Self> {
        let taken = Cell::new(0);
        Rc::new(Self { limit, taken })
    }

    /// A part for one more client.
    pub(super) fn budget(self: &Rc<Self>) -> Budget {
        Budget(Rc::new(Client {
            memory: self.clone(),
            taken: Cell::new(0),
        }))
    }
}

/// The part of one client, for all of its connections.
#[derive(Clone)]
pub(super) struct Budget(Rc<Client>);

struct Client {
    memory: Rc<Memory>,
    taken: Cell<usize>,
}

impl Budget {
    /// Takes bytes; `None` if the client has its part already.
    pub(super) fn take(&self, bytes: usize) -> Option<Taken> {
        let Client { memory, taken } = &*self.0;
        let others = memory.taken.get() - taken.get();
        let most = memory.limit.saturating_sub(others) / 4 * 3;
        (taken.get() + bytes <= most).then(|| {
            taken.set(taken.get() + bytes);
            memory.taken.set(memory.taken.get() + bytes);
            Taken {
                bytes,
                budget: self.clone(),
            }
        })
    }
}

#[cfg(test)]
impl Default for Budget {
    /// More than any test takes.
    fn default() -> Self {
        Memory::new(1 << 40).budget()
    }
}

/// Bytes that are taken until this is dropped.
pub(super) struct Taken {
    bytes: usize,
    budget: Budget,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Client { memory, taken } = &*self.budget.0;
        taken.set(taken.get() - self.bytes);
        memory.taken.set(memory.taken.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_leaves_some_for_the_others_and_all_is_given_back() {
        let memory = Memory::new(1_600);
        let all_of =
            |budget: &Budget| -> Vec<Taken> { std::iter::from_fn(|| budget.take(100)).collect() };
        let (greedy, late, later) = (memory.budget(), memory.budget(), memory.budget());
        let first = all_of(&greedy);
        assert_eq!(first.len(), 12, "three quarters");
        let second = all_of(&late);
        assert_eq!(second.len(), 3, "three quarters of the rest");
        assert!(all_of(&greedy).is_empty());
        drop(first);
        assert_eq!(all_of(&later).len(), 9);
        drop(second);
        assert_eq!(memory.taken.get(), 0);
    }
}
