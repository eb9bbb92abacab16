//! What is decided where several clauses and bindings meet.

use std::{collections::BTreeMap, sync::Arc};

use sha2::{Digest, Sha256};

use super::{
    clause::{Clause, FlatBinding},
    gathered::Gathered,
    rows::Speaker,
    server_names,
};
use crate::{
    compiled::{Decision, L7RuleSet, PluginUse, Rehearsed, Verdict},
    http_options::HttpOptions,
    ids::{Interner, NoNumber, Number},
    l7::L7Protocol,
    problem::Problem,
    terms::{L7Id, RuleId},
};

/// L7 rule sets of one table by number, which is held.
#[derive(Debug)]
pub(super) struct RuleSets<'i> {
    numbers: &'i mut Interner,
    pub(super) sets: BTreeMap<L7Id, (Number, Arc<L7RuleSet>)>,
}

impl<'i> RuleSets<'i> {
    pub(super) fn new(numbers: &'i mut Interner) -> Self {
        RuleSets {
            numbers,
            sets: BTreeMap::new(),
        }
    }

    /// The number of a rule set, 0 for none: same content, same number.
    fn number(&mut self, set: Option<L7RuleSet>) -> Result<L7Id, NoNumber> {
        let Some(set) = set else {
            return Ok(L7Id(0));
        };
        let digest = Sha256::digest(to_json(&set));
        let key: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let number = self.numbers.get(&key)?;
        let id = number.get();
        self.sets.insert(L7Id(id), (number, Arc::new(set)));
        Ok(L7Id(id))
    }
}

/// JSON of a value that always has one.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> String {
    // Our types have string keys and finite numbers only, so this cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}

/// What a table is decided by.
#[derive(Debug)]
pub(super) struct Context<'c> {
    pub(super) clauses: &'c [&'c Clause],
    pub(super) bindings: &'c [&'c FlatBinding],
    pub(super) otherwise: Otherwise,
    pub(super) plugins: &'c BTreeMap<String, L7Protocol>,
}

/// What happens to traffic no clause allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Otherwise {
    /// By the documents that are enforced.
    pub(super) enforced: Decision,
    /// By those and the ones in shadow.
    pub(super) rehearsed: Decision,
}

/// Why a decision could not be made.
pub(super) enum Refusal {
    /// Two documents contradict each other; the problem names the later one, or the one
    /// in shadow.
    Conflict(Box<Problem>),
    /// No number is left for a rule set.
    NoNumber(NoNumber),
}

impl From<NoNumber> for Refusal {
    fn from(error: NoNumber) -> Self {
        Refusal::NoNumber(error)
    }
}

/// A decision whose rule set has no number yet.
#[derive(PartialEq)]
struct Settled {
    verdict: Verdict,
    rule: RuleId,
    set: Option<L7RuleSet>,
}

impl Settled {
    fn plain(verdict: Verdict, rule: RuleId) -> Self {
        Self {
            verdict,
            rule,
            set: None,
        }
    }

    /// Marks the uses of plugins that `enforced` does not have.
    fn mark_beside(&mut self, enforced: &Self) {
        let known = enforced.set.as_ref().map_or(&[][..], |set| &set.chain);
        for used in self.set.iter_mut().flat_map(|set| &mut set.chain) {
            used.in_shadow = !known.contains(used);
        }
    }

    /// Does the same become of traffic? By which rule is not the question.
    fn is_as(&self, other: &Self) -> bool {
        (self.verdict, &self.set) == (other.verdict, &other.set)
    }
}

