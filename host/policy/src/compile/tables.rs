//! Policy tables: what applies to an endpoint, folded into complete rows.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
    sync::Arc,
};

use super::{
    ALLOW_ALL, DENY_ALL,
    clause::{Clause, Everybody, FlatBinding, FlatSpec},
    decide::{Context, Otherwise, Refusal, RuleSets},
    rows::{self, Speaker, Term},
};
use crate::{
    compiled::{Decision, DefaultDeny, L7RuleSet, PolicyRow, PortMatch, Verdict},
    ids::{Interner, NoNumber, Number},
    l7::L7Protocol,
    objects::{Mode, PluginBinding},
    peer::{Peer, PeerKind, reserved},
    problem::Problem,
    rule::{PortNames, PortRange, Ports},
    terms::{Direction, IdentityId, L7Id},
};

/// Tables in use, by everything they follow from: whoever agrees in it shares one, and the
/// same one goes on until something of it changes.
#[derive(Debug, Default)]
pub(super) struct Tables {
    made: HashMap<Arc<Key>, Shared>,
}

/// A table and how many endpoints use it.
#[derive(Debug)]
struct Shared {
    table: Table,
    users: usize,
}

/// What a table follows from. A stamp stands for what was written and for who is selected.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    specs: Vec<u64>,
    bindings: Vec<u64>,
    /// Ports of the subject.
    ports: PortNames,
    /// Stands for the ports of all peers, if those count.
    ports_of_peers: u64,
}

/// A policy table.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) default_deny: DefaultDeny,
    pub(super) rows: Arc<[PolicyRow]>,
    /// L7 rule sets that its rows name.
    pub(super) sets: Arc<BTreeMap<L7Id, (Number, Arc<L7RuleSet>)>>,
    /// What the proxy unites of it, see [`crate::compiled::Compiled::outward`].
    pub(super) outward: Option<Arc<[PolicyRow]>>,
}

/// What applies to a label set, in the order of the documents' names.
#[derive(Debug, Default)]
pub(super) struct Applying<'s> {
    pub(super) specs: Vec<&'s FlatSpec>,
    pub(super) bindings: Vec<&'s FlatBinding>,
}

/// What is the same for all tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node<'s> {
    pub(super) everybody: &'s Everybody,
    pub(super) mode: Mode,
    pub(super) plugins: &'s BTreeMap<String, L7Protocol>,
    /// Another number whenever the ports of some peer are others.
    pub(super) ports_of_peers: u64,
}

impl Tables {
    /// The table of endpoints with these ports, to which this applies, and what it goes by.
    /// Without that it is no table: it contradicts itself, and has to be told of again.
    pub(super) fn of(
        &self,
        applying: &Applying<'_>,
        ports: &PortNames,
        node: &Node<'_>,
        numbers: &mut Interner,
        problems: &mut Vec<Problem>,
    ) -> Result<Option<(Arc<Key>, Table)>, NoNumber> {
        let mut clauses = applying.specs.iter().flat_map(|spec| &spec.clauses);
        let key = Key {
            specs: applying.specs.iter().map(|spec| spec.stamp).collect(),
            bindings: applying.bindings.iter().map(|b| b.stamp).collect(),
            ports: ports.clone(),
            ports_of_peers: match clauses.any(Clause::names_ports_of_peers) {
                true => node.ports_of_peers,
                false => 0,
            },
        };
        if let Some((key, known)) = self.made.get_key_value(&key) {
            return Ok(Some((key.clone(), known.table.clone())));
        }
        let mut made = Made {
            sets: RuleSets::new(numbers),
            problems: Vec::new(),
        };
        let maker = Maker {
            applying,
            ports,
            node,
        };
        let (default_deny, rows) = maker.make(&mut made)?;
        if !made.problems.is_empty() {
            problems.append(&mut made.problems);
            return Ok(None);
        }
        let table = Table {
            default_deny,
            outward: outward(&rows, node.everybody),
            rows: rows.into(),
            sets: Arc::new(made.sets.sets),
        };
        Ok(Some((Arc::new(key), table)))
    }

    /// One more endpoint uses a table. Is it the first?
    pub(super) fn hold(&mut self, key: &Arc<Key>, table: &Table) -> bool {
        let shared = self.made.entry(key.clone()).or_insert_with(|| Shared {
            table: table.clone(),
            users: 0,
        });
        shared.users += 1;
        shared.users == 1
    }

    /// One endpoint less uses a table. It comes back if it was the last.
    pub(super) fn release(&mut self, key: &Arc<Key>) -> Option<Table> {
        let shared = self.made.get_mut(key)?;
        shared.users -= 1;
        match shared.users {
            0 => self.made.remove(key).map(|shared| shared.table),
            _ => None,
        }
    }
}

/// Egress rows about the world outside, where an address that a name resolved to may have
/// several rule sets.
fn outward(rows: &[PolicyRow], everybody: &Everybody) -> Option<Arc<[PolicyRow]>> {
    let is_outward = |row: &&PolicyRow| {
        row.direction == Direction::Egress
            && (row.identity == reserved::ANY || reserved::is_outside(row.identity))
    };
    let is_name = |row: &PolicyRow| {
        let peer = everybody.get(&row.identity);
        peer.is_some_and(|peer| matches!(peer.kind, PeerKind::Fqdn(_)))
    };
    let rows: Vec<PolicyRow> = rows.iter().filter(is_outward).copied().collect();
    let mut asks = rows.iter();
    let asks = asks.any(|row| row.decision.verdict == Verdict::Redirect);
    (asks && rows.iter().any(is_name)).then(|| rows.into())
}

