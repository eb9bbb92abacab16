//! Memory of the bytes that one worker has read and not passed on yet. Clients share it
//! as they share places: one has three quarters at most of what the others leave, and a
//! quarter of it all is kept for those who have next to nothing.

use std::{cell::Cell, io, rc::Rc};

/// What is kept for a client that has no more than this, bytes: a long head each way.
const FIRST: usize = 128 << 10;

/// Says that a longer message would need more memory than its client has.
pub(super) const NO_MEMORY: &str = "no memory is left for this client";

/// [`NO_MEMORY`], where bytes are read.
pub(super) fn no_memory() -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, NO_MEMORY)
}

/// The memory of one worker.
pub(super) struct Memory {
    /// Most of all clients together, bytes.
    limit: usize,
    taken: Cell<usize>,
    /// Most that was taken since [`Memory::has_emptied`] said so last.
    peak: Cell<usize>,
}

/// Bytes that were given back before it is worth asking the allocator what it keeps.
const WORTH_TRIMMING: usize = 16 << 20;

impl Memory {
    pub(super) fn new(limit: usize) -> Rc<Self> {
        Rc::new(Self {
            limit,
            taken: Cell::new(0),
            peak: Cell::new(0),
        })
    }

    /// Was so much given back that the allocator should look what it keeps?
    pub(super) fn has_emptied(&self) -> bool {
        let taken = self.taken.get();
        let emptied = self.peak.get() >= 2 * taken + WORTH_TRIMMING;
        if emptied {
            self.peak.set(taken);
        }
        emptied
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
        let first = self.0.taken.get() + bytes <= FIRST
            && self.0.memory.taken.get() + bytes <= self.0.memory.limit;
        (first || self.has(bytes, self.part())).then(|| self.taken(bytes))
    }

    /// Takes bytes that it could do without: half of its part is for what it could not.
    pub(super) fn take_ample(&self, bytes: usize) -> Option<Taken> {
        let first = self.0.taken.get() + bytes <= FIRST;
        match first {
            true => self.take(bytes),
            false => self.has(bytes, self.part() / 2).then(|| self.taken(bytes)),
        }
    }

    /// Three quarters of what the others leave.
    fn part(&self) -> usize {
        let Client { memory, taken } = &*self.0;
        let others = memory.taken.get() - taken.get();
        let shared = memory.limit - memory.limit / 4;
        shared.saturating_sub(others) / 4 * 3
    }

    fn has(&self, bytes: usize, most: usize) -> bool {
        self.0.taken.get() + bytes <= most
    }

    fn taken(&self, bytes: usize) -> Taken {
        let Client { memory, taken } = &*self.0;
        taken.set(taken.get() + bytes);
        memory.taken.set(memory.taken.get() + bytes);
        memory.peak.set(memory.peak.get().max(memory.taken.get()));
        Taken {
            bytes,
            budget: self.clone(),
        }
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

    const KIB: usize = 1 << 10;

    fn all_of(budget: &Budget) -> Vec<Taken> {
        std::iter::from_fn(|| budget.take(64 * KIB)).collect()
    }

    #[test]
    fn one_client_leaves_some_for_the_others_and_all_is_given_back() {
        let memory = Memory::new(64 << 20);
        let (greedy, late, later) = (memory.budget(), memory.budget(), memory.budget());
        let first = all_of(&greedy);
        assert_eq!(first.len(), 576, "three quarters of what is shared");
        let second = all_of(&late);
        assert_eq!(second.len(), 144, "three quarters of the rest");
        assert!(all_of(&greedy).is_empty());
        drop(first);
        assert_eq!(all_of(&later).len(), 468);
        drop(second);
        assert_eq!(memory.taken.get(), 0);
        assert!(memory.has_emptied(), "it is worth trimming");
        assert!(!memory.has_emptied(), "once");
    }

    #[test]
    fn however_many_are_greedy_a_newcomer_has_room_for_a_long_head_each_way() {
        let memory = Memory::new(64 << 20);
        let greedy: Vec<_> = (0..100).map(|_| memory.budget()).collect();
        let held: Vec<_> = greedy.iter().map(all_of).collect();
        let newcomer = memory.budget();
        assert_eq!(all_of(&newcomer).len(), 2);
        assert!(memory.taken.get() <= memory.limit);
        drop(held);
        // What could be done without leaves half.
        let ample = std::iter::from_fn(|| newcomer.take_ample(64 * KIB));
        let ample: Vec<_> = ample.collect();
        assert_eq!(ample.len(), 288);
        assert_eq!(all_of(&newcomer).len(), 288);
    }

    #[test]
    fn the_limit_is_one_however_many_share_it() {
        let memory = Memory::new(1 << 20);
        let clients: Vec<_> = (0..100).map(|_| memory.budget()).collect();
        let held: Vec<_> = clients.iter().map(all_of).collect();
        assert!(memory.taken.get() <= memory.limit);
        assert!(clients[99].take(16 * KIB).is_none());
        drop(held);
    }
}
