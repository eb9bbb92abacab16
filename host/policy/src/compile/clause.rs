//! Rules, flattened: one clause per thing a packet can match.

use std::collections::BTreeMap;

use crate::{
    compiled::{Direction, FqdnSelector, HttpRule, RuleId, RuleInfo},
    ids::{Exhausted, Interner},
    input::Meta,
    rule::{At, L7Rules, PortRule, Ports, Rule, Spec, Traffic},
};

/// Rule texts by number, and the numbers of rules.
#[derive(Debug)]
pub(super) struct Register<'i> {
    numbers: &'i mut Interner,
    pub(super) rules: BTreeMap<RuleId, RuleInfo>,
}

impl<'i> Register<'i> {
    pub(super) fn new(numbers: &'i mut Interner) -> Self {
        Register {
            numbers,
            rules: BTreeMap::new(),
        }
    }

    /// The number of a rule of a document.
    pub(super) fn id(&mut self, meta: &Meta, at: &At) -> Result<RuleId, Exhausted> {
        let id = self.numbers.get(&format!("{} {}", meta.key(), at.rule()))?;
        self.rules.entry(id).or_insert_with(|| RuleInfo {
            kind: meta.kind.to_owned(),
            namespace: meta.namespace.clone(),
            policy: meta.name.clone(),
            path: at.rule().to_owned(),
            file: meta.file.clone(),
            line: at.line,
            column: at.column,
        });
        Ok(id)
    }
}

/// What is allowed or denied on some ports, by one rule.
#[derive(Debug)]
pub(super) struct Clause<'p> {
    pub(super) id: RuleId,
    pub(super) direction: Direction,
    pub(super) deny: bool,
    /// Index of the rule among all rules, for who is selected.
    pub(super) rule: usize,
    /// Ports; `None` means all of all protocols.
    pub(super) ports: Option<&'p [Ports]>,
    pub(super) l7: Option<L7Clause<'p>>,
    pub(super) meta: &'p Meta,
    pub(super) at: &'p At,
}

impl Clause<'_> {
    pub(super) fn is_shadow(&self) -> bool {
        self.meta.is_shadow()
    }
}

/// L7 rules of a clause, each with its number.
#[derive(Debug)]
pub(super) enum L7Clause<'p> {
    Http(Vec<(RuleId, &'p HttpRule)>),
    Dns(Vec<(RuleId, &'p FqdnSelector)>),
    Plugin {
        at: &'p At,
        name: &'p str,
        rules: Vec<(RuleId, &'p serde_json::Value)>,
    },
}

/// The clauses of one spec, and the number of the spec itself (which stands for its
/// default deny).
#[derive(Debug)]
pub(super) struct FlatSpec<'p> {
    pub(super) spec: &'p Spec,
    /// Of a document in shadow.
    pub(super) shadow: bool,
    pub(super) id: RuleId,
    pub(super) clauses: Vec<Clause<'p>>,
}

/// Flattens a spec. `rules` collects the rules that [`Clause::rule`] points at.
pub(super) fn flatten<'p>(
    meta: &'p Meta,
    spec: &'p Spec,
    register: &mut Register<'_>,
    rules: &mut Vec<&'p Rule>,
) -> Result<FlatSpec<'p>, Exhausted> {
    let id = register.id(meta, &spec.at)?;
    let mut clauses = Vec::new();
    for rule in &spec.rules {
        let position = rules.len();
        rules.push(rule);
        let clause = |id, at, ports, l7| Clause {
            id,
            direction: rule.direction,
            deny: rule.deny,
            rule: position,
            ports,
            l7,
            meta,
            at,
        };
        match &rule.traffic {
            Traffic::All => {
                clauses.push(clause(register.id(meta, &rule.at)?, &rule.at, None, None))
            }
            Traffic::Of(items) => {
                for item in items {
                    let id = register.id(meta, &item.at)?;
                    let l7 = flatten_l7(meta, item, register)?;
                    clauses.push(clause(id, &item.at, Some(&item.ports[..]), l7));
                }
            }
        }
    }
    Ok(FlatSpec {
        spec,
        shadow: meta.is_shadow(),
        id,
        clauses,
    })
}

fn flatten_l7<'p>(
    meta: &Meta,
    item: &'p PortRule,
    register: &mut Register<'_>,
) -> Result<Option<L7Clause<'p>>, Exhausted> {
    Ok(match &item.l7 {
        None => None,
        Some(L7Rules::Http(rules)) => Some(L7Clause::Http(number(meta, rules, register)?)),
        Some(L7Rules::Dns(rules)) => Some(L7Clause::Dns(number(meta, rules, register)?)),
        Some(L7Rules::Plugin { at, name, rules }) => Some(L7Clause::Plugin {
            at,
            name,
            rules: number(meta, rules, register)?,
        }),
    })
}

fn number<'p, T>(
    meta: &Meta,
    rules: &'p [(At, T)],
    register: &mut Register<'_>,
) -> Result<Vec<(RuleId, &'p T)>, Exhausted> {
    let numbered = rules
        .iter()
        .map(|(at, rule)| Ok((register.id(meta, at)?, rule)));
    numbered.collect()
}
