//! Numbers that mean the same after every change and every restart.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::terms::{EndpointId, IdentityId, L7Id, RuleId, ServiceId};

/// Keys kept per kind beyond those in use; more are forgotten, oldest first.
const REMEMBERED: usize = 16_384;
/// One look at all numbers for each of this part of them that was given: what is out of use is
/// known as that much later at most.
const LOOK_EACH: usize = 16;

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
    /// Is it kept at all, so that steps are enough from now on?
    #[serde(skip)]
    is_kept: bool,
    /// Since [`Ids::saved`].
    #[serde(skip)]
    steps: Vec<Step>,
}

/// A number was given to a key, or the key was forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    kind: Kind,
    key: String,
    /// `None`: it was forgotten.
    number: Option<u32>,
}

/// What is numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Identities,
    Local,
    Rules,
    L7,
    Services,
    Endpoints,
}

/// What is to be written so that nothing of a numbering is lost.
#[derive(Debug)]
pub enum Unsaved<'i> {
    /// All of it: nothing is kept yet.
    All,
    /// What was given and forgotten since.
    Steps(&'i [Step]),
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
            is_kept: false,
            steps: Vec::new(),
        }
    }
}

impl Ids {
    /// Gives these label sets numbers of this node's own choice.
    ///
    /// # Errors
    ///
    /// If there is none left.
    pub fn number(&mut self, sets: &BTreeSet<String>) -> Result<(), NoNumber> {
        for set in sets {
            self.identities.get(set)?;
        }
        Ok(())
    }

    /// Gives a label set this number, which somebody else has chosen.
    ///
    /// # Errors
    ///
    /// If another label set has it on this node, or it is no number of label sets.
    pub fn assign(&mut self, set: &str, IdentityId(number): IdentityId) -> Result<(), NoNumber> {
        self.identities.assign(set, number)
    }

    /// Has this label set a number?
    pub(crate) fn knows(&self, set: &str) -> bool {
        self.identities.numbers.contains_key(set)
    }

    /// Ends a compilation: what is held now was in use until now, and what has been out of
    /// use the longest is forgotten.
    pub(crate) fn end(&mut self) {
        self.clock += 1;
        let clock = self.clock;
        let mut steps = Vec::new();
        for (kind, interner) in self.all() {
            interner.settle_if_due(clock);
            let news = std::mem::take(&mut interner.news).into_iter();
            steps.extend(news.map(|(key, number)| Step { kind, key, number }));
        }
        self.steps.append(&mut steps);
    }

