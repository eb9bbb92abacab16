//! From documents to one generation of tables.
//!
//! All precedence is settled here: each row is complete for its identity, so that
//! kernel, proxy and `explain` only look up.

mod clause;
mod decide;
mod names;
mod rows;
mod services;
mod universe;

pub(crate) use self::services::target_port;

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use self::{
    clause::{Clause, FlatSpec, Register, flatten},
    decide::{Bound, Context, Otherwise, Refusal, RuleSets},
    rows::{Speaker, Term},
    universe::Universe,
};
use crate::{
    compiled::{
        Compiled, CompiledEndpoint, Decision, DefaultDeny, Direction, PolicyRow, PortMatch, Verdict,
    },
    ids::{Exhausted, Ids},
    input::{Endpoint, Input, Mode, PluginBinding},
    labels::Label,
    peer::{Peer, PeerKind},
    problem::{Problem, Severity},
    rule::{Policy, PortNames, PortRange, Ports, Rule},
};

/// Default deny by nobody in particular.
const DENY_ALL: Decision = Decision {
    verdict: Verdict::DefaultDeny,
    rule: 0,
    l7: 0,
    shadow: None,
};
/// No rule has anything to say.
const ALLOW_ALL: Decision = Decision {
    verdict: Verdict::Allow,
    rule: 0,
    l7: 0,
    shadow: None,
};

/// Compiles everything. Errors name the document they belong to
/// ([`Problem::document`]): without it, or with its last good version, the rest compiles.
pub fn compile(input: &Input, ids: &mut Ids) -> Result<Compiled, Vec<Problem>> {
    let mut problems = names::check(input);
    ids.begin();
    let result = assemble(input, ids, &mut problems);
    ids.end();
    match result {
        Ok(compiled) if problems.is_empty() => Ok(compiled),
        Ok(_) => {
            names::say_once(&mut problems);
            problems.dedup();
            Err(problems)
        }
        Err(exhausted) => {
            problems.push(out_of_numbers(exhausted));
            Err(problems)
        }
    }
}

fn out_of_numbers(exhausted: Exhausted) -> Problem {
    Problem {
        file: String::new(),
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
fn by_name<T>(items: &[T], key: impl Fn(&T) -> String) -> Vec<&T> {
    let mut sorted: Vec<&T> = items.iter().collect();
    sorted.sort_by_cached_key(|item| key(item));
    sorted
}

fn assemble(
    input: &Input,
    ids: &mut Ids,
    problems: &mut Vec<Problem>,
) -> Result<Compiled, Exhausted> {
    let universe = universe::build(input, ids, problems)?;
    let mut register = Register::new(&mut ids.rules);

    let mut rules: Vec<&Rule> = Vec::new();
    let mut specs: Vec<FlatSpec<'_>> = Vec::new();
    if input.mode != Mode::Never {
        for policy in by_name(&input.policies, |p: &Policy| p.meta.key()) {
            for spec in &policy.specs {
                specs.push(flatten(&policy.meta, spec, &mut register, &mut rules)?);
            }
        }
    }
    let mut bindings = Vec::new();
    for binding in by_name(&input.bindings, |b: &PluginBinding| b.meta.key()) {
        let rule = register.id(&binding.meta, &binding.meta.at)?;
        bindings.push(Bound { rule, binding });
    }
    let mut deny_list = BTreeMap::new();
    for list in by_name(&input.deny_lists, |list| list.meta.key()) {
        for (at, net) in &list.cidrs {
            let id = register.id(&list.meta, at)?;
            deny_list.entry(*net).or_insert(id);
        }
    }
    let rule_texts = register.rules;

    let mut tables = Tables {
        input,
        universe: &universe,
        specs: &specs,
        bindings: &bindings,
        selected: selection(&rules, &universe.peers),
        sets: RuleSets::new(&mut ids.l7),
        done: HashMap::new(),
        problems: Vec::new(),
    };
    let mut endpoints = BTreeMap::new();
    for (endpoint, (id, identity)) in input.endpoints.iter().zip(&universe.endpoints) {
        let (default_deny, table) = tables.of(endpoint)?;
        let compiled = CompiledEndpoint {
            name: endpoint.meta.full_name(),
            identity: *identity,
            location: endpoint.location.clone(),
            addresses: endpoint.addresses.clone(),
            fast_lane: endpoint.fast_lane,
            default_deny,
            table: table.to_vec(),
        };
        endpoints.insert(*id, compiled);
    }
    problems.append(&mut tables.problems);
    let l7 = tables.sets.sets;
    let services = services::compile(input, &universe.endpoints, &mut ids.services, problems)?;
    Ok(Compiled {
        identities: identities(&universe),
        fqdn: fqdn(&universe),
        fqdn_in_shadow: universe.in_shadow,
        ipcache: universe.ipcache,
        endpoints,
        rules: rule_texts,
        l7,
        deny_list,
        services,
    })
}

fn identities(universe: &Universe) -> BTreeMap<u32, Vec<String>> {
    let known = universe
        .peers
        .iter()
        .filter(|p| p.kind != PeerKind::Unknown);
    known
        .map(|p| (p.id, p.labels.iter().map(Label::to_string).collect()))
        .collect()
}

fn fqdn(universe: &Universe) -> BTreeMap<u32, crate::compiled::FqdnSelector> {
    let of = |peer: &Peer| match &peer.kind {
        PeerKind::Fqdn(selector) => Some((peer.id, selector.clone())),
        _ => None,
    };
    universe.peers.iter().filter_map(of).collect()
}

/// Who is selected: per rule, per peer.
fn selection(rules: &[&Rule], peers: &[Peer]) -> Vec<Vec<bool>> {
    let row = |rule: &&Rule| {
        peers
            .iter()
            .map(|peer| peer.is_among(&rule.peers))
            .collect()
    };
    rules.iter().map(row).collect()
}

/// What decides which table an endpoint gets; endpoints that agree share one.
#[derive(PartialEq, Eq, Hash)]
struct TableKey {
    specs: Vec<usize>,
    bindings: Vec<usize>,
    ports: PortNames,
}

type Table = (DefaultDeny, Rc<[PolicyRow]>);

/// Policy tables, made as endpoints ask for them.
struct Tables<'c, 'p, 'i> {
    input: &'p Input,
    universe: &'c Universe,
    specs: &'c [FlatSpec<'p>],
    bindings: &'c [Bound<'p>],
    selected: Vec<Vec<bool>>,
    sets: RuleSets<'i>,
    done: HashMap<TableKey, Table>,
    problems: Vec<Problem>,
}

