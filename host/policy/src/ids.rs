//! Numbers that mean the same after every change and every restart.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

/// Keys kept per kind beyond those in use; more are forgotten, oldest first.
const REMEMBERED: usize = 16_384;

/// All numbers ever given. Kept in the state folder; the same key gets the same
/// number for as long as it is remembered, and a forgotten number is the last to
/// be given again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ids {
    /// Identities of label sets.
    pub(crate) identities: Interner,
    /// Node-local identities: CIDRs and FQDN selectors.
    pub(crate) local: Interner,
    /// Rules, by document and path.
    pub(crate) rules: Interner,
    /// L7 rule sets, by digest of their content.
    pub(crate) l7: Interner,
    /// Service frontends.
    pub(crate) services: Interner,
    /// Endpoints, by name.
    pub(crate) endpoints: Interner,
    /// Compilations so far.
    clock: u64,
    /// Was a number given or forgotten since [`Ids::saved`]?
    #[serde(skip)]
    unsaved: bool,
}

/// First and last number of an interner.
type Range = (u32, u32);

/// Cilium's numbers for label sets of a cluster.
const IDENTITIES: Range = (256, 65_535);
/// Scope bit and 24 bits below it.
const LOCAL: Range = ((1 << 24) | 1, (1 << 25) - 1);
const ANY_NUMBER: Range = (1, u32::MAX);

impl Default for Ids {
    fn default() -> Self {
        Ids {
            identities: Interner::new(IDENTITIES),
            local: Interner::new(LOCAL),
            rules: Interner::new(ANY_NUMBER),
            l7: Interner::new(ANY_NUMBER),
            services: Interner::new(ANY_NUMBER),
            endpoints: Interner::new(ANY_NUMBER),
            clock: 0,
            // That there is a numbering is worth keeping, too.
            unsaved: true,
        }
    }
}

impl Ids {
    /// Ends a compilation: what is held now was in use until now, and what has been out of
    /// use the longest is forgotten.
    pub(crate) fn end(&mut self) {
        self.clock += 1;
        let clock = self.clock;
        let mut changed = false;
        for interner in self.all() {
            interner.settle(clock);
            changed |= std::mem::take(&mut interner.changed);
        }
        self.unsaved |= changed;
    }

    /// Is there something to be kept that [`Ids::saved`] does not know of? Numbers must be
    /// kept before anything that uses them is published.
    pub fn is_unsaved(&self) -> bool {
        self.unsaved
    }

    /// Everything is kept.
    pub fn saved(&mut self) {
        self.unsaved = false;
    }

    /// Gives no number again that somebody goes by and this does not know: it was lost, or
    /// is a copy from earlier.
    pub fn stay_clear_of(&mut self, seen: &NumbersInUse) {
        self.identities.pass(seen.identities);
        self.local.pass(seen.local);
        self.rules.pass(seen.rules);
        self.l7.pass(seen.l7);
        self.services.pass(seen.services);
        self.endpoints.pass(seen.endpoints);
    }

    fn all(&mut self) -> [&mut Interner; 6] {
        [
            &mut self.identities,
            &mut self.local,
            &mut self.rules,
            &mut self.l7,
            &mut self.services,
            &mut self.endpoints,
        ]
    }
}

/// The highest number of each kind that somebody still goes by, 0 if nobody does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NumbersInUse {
    identities: u32,
    local: u32,
    rules: u32,
    l7: u32,
    services: u32,
    endpoints: u32,
}

impl NumbersInUse {
    /// An identity of labels, a prefix or a name; reserved ones do not matter.
    pub fn identity(&mut self, number: u32) -> &mut Self {
        let highest = if number < LOCAL.0 {
            &mut self.identities
        } else {
            &mut self.local
        };
        *highest = number.max(*highest);
        self
    }

    /// A rule.
    pub fn rule(&mut self, number: u32) -> &mut Self {
        self.rules = number.max(self.rules);
        self
    }

    /// An L7 rule set.
    pub fn rule_set(&mut self, number: u32) -> &mut Self {
        self.l7 = number.max(self.l7);
        self
    }

    /// A service frontend.
    pub fn service(&mut self, number: u32) -> &mut Self {
        self.services = number.max(self.services);
        self
    }

    /// An endpoint.
    pub fn endpoint(&mut self, number: u32) -> &mut Self {
        self.endpoints = number.max(self.endpoints);
        self
    }
}

/// A number, and a claim to it: as long as somebody holds one, its key is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u32", into = "u32")]
pub(crate) struct Number(Arc<u32>);

impl Number {
    pub(crate) fn get(&self) -> u32 {
        *self.0
    }

    /// Does somebody besides the interner hold it?
    fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl From<u32> for Number {
    fn from(number: u32) -> Self {
        Self(Arc::new(number))
    }
}

impl From<Number> for u32 {
    fn from(number: Number) -> Self {
        number.get()
    }
}

/// Keys to numbers of one range.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Interner {
    range: Range,
    next: u32,
    /// Has the last number of the range been given once?
    wrapped: bool,
    numbers: BTreeMap<String, Given>,
    /// Was a number given or forgotten since this was last asked?
    #[serde(skip)]
    changed: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Given {
    number: Number,
    /// Compilation that last used it.
    seen: u64,
}

/// A copy is another numbering: who holds a number of this one holds none of that.
impl Clone for Given {
    fn clone(&self) -> Self {
        Self {
            number: self.number.get().into(),
            seen: self.seen,
        }
    }
}

/// Every number of a range is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all numbers from {0} to {1} are in use")]
pub(crate) struct Exhausted(u32, u32);

impl Interner {
    fn new(range: Range) -> Self {
        Interner {
            range,
            next: range.0,
            wrapped: false,
            numbers: BTreeMap::new(),
            changed: false,
        }
    }