    /// What is to be kept that [`Ids::saved`] does not know of, if anything. Numbers must be
    /// kept before anything that uses them is published.
    pub fn unsaved(&self) -> Option<Unsaved<'_>> {
        match (self.is_kept, &*self.steps) {
            (false, _) => Some(Unsaved::All),
            (true, []) => None,
            (true, steps) => Some(Unsaved::Steps(steps)),
        }
    }

    /// Everything is kept.
    pub fn saved(&mut self) {
        self.is_kept = true;
        self.steps.clear();
    }

    /// What is kept may be damaged: all of it is to be written again.
    pub fn not_saved(&mut self) {
        self.is_kept = false;
    }

    /// Takes in a step that was kept.
    pub fn replay(&mut self, step: Step) {
        let mut all = self.all().into_iter();
        if let Some((_, interner)) = all.find(|(kind, _)| *kind == step.kind) {
            interner.replay(step.key, step.number);
        }
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

    fn all(&mut self) -> [(Kind, &mut Interner); 6] {
        [
            (Kind::Identities, &mut self.identities),
            (Kind::Local, &mut self.local),
            (Kind::Rules, &mut self.rules),
            (Kind::L7, &mut self.l7),
            (Kind::Services, &mut self.services),
            (Kind::Endpoints, &mut self.endpoints),
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
    pub fn identity(&mut self, IdentityId(number): IdentityId) -> &mut Self {
        let highest = if number < LOCAL.0 {
            &mut self.identities
        } else {
            &mut self.local
        };
        *highest = number.max(*highest);
        self
    }

    /// A rule.
    pub fn rule(&mut self, RuleId(number): RuleId) -> &mut Self {
        self.rules = number.max(self.rules);
        self
    }

    /// An L7 rule set.
    pub fn rule_set(&mut self, L7Id(number): L7Id) -> &mut Self {
        self.l7 = number.max(self.l7);
        self
    }

    /// A service frontend.
    pub fn service(&mut self, ServiceId(number): ServiceId) -> &mut Self {
        self.services = number.max(self.services);
        self
    }

    /// An endpoint.
    pub fn endpoint(&mut self, EndpointId(number): EndpointId) -> &mut Self {
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
    /// Keys that were given a number or forgotten since this was last asked.
    #[serde(skip)]
    news: Vec<(String, Option<u32>)>,
    /// Numbers given since it was last looked who holds them.
    #[serde(skip)]
    given: usize,
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

/// Something has no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoNumber {
    /// Every number of a range is in use.
    #[error("all numbers from {0} to {1} are in use")]
    Exhausted(u32, u32),
    /// Numbers of label sets are given before anything is compiled.
    #[error("a label set was given no number")]
    NotGiven,
    /// Another label set has it.
    #[error("the number {0} is another label set's")]
    Taken(u32),
}

impl Interner {
    fn new(range: Range) -> Self {
        Interner {
            range,
            next: range.0,
            wrapped: false,
            numbers: BTreeMap::new(),
            news: Vec::new(),
            given: 0,
        }
    }

    /// The number of a key, a new one if it has none.
    pub(crate) fn get(&mut self, key: &str) -> Result<Number, NoNumber> {
        if let Some(given) = self.numbers.get(key) {
            return Ok(given.number.clone());
        }
        let number = Number::from(self.free()?);
        let given = Given {
            number: number.clone(),
            seen: 0,
        };
        self.numbers.insert(key.to_owned(), given);
        self.news.push((key.to_owned(), Some(number.get())));
        self.given += 1;
        Ok(number)
    }

    /// The number that a key was given.
    pub(crate) fn given(&self, key: &str) -> Result<Number, NoNumber> {
        let given = self.numbers.get(key).ok_or(NoNumber::NotGiven)?;
        Ok(given.number.clone())
    }

    fn assign(&mut self, key: &str, number: u32) -> Result<(), NoNumber> {
        let (first, last) = self.range;
        if !(first..=last).contains(&number) {
            return Err(NoNumber::Exhausted(first, last));
        }
        let mut all = self.numbers.iter();
        let taken = all.find(|(_, given)| given.number.get() == number);
        match taken.map(|(known, given)| (known.clone(), given.number.is_held())) {
            Some((known, _)) if known == key => return Ok(()),
            Some((_, true)) => return Err(NoNumber::Taken(number)),
            // Nobody here uses it any more.
            Some((known, false)) => {
                self.numbers.remove(&known);
                self.news.push((known, None));
            }
            None => {}
        }
        self.replay(key.to_owned(), Some(number));
        self.news.push((key.to_owned(), Some(number)));
        self.given += 1;
        Ok(())
    }

    /// As it was given, or forgotten.
    fn replay(&mut self, key: String, number: Option<u32>) {
        let Some(number) = number else {
            self.numbers.remove(&key);
            return;
        };
        let given = Given {
            number: number.into(),
            seen: 0,
        };
        self.numbers.insert(key, given);
        self.went_past(number);
    }

    /// The next number nobody has. Numbers go round: one that was given up comes
    /// back only after all others.
    fn free(&mut self) -> Result<u32, NoNumber> {
        let (first, last) = self.range;
        let size = u64::from(last - first) + 1;
        if self.numbers.len() as u64 >= size {
            self.evict(1);
            if self.numbers.len() as u64 >= size {
                return Err(NoNumber::Exhausted(first, last));
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
            self.went_past(number);
            if !taken.contains(&number) {
                return Ok(number);
            }
        }
    }

    /// Numbers go on behind this one, and begin again behind the last.
    fn went_past(&mut self, number: u32) {
        let (first, last) = self.range;
        self.wrapped |= number == last;
        self.next = if number == last { first } else { number + 1 };
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

    /// Looks who holds numbers, once so many were given that a look at all of them costs no
    /// more than they did: a number costs what it costs, however many there are.
    fn settle_if_due(&mut self, clock: u64) {
        if self.given > self.numbers.len() / LOOK_EACH {
            self.settle(clock);
        }
    }

    fn settle(&mut self, clock: u64) {
        self.given = 0;
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
            self.news.push((key, None));
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
        assert!(matches!(ids.unsaved(), Some(Unsaved::All)));
        ids.saved();
        assert_eq!(ids.rules.get("a").unwrap(), held);
        ids.end();
        assert!(ids.unsaved().is_none(), "a known key is nothing new");
        number(&mut ids.services, "a");
        ids.end();
        let Some(Unsaved::Steps([step])) = ids.unsaved() else {
            panic!("{:?}", ids.unsaved());
        };
        assert_eq!((&*step.key, step.number), ("a", Some(1)));
        // What may be damaged is written as a whole.
        ids.not_saved();
        assert!(matches!(ids.unsaved(), Some(Unsaved::All)));
    }

    proptest::proptest! {
        /// Whoever kept a numbering once and then its steps has the numbering.
        #[test]
        fn steps_lead_to_the_same_numbering(
            asked in proptest::collection::vec((0..6_usize, 0..40_u8, proptest::bool::ANY), 0..200),
        ) {
            let mut ids = Ids::default();
            for (_, interner) in ids.all() {
                // So few that numbers go round, and keys are forgotten.
                interner.range = (interner.range.0, interner.range.0 + 6);
            }
            let text = serde_json::to_string(&ids).unwrap();
            let mut kept: Ids = serde_json::from_str(&text).unwrap();
            ids.saved();
            let mut held = Vec::new();
            for (kind, key, holds) in asked {
                let (_, interner) = ids.all().into_iter().nth(kind).unwrap();
                let number = interner.get(&key.to_string());
                held.extend(number.ok().filter(|_| holds && kind < 3));
                ids.end();
                if let Some(Unsaved::Steps(steps)) = ids.unsaved() {
                    steps.iter().cloned().for_each(|step| kept.replay(step));
                    ids.saved();
                }
                for ((_, is), (_, was)) in kept.all().into_iter().zip(ids.all()) {
                    let numbers = |of: &Interner| -> Vec<(String, u32)> {
                        let all = of.numbers.iter();
                        all.map(|(key, given)| (key.clone(), given.number.get())).collect()
                    };
                    proptest::prop_assert_eq!(numbers(is), numbers(was));
                    proptest::prop_assert_eq!((is.next, is.wrapped), (was.next, was.wrapped));
                }
            }
        }
    }

    #[test]
    fn what_was_lost_is_not_given_again() {
        let mut ids = Ids::default();
        assert_eq!(number(&mut ids.l7, "a"), 1);
        let mut seen = NumbersInUse::default();
        // Of both kinds of identities; reserved ones are below all.
        seen.rule_set(L7Id(7))
            .identity(IdentityId(300))
            .identity(IdentityId(9));
        seen.identity(IdentityId(16_777_220))
            .identity(IdentityId(0));
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
    fn a_number_that_others_chose_is_nobody_elses() {
        let mut ids = Ids::default();
        ids.assign("a", IdentityId(300)).unwrap();
        assert_eq!(number(&mut ids.identities, "a"), 300);
        assert_eq!(
            number(&mut ids.identities, "b"),
            301,
            "own ones go on behind it"
        );
        let held = ids.identities.given("a").unwrap();
        assert_eq!(ids.assign("c", IdentityId(300)), Err(NoNumber::Taken(300)));
        assert_eq!(ids.assign("a", IdentityId(300)), Ok(()));
        drop(held);
        // Whoever gives numbers has given it anew.
        ids.assign("c", IdentityId(300)).unwrap();
        assert_eq!(
            ids.identities.given("a").map(|a| a.get()),
            Err(NoNumber::NotGiven)
        );
        assert!(ids.assign("d", IdentityId(7)).is_err(), "reserved");
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
        assert_eq!(interner.get("f"), Err(NoNumber::Exhausted(1, 3)));
        // A copy does not count who holds numbers of the original.
        assert_eq!(interner.clone().get("f").map(|f| f.get()), Ok(1));
    }
}