impl<'p> Tables<'_, 'p, '_> {
    /// The table of an endpoint, and which directions are in default deny.
    fn of(&mut self, endpoint: &Endpoint) -> Result<Table, Exhausted> {
        let positions = |selects: &dyn Fn(usize) -> bool, len: usize| -> Vec<usize> {
            (0..len).filter(|index| selects(*index)).collect()
        };
        let key = TableKey {
            specs: positions(
                &|i| self.specs[i].spec.subject.matches(&endpoint.labels),
                self.specs.len(),
            ),
            bindings: positions(
                &|i| self.bindings[i].binding.subject.matches(&endpoint.labels),
                self.bindings.len(),
            ),
            ports: endpoint.port_names(),
        };
        if let Some(table) = self.done.get(&key) {
            return Ok(table.clone());
        }
        let mut rows = Vec::new();
        let mut deny = DefaultDeny::default();
        for direction in [Direction::Ingress, Direction::Egress] {
            let otherwise = Otherwise {
                enforced: self.otherwise(&key, direction, |spec| !spec.shadow),
                rehearsed: self.otherwise(&key, direction, |_| true),
            };
            let denies = otherwise.enforced.verdict != Verdict::Allow;
            match direction {
                Direction::Ingress => deny.ingress = denies,
                Direction::Egress => deny.egress = denies,
            }
            self.rows(&key, direction, otherwise, &mut rows)?;
        }
        let table: Table = (deny, rows.into());
        self.done.insert(key, table.clone());
        Ok(table)
    }