impl Context<'_> {
    /// Decides for packets about which exactly these speak: by those that are enforced,
    /// as if there were no others, and beside it what all of them would decide.
    pub(super) fn decide(
        &self,
        speakers: &[Speaker],
        sets: &mut RuleSets<'_>,
    ) -> Result<Decision, Refusal> {
        let enforced: Vec<Speaker> = speakers
            .iter()
            .copied()
            .filter(|speaker| !self.is_shadow(*speaker))
            .collect();
        let mut settled = self
            .settle(&enforced, self.otherwise.enforced)
            .map_err(Refusal::Conflict)?;
        let nothing_else =
            enforced.len() == speakers.len() && self.otherwise.enforced == self.otherwise.rehearsed;
        let shadow = if nothing_else {
            None
        } else {
            let mut rehearsed = self
                .settle(speakers, self.otherwise.rehearsed)
                .map_err(|contradiction| self.blame(&enforced, speakers, contradiction))?;
            if rehearsed.is_as(&settled) {
                None
            } else {
                rehearsed.mark_beside(&settled);
                Some(Rehearsed {
                    verdict: rehearsed.verdict,
                    rule: rehearsed.rule,
                    l7: sets.number(rehearsed.set)?,
                })
            }
        };
        if let Some(set) = &mut settled.set {
            set.shadow = shadow;
        }
        Ok(Decision {
            verdict: settled.verdict,
            rule: settled.rule,
            l7: sets.number(settled.set)?,
            shadow,
        })
    }

    fn is_shadow(&self, speaker: Speaker) -> bool {
        match speaker {
            Speaker::Clause { index, .. } => self.clauses[index].is_shadow(),
            Speaker::Binding(index) => self.bindings[index].binding.meta.is_shadow(),
        }
    }

    /// What is enforced agrees, so a contradiction is the fault of the first document in
    /// shadow that brings one about: no other may be refused for it.
    fn blame(
        &self,
        enforced: &[Speaker],
        speakers: &[Speaker],
        contradiction: Box<Problem>,
    ) -> Refusal {
        let mut some = enforced.to_vec();
        for speaker in speakers.iter().filter(|s| self.is_shadow(**s)) {
            some.push(*speaker);
            // In the order of their documents.
            some.sort_unstable();
            if let Err(problem) = self.settle(&some, self.otherwise.rehearsed) {
                let (meta, at) = match *speaker {
                    Speaker::Clause { index, .. } => {
                        let clause = self.clauses[index];
                        (clause.meta(), clause.at.clone())
                    }
                    Speaker::Binding(index) => {
                        let meta = &self.bindings[index].binding.meta;
                        (meta, self.bindings[index].binding.protocol_at.clone())
                    }
                };
                if problem.document.as_ref() == Some(&meta.key()) {
                    return Refusal::Conflict(problem);
                }
                let hint = problem.hint.unwrap_or_default();
                return Refusal::Conflict(Box::new(meta.problem(
                    &at,
                    format!("enforced, it would contradict others: {}", problem.message),
                    &hint,
                )));
            }
        }
        Refusal::Conflict(contradiction)
    }

    /// Deny wins; then, among what allows, L7 rules; a bound plugin looks at whatever is
    /// allowed.
    fn settle(&self, speakers: &[Speaker], otherwise: Decision) -> Result<Settled, Box<Problem>> {
        let spoken: Vec<(&Clause, bool)> = speakers
            .iter()
            .filter_map(|speaker| match speaker {
                Speaker::Clause { index, exact } => Some((self.clauses[*index], *exact)),
                Speaker::Binding(_) => None,
            })
            .collect();
        if let Some((deny, _)) = spoken.iter().find(|(clause, _)| clause.deny) {
            return Ok(Settled::plain(Verdict::Deny, deny.id));
        }
        let allowed = match spoken.first() {
            Some((clause, _)) => clause.id,
            None if otherwise.verdict == Verdict::Allow => otherwise.rule,
            None => return Ok(Settled::plain(otherwise.verdict, otherwise.rule)),
        };
        let bound: Vec<&FlatBinding> = speakers
            .iter()
            .filter_map(|speaker| match speaker {
                Speaker::Binding(index) => Some(self.bindings[*index]),
                Speaker::Clause { .. } => None,
            })
            .collect();

        // Where the endpoint is in default deny, only what a rule lists passes. Where no
        // policy switched that on, L7 rules may look at traffic, not refuse it.
        let mut found = Gathered::of(otherwise.verdict == Verdict::Allow);
        for (clause, exact) in &spoken {
            if !server_names::silence(&spoken, clause) {
                found.add(clause, *exact, self.plugins)?;
            }
        }
        found.agree()?;
        let tls = found.server_names();
        let of_bindings = bound.first().map(|b| b.binding.protocol);
        let Some(protocol) = found.protocol().or(of_bindings).or(found.inside()) else {
            return Ok(Settled::plain(Verdict::Allow, allowed));
        };
        let mut chain: Vec<PluginUse> = found.plugin().into_iter().collect();
        let mut http = HttpOptions::default();
        for bound in &bound {
            if bound.binding.protocol != protocol {
                return Err(Box::new(binding_conflict(bound, protocol)));
            }
            if found.ends.is_some() && protocol != L7Protocol::Http {
                return Err(Box::new(not_inside(bound)));
            }
            http = http.and(bound.binding.http);
            let Some(plugin) = &bound.binding.plugin else {
                continue;
            };
            chain.push(PluginUse {
                plugin: plugin.clone(),
                config: bound.binding.config.clone(),
                fail_mode: bound.binding.fail_mode,
                rules: vec![bound.rule],
                bound: true,
                in_shadow: false,
            });
        }
        let rule = match (found.rule, allowed, bound.first()) {
            (Some(rule), ..) => rule,
            (None, RuleId(0), Some(bound)) => bound.rule,
            (None, ..) => allowed,
        };
        Ok(Settled {
            verdict: Verdict::Redirect,
            rule,
            set: Some(L7RuleSet {
                protocol,
                chain,
                http,
                tls,
                contexts: found.contexts,
                shadow: None,
            }),
        })
    }
}

fn not_inside(bound: &FlatBinding) -> Problem {
    bound.binding.meta.problem(
        &bound.binding.protocol_at,
        "TLS ends at the proxy on this port, and of what is inside only HTTP is read".to_owned(),
        "bind with protocol http, or to another port",
    )
}

fn binding_conflict(bound: &FlatBinding, protocol: L7Protocol) -> Problem {
    let protocol = protocol.name();
    bound.binding.meta.problem(
        &bound.binding.protocol_at,
        format!("the port carries {protocol} by another rule"),
        "bind to another port, or with the same protocol",
    )
}
