//! Which objects are new, and which are gone, since the last look.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    objects::{Listed, Objects},
    shared::changes,
};

/// The objects of one kind that were there at the last look.
///
/// An object is told from another by being it, not by what it says: comparing addresses is
/// all that ten thousand unchanged ones cost.
#[derive(Debug)]
pub(crate) struct Followed<T> {
    held: HashMap<usize, Held<T>>,
    look: u64,
}

#[derive(Debug)]
struct Held<T> {
    /// Keeps the address from becoming another object's.
    object: Arc<T>,
    /// The look that last saw it.
    seen: u64,
}

/// What is different from the last look.
#[derive(Clone, Debug)]
pub(crate) struct Delta<T> {
    /// Objects that were not there, in the order of the list.
    pub(crate) come: Vec<Arc<T>>,
    /// Objects that are there no more.
    pub(crate) gone: Vec<Arc<T>>,
}

impl<T> Default for Followed<T> {
    fn default() -> Self {
        Self {
            held: HashMap::new(),
            look: 0,
        }
    }
}

impl<T> Default for Delta<T> {
    fn default() -> Self {
        Self {
            come: Vec::new(),
            gone: Vec::new(),
        }
    }
}

impl<T> Delta<T> {
    /// What is different between two states, at the price of the difference. An object that is
    /// in another place is there as it was.
    pub(crate) fn between(before: &Objects<T>, now: &Objects<T>) -> Self {
        let mut delta = Self::default();
        for change in changes(before, now) {
            delta.gone.extend(change.before.map(|it| Arc::clone(it)));
            delta.come.extend(change.now.map(|it| Arc::clone(it)));
        }
        let gone: HashSet<usize> = delta.gone.iter().map(address).collect();
        let come: HashSet<usize> = delta.come.iter().map(address).collect();
        delta.gone.retain(|object| !come.contains(&address(object)));
        delta.come.retain(|object| !gone.contains(&address(object)));
        delta
    }

    /// Objects that came or went.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<T>> {
        self.gone.iter().chain(&self.come)
    }
}

/// Tells an object from all others that are there.
pub(crate) fn address<T>(object: &Arc<T>) -> usize {
    Arc::as_ptr(object).addr()
}

impl<T> Followed<T> {
    /// Looks at all objects there are. One that is in the list twice came once more.
    pub(crate) fn look<'a>(&mut self, all: impl Iterator<Item = &'a Listed<T>>) -> Delta<T>
    where
        T: 'a,
    {
        self.look += 1;
        let mut delta = Delta::default();
        let mut stayed = 0;
        for object in all {
            match self.held.get_mut(&address(object)) {
                Some(held) if held.seen != self.look => {
                    held.seen = self.look;
                    stayed += 1;
                }
                _ => delta.come.push(Arc::clone(object)),
            }
        }
        if stayed < self.held.len() {
            let held = self.held.values();
            let gone = held.filter(|held| held.seen != self.look);
            delta.gone = gone.map(|held| held.object.clone()).collect();
        }
        delta
    }

    /// From now on, what a look has found is what was there.
    pub(crate) fn accept(&mut self, delta: &Delta<T>) {
        for object in &delta.gone {
            self.held.remove(&address(object));
        }
        for object in &delta.come {
            let held = Held {
                object: object.clone(),
                seen: self.look,
            };
            self.held.insert(address(object), held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_finds_what_came_and_went() {
        let [a, b, c] = ["a", "b", "b"].map(Arc::new);
        let mut followed = Followed::default();
        let mut look = |all: &[&Arc<&'static str>], accept: bool| {
            let all: Vec<_> = all.iter().map(|object| Listed::from(*object)).collect();
            let delta = followed.look(all.iter());
            if accept {
                followed.accept(&delta);
            }
            let addresses = |list: &[Arc<_>]| list.iter().map(address).collect::<Vec<_>>();
            (addresses(&delta.come), addresses(&delta.gone))
        };
        let [to_a, to_b, to_c] = [&a, &b, &c].map(address);
        assert_eq!(look(&[&a, &b], true), (vec![to_a, to_b], vec![]));
        assert_eq!(look(&[&b, &a], true), (vec![], vec![]), "order is nothing");
        assert_eq!(look(&[&a, &c], false), (vec![to_c], vec![to_b]));
        assert_eq!(look(&[&a, &b, &b], false), (vec![to_b], vec![]), "twice");
        assert_eq!(look(&[&a, &b, &c], true), (vec![to_c], vec![]));
        assert_eq!(look(&[&b, &c], true), (vec![], vec![to_a]));
    }
}