    /// What happens to traffic that no rule of these specs allows.
    fn otherwise(
        &self,
        key: &TableKey,
        direction: Direction,
        counts: impl Fn(&FlatSpec<'_>) -> bool,
    ) -> Decision {
        let mut specs = key.specs.iter().map(|index| &self.specs[*index]);
        let first = specs.find(|s| counts(s) && s.spec.denies_by_default(direction));
        match (first, self.input.mode) {
            (_, Mode::Never) => ALLOW_ALL,
            (Some(spec), _) => Decision {
                rule: spec.id,
                ..DENY_ALL
            },
            (None, Mode::Always) => DENY_ALL,
            (None, Mode::Default) => ALLOW_ALL,
        }
    }

    /// Adds the rows of one direction: the wildcard's, and that of every identity
    /// that differs from it.
    fn rows(
        &mut self,
        key: &TableKey,
        direction: Direction,
        otherwise: Otherwise,
        rows: &mut Vec<PolicyRow>,
    ) -> Result<(), Exhausted> {
        let specs = key.specs.iter().map(|index| &self.specs[*index]);
        let clauses: Vec<&Clause<'p>> = specs
            .flat_map(|spec| &spec.clauses)
            .filter(|clause| clause.direction == direction)
            .collect();
        let context = Context {
            clauses: &clauses,
            bindings: self.bindings,
            otherwise,
            plugins: &self.input.plugins,
        };
        let mut decided: HashMap<Vec<Speaker>, Decision> = HashMap::new();
        let mut built: HashMap<Vec<Term>, Rc<[(PortMatch, Decision)]>> = HashMap::new();
        let mut wildcard: Option<Rc<[(PortMatch, Decision)]>> = None;
        for (position, peer) in self.universe.peers.iter().enumerate() {
            let names = match direction {
                Direction::Ingress => &key.ports,
                Direction::Egress => &peer.ports,
            };
            let mut terms = Vec::new();
            for (index, clause) in clauses.iter().enumerate() {
                if self.selected[clause.rule][position] {
                    clause_terms(index, clause.ports, names, &mut terms);
                }
            }
            for index in &key.bindings {
                binding_terms(
                    *index,
                    self.bindings[*index].binding,
                    direction,
                    peer,
                    &mut terms,
                );
            }
            let entries = match built.get(&terms) {
                Some(entries) => Rc::clone(entries),
                None => {
                    let mut failure = None;
                    let entries: Rc<[_]> = rows::build(&terms, |speakers| {
                        if let Some(decision) = decided.get(speakers) {
                            return *decision;
                        }
                        let decision = context.decide(speakers, &mut self.sets);
                        let decision = decision.unwrap_or_else(|refusal| {
                            match refusal {
                                Refusal::Conflict(problem) => self.problems.push(*problem),
                                Refusal::Exhausted(error) => failure = Some(error),
                            }
                            DENY_ALL
                        });
                        decided.insert(speakers.to_vec(), decision);
                        decision
                    })
                    .into();
                    if let Some(error) = failure {
                        return Err(error);
                    }
                    built.insert(terms, Rc::clone(&entries));
                    entries
                }
            };
            if wildcard.as_ref() == Some(&entries) {
                continue;
            }
            rows.extend(entries.iter().map(|(ports, decision)| PolicyRow {
                identity: peer.id,
                direction,
                ports: *ports,
                decision: *decision,
            }));
            wildcard.get_or_insert(entries);
        }
        Ok(())
    }
}

fn clause_terms(index: usize, ports: Option<&[Ports]>, names: &PortNames, terms: &mut Vec<Term>) {
    let Some(ports) = ports else {
        terms.push(Term {
            speaker: Speaker::Clause {
                index,
                exact: false,
            },
            protocol: None,
            first: 0,
            last: u16::MAX,
        });
        return;
    };
    for ports in ports {
        let exact = match ports.range {
            PortRange::All => false,
            PortRange::Numbers(first, last) => first == last,
            PortRange::Named(_) => true,
        };
        for (protocol, first, last) in ports.resolve(names) {
            terms.push(Term {
                speaker: Speaker::Clause { index, exact },
                protocol: Some(protocol),
                first,
                last,
            });
        }
    }
}

fn binding_terms(
    index: usize,
    binding: &PluginBinding,
    direction: Direction,
    peer: &Peer,
    terms: &mut Vec<Term>,
) {
    let of_peer = match &binding.peers {
        None => true,
        Some(_) if peer.kind == PeerKind::Unknown => false,
        Some(selectors) => selectors.iter().any(|(_, s)| s.matches(&peer.labels)),
    };
    if binding.direction != direction || !of_peer {
        return;
    }
    for protocol in binding.transports() {
        for port in &binding.ports {
            terms.push(Term {
                speaker: Speaker::Binding(index),
                protocol: Some(*protocol),
                first: *port,
                last: *port,
            });
        }
    }
}
