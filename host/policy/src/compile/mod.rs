//! From documents to one generation of tables.
//!
//! All precedence is settled here: each row is complete for its identity, so that
//! kernel, proxy and `explain` only look up.

mod applying;
mod claims;
mod clause;
mod decide;
mod denied;
mod gathered;
mod rows;
mod server_names;
mod services;
mod state;
mod tables;
mod universe;

pub(crate) use self::services::target_port;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::{claims::Claims, state::State, universe::joined};
use crate::{
    compiled::{Compiled, Decision, Verdict},
    follow::Delta,
    ids::{Ids, NoNumber},
    l7::L7Protocol,
    objects::{DenyList, Endpoint, Input, Mode, PluginBinding, Policy, Service},
    origin::ObjectKey,
    problem::{Problem, Severity},
    terms::{L7Id, RuleId},
};

/// Default deny by nobody in particular.
const DENY_ALL: Decision = Decision {
    verdict: Verdict::DefaultDeny,
    rule: RuleId(0),
    l7: L7Id(0),
    shadow: None,
};
/// No rule has anything to say.
const ALLOW_ALL: Decision = Decision {
    verdict: Verdict::Allow,
    rule: RuleId(0),
    l7: L7Id(0),
    shadow: None,
};

/// Compiles everything from scratch, with numbers of this node's own choice for label sets that
/// have none: see [`Compiler::compile`].
pub fn compile(input: &Input, ids: &mut Ids) -> Result<Compiled, Vec<Problem>> {
    let mut compiler = Compiler::default();
    let sets = compiler.unnumbered(input, ids);
    ids.number(&sets)
        .map_err(|error| vec![out_of_numbers(error)])?;
    compiler.compile(input, ids)
}

/// Compiles one state of the documents after the other. What follows from objects that are
/// the same as before, not merely equal, is not worked out again; what comes out is what
/// [`compile()`] makes of the last state alone.
#[derive(Debug, Default)]
pub struct Compiler {
    /// If it is another one, nothing of what is known counts.
    footing: Footing,
    /// The last state in which everything existed once.
    before: Input,
    claims: Claims,
    state: State,
}

/// What every decision rests on.
#[derive(Debug, Default, PartialEq)]
struct Footing {
    mode: Mode,
    plugins: BTreeMap<String, L7Protocol>,
}

/// Objects that came and went, by kind.
#[derive(Debug)]
struct News {
    endpoints: Delta<Endpoint>,
    policies: Delta<Policy>,
    services: Delta<Service>,
    lists: Delta<DenyList>,
    bindings: Delta<PluginBinding>,
}

impl News {
    fn between(before: &Input, now: &Input) -> Self {
        Self {
            endpoints: Delta::between(&before.endpoints, &now.endpoints),
            policies: Delta::between(&before.policies, &now.policies),
            services: Delta::between(&before.services, &now.services),
            lists: Delta::between(&before.deny_lists, &now.deny_lists),
            bindings: Delta::between(&before.bindings, &now.bindings),
        }
    }
}

impl Compiler {
    /// Label sets that need a number before this is compiled, and have none.
    pub fn unnumbered(&self, input: &Input, ids: &Ids) -> BTreeSet<String> {
        let news = Delta::between(&self.before.endpoints, &input.endpoints);
        let sets = news.come.iter().map(|endpoint| joined(&endpoint.labels));
        sets.filter(|set| !ids.knows(set)).collect()
    }

    /// Compiles everything. Errors name the document they belong to
    /// ([`Problem::document`]): without it, or with its last good version, the rest compiles.
    /// If something exists twice, that is all that is told.
    pub fn compile(&mut self, input: &Input, ids: &mut Ids) -> Result<Compiled, Vec<Problem>> {
        if self.footing.mode != input.mode || self.footing.plugins != input.plugins {
            *self = Self {
                footing: Footing {
                    mode: input.mode,
                    plugins: input.plugins.clone(),
                },
                ..Self::default()
            };
        }
        let news = News::between(&self.before, input);
        if !self.claims.follow(&news) {
            // What is known is about the state before, where everything existed once.
            self.claims.forget(&news);
            return Err(claims::problems(input));
        }
        self.before = input.clone();
        let mut problems = Vec::new();
        self.state.follow_node(&input.node_addresses);
        let followed = self.state.follow(&news, &self.footing, ids);
        let result = followed
            .and_then(|()| self.state.settle(&self.footing, &mut ids.l7, &mut problems))
            .map(|()| self.state.compiled());
        if result.is_err() {
            // It stopped halfway.
            *self = Self::default();
        }
        ids.end();
        match result {
            Ok(compiled) if problems.is_empty() => Ok(compiled),
            Ok(_) => {
                problems.dedup();
                Err(problems)
            }
            Err(exhausted) => {
                problems.push(out_of_numbers(exhausted));
                Err(problems)
            }
        }
    }
}

fn out_of_numbers(exhausted: NoNumber) -> Problem {
    Problem {
        origin: None,
        document: None,
        line: 1,
        column: 1,
        field: String::new(),
        value: None,
        message: exhausted.to_string(),
        hint: None,
        severity: Severity::Error,
    }
}

/// Documents sorted by name: the order of files never matters.
fn by_name<T>(items: &[Arc<T>], key: impl Fn(&T) -> ObjectKey) -> Vec<&Arc<T>> {
    let mut sorted: Vec<&Arc<T>> = items.iter().collect();
    sorted.sort_by_cached_key(|item| key(item));
    sorted
}