    /// The number of a key, a new one if it has none.
    pub(crate) fn get(&mut self, key: &str) -> Result<Number, Exhausted> {
        if let Some(given) = self.numbers.get(key) {
            return Ok(given.number.clone());
        }
        let number = Number::from(self.free()?);
        let given = Given {
            number: number.clone(),
            seen: 0,
        };
        self.numbers.insert(key.to_owned(), given);
        self.changed = true;
        Ok(number)
    }

    /// The next number nobody has. Numbers go round: one that was given up comes
    /// back only after all others.
    fn free(&mut self) -> Result<u32, Exhausted> {
        let (first, last) = self.range;
        let size = u64::from(last - first) + 1;
        if self.numbers.len() as u64 >= size {
            self.evict(1);
            if self.numbers.len() as u64 >= size {
                return Err(Exhausted(first, last));
            }
        }
        // In the first round every number ahead is free.
        let taken: BTreeSet<u32> = if self.wrapped {
            let given = self.numbers.values();
            given.map(|given| given.number.get()).collect()
        } else {
            BTreeSet::new()
        };
        loop {
            let number = self.next;
            self.wrapped |= number == last;
            self.next = if number == last { first } else { number + 1 };
            if !taken.contains(&number) {
                return Ok(number);
            }
        }
    }

    /// Goes on after a number. Once they have gone round there is no after.
    fn pass(&mut self, number: u32) {
        let (_, last) = self.range;
        if !self.wrapped && number >= self.next {
            self.wrapped = number >= last;
            self.next = if self.wrapped {
                self.range.0
            } else {
                number + 1
            };
        }
    }

    fn settle(&mut self, clock: u64) {
        let mut unused = 0usize;
        for given in self.numbers.values_mut() {
            if given.number.is_held() {
                given.seen = clock;
            } else {
                unused += 1;
            }
        }
        if unused > REMEMBERED {
            self.evict(unused - REMEMBERED);
        }
    }

    /// Forgets up to `count` keys that are out of use, the longest unseen first.
    fn evict(&mut self, count: usize) {
        let mut unused: Vec<(u64, String)> = self
            .numbers
            .iter()
            .filter(|(_, given)| !given.number.is_held())
            .map(|(key, given)| (given.seen, key.clone()))
            .collect();
        unused.sort();
        for (_, key) in unused.into_iter().take(count) {
            self.numbers.remove(&key);
            self.changed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(interner: &mut Interner, key: &str) -> u32 {
        interner.get(key).unwrap().get()
    }

    #[test]
    fn numbers_stay_and_survive_a_restart() {
        let mut ids = Ids::default();
        let first = number(&mut ids.identities, "a");
        let second = number(&mut ids.identities, "b");
        ids.end();
        assert_eq!((first, second), (256, 257));
        assert_eq!(number(&mut ids.local, "cidr:10.0.0.0/8"), 16_777_217);

        let text = serde_json::to_string(&ids).unwrap();
        let mut ids: Ids = serde_json::from_str(&text).unwrap();
        assert_eq!(number(&mut ids.identities, "c"), 258);
        assert_eq!(number(&mut ids.identities, "b"), second);
        assert_eq!(number(&mut ids.identities, "a"), first);
    }

    #[test]
    fn there_is_something_to_keep_only_after_a_number_was_given() {
        let mut ids = Ids::default();
        let held = ids.rules.get("a").unwrap();
        ids.end();
        assert!(ids.is_unsaved());
        ids.saved();
        assert_eq!(ids.rules.get("a").unwrap(), held);
        ids.end();
        assert!(!ids.is_unsaved(), "a known key is nothing new");
        number(&mut ids.services, "a");
        ids.end();
        assert!(ids.is_unsaved());
    }

    #[test]
    fn what_was_lost_is_not_given_again() {
        let mut ids = Ids::default();
        assert_eq!(number(&mut ids.l7, "a"), 1);
        let mut seen = NumbersInUse::default();
        // Of both kinds of identities; reserved ones are below all.
        seen.rule_set(7).identity(300).identity(9);
        seen.identity(16_777_220).identity(0);
        ids.stay_clear_of(&seen);
        assert_eq!(number(&mut ids.l7, "a"), 1, "what is known stays");
        assert_eq!(number(&mut ids.l7, "b"), 8);
        assert_eq!(number(&mut ids.identities, "a"), 301);
        assert_eq!(number(&mut ids.local, "a"), 16_777_221);
        assert_eq!(number(&mut ids.rules, "a"), 1);
        // What is in use and known changes nothing.
        ids.stay_clear_of(&seen);
        assert_eq!(number(&mut ids.l7, "c"), 9);

        let mut round = Interner::new((1, 3));
        round.pass(3);
        assert_eq!(number(&mut round, "a"), 1, "the range has gone round");
    }

    #[test]
    fn a_full_range_reuses_the_longest_unseen() {
        let mut interner = Interner::new((1, 3));
        for (clock, key) in ["a", "b", "c"].into_iter().enumerate() {
            let _held = interner.get(key).unwrap();
            interner.settle(clock as u64);
        }
        let held = ["c", "d", "e"].map(|key| interner.get(key).unwrap());
        let numbers = held.each_ref().map(Number::get);
        assert_eq!(numbers, [3, 1, 2], "a was unseen the longest");
        assert_eq!(interner.get("f"), Err(Exhausted(1, 3)));
        // A copy does not count who holds numbers of the original.
        assert_eq!(interner.clone().get("f").map(|f| f.get()), Ok(1));
    }
}