/// Makes one table.
#[derive(Clone, Copy)]
struct Maker<'m> {
    applying: &'m Applying<'m>,
    ports: &'m PortNames,
    node: &'m Node<'m>,
}

/// What comes of it besides rows.
struct Made<'i> {
    sets: RuleSets<'i>,
    problems: Vec<Problem>,
}

type Entries = Rc<[(PortMatch, Decision)]>;

impl<'m> Maker<'m> {
    fn make(self, made: &mut Made<'_>) -> Result<(DefaultDeny, Vec<PolicyRow>), NoNumber> {
        let mut rows = Vec::new();
        let mut deny = DefaultDeny::default();
        for direction in [Direction::Ingress, Direction::Egress] {
            let otherwise = Otherwise {
                enforced: self.otherwise(direction, |spec| !spec.is_shadow()),
                rehearsed: self.otherwise(direction, |_| true),
            };
            let denies = otherwise.enforced.verdict != Verdict::Allow;
            match direction {
                Direction::Ingress => deny.ingress = denies,
                Direction::Egress => deny.egress = denies,
            }
            self.rows(direction, otherwise, made, &mut rows)?;
        }
        Ok((deny, rows))
    }

    /// What happens to traffic that no rule of these specs allows.
    fn otherwise(self, direction: Direction, counts: impl Fn(&FlatSpec) -> bool) -> Decision {
        let mut specs = self.applying.specs.iter();
        let first = specs.find(|spec| counts(spec) && spec.denies_by_default(direction));
        match (first, self.node.mode) {
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
        self,
        direction: Direction,
        otherwise: Otherwise,
        made: &mut Made<'_>,
        rows: &mut Vec<PolicyRow>,
    ) -> Result<(), NoNumber> {
        let specs = self.applying.specs.iter();
        let clauses: Vec<(&Clause, Option<&BTreeSet<IdentityId>>)> = specs
            .flat_map(|spec| {
                spec.clauses
                    .iter()
                    .map(|clause| (clause, spec.peers_of(clause)))
            })
            .filter(|(clause, _)| clause.direction == direction)
            .collect();
        let plain: Vec<&Clause> = clauses.iter().map(|(clause, _)| *clause).collect();
        let context = Context {
            clauses: &plain,
            bindings: &self.applying.bindings,
            otherwise,
            plugins: self.node.plugins,
        };
        let mut decided: HashMap<Vec<Speaker>, Decision> = HashMap::new();
        let mut built: HashMap<Vec<Term>, Entries> = HashMap::new();
        let mut wildcard: Option<Entries> = None;
        for peer in self.spoken_of(direction, &clauses) {
            let names = match direction {
                Direction::Ingress => self.ports,
                Direction::Egress => &peer.ports,
            };
            let mut terms = Vec::new();
            for (index, (clause, selected)) in clauses.iter().enumerate() {
                if selected.is_none_or(|selected| selected.contains(&peer.id)) {
                    clause_terms(index, clause.ports.as_deref(), names, &mut terms);
                }
            }
            for (index, bound) in self.applying.bindings.iter().enumerate() {
                let selected = bound.peers.as_ref();
                if bound.binding.direction == direction
                    && selected.is_none_or(|selected| selected.contains(&peer.id))
                {
                    binding_terms(index, &bound.binding, &mut terms);
                }
            }
            let entries = match built.get(&terms) {
                Some(entries) => Rc::clone(entries),
                None => {
                    let mut failure = None;
                    let entries: Entries = rows::build(&terms, |speakers| {
                        if let Some(decision) = decided.get(speakers) {
                            return *decision;
                        }
                        let decision = context.decide(speakers, &mut made.sets);
                        let decision = decision.unwrap_or_else(|refusal| {
                            match refusal {
                                Refusal::Conflict(problem) => made.problems.push(*problem),
                                Refusal::NoNumber(error) => failure = Some(error),
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

    /// The wildcard first, then every peer that something says more of than of anybody. What
    /// is said of all the others is what is said of the wildcard.
    fn spoken_of(
        self,
        direction: Direction,
        clauses: &[(&Clause, Option<&BTreeSet<IdentityId>>)],
    ) -> Vec<&'m Peer> {
        let everybody = self.node.everybody;
        let bindings = self.applying.bindings.iter();
        let bindings = bindings.filter(|bound| bound.binding.direction == direction);
        let selected = clauses.iter().filter_map(|(_, selected)| *selected);
        let selected = selected.chain(bindings.filter_map(|bound| bound.peers.as_ref()));
        let mut ids: BTreeSet<IdentityId> = selected.flatten().copied().collect();
        // A rule about anybody may name a port that only some have.
        let by_name = |(clause, selected): &(&Clause, Option<_>)| {
            selected.is_none() && clause.names_ports_of_peers()
        };
        if clauses.iter().any(by_name) {
            let with_ports = everybody.values().filter(|peer| !peer.ports.is_empty());
            ids.extend(with_ports.map(|peer| peer.id));
        }
        ids.insert(reserved::ANY);
        ids.iter().filter_map(|id| everybody.get(id)).collect()
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

fn binding_terms(index: usize, binding: &PluginBinding, terms: &mut Vec<Term>) {
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
