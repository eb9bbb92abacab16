//! Documents, flattened: one clause per thing a packet can match.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::universe::Moves;
use crate::{
    compiled::RuleInfo,
    ids::{Interner, NoNumber, Number},
    l7::{FqdnSelector, HttpRule, KafkaRule},
    objects::{Meta, PluginBinding, Policy},
    origin::At,
    peer::{Peer, PeerKind},
    rule::{L7Rules, Peers, PortRange, PortRule, Ports, Spec, Traffic},
    terms::{Direction, IdentityId, RuleId},
    tls::TlsContexts,
};

/// Where a rule was written, by the number it holds.
pub(super) type Texts = Vec<(Number, Arc<RuleInfo>)>;

/// Numbers the rules of a document.
#[derive(Debug)]
pub(super) struct Register<'i> {
    numbers: &'i mut Interner,
    meta: &'i Meta,
    pub(super) texts: Texts,
}

impl<'i> Register<'i> {
    pub(super) fn new(numbers: &'i mut Interner, meta: &'i Meta) -> Self {
        Register {
            numbers,
            meta,
            texts: Vec::new(),
        }
    }

    /// The number of a rule.
    pub(super) fn id(&mut self, at: &At) -> Result<RuleId, NoNumber> {
        let meta = self.meta;
        let number = self.numbers.get(&format!("{} {}", meta.key(), at.rule()))?;
        let id = number.get();
        let info = RuleInfo {
            kind: meta.kind.to_owned(),
            namespace: meta.namespace.clone(),
            policy: meta.name.clone(),
            path: at.rule().to_owned(),
            origin: meta.origin.clone(),
            line: at.line,
            column: at.column,
        };
        self.texts.push((number, Arc::new(info)));
        Ok(RuleId(id))
    }
}

/// What is allowed or denied on some ports, by one rule.
#[derive(Debug)]
pub(super) struct Clause {
    pub(super) id: RuleId,
    pub(super) direction: Direction,
    pub(super) deny: bool,
    /// Ports; `None` means all of all protocols.
    pub(super) ports: Option<Vec<Ports>>,
    pub(super) l7: Option<L7Clause>,
    pub(super) tls: Option<TlsClause>,
    /// Index of its spec.
    spec: usize,
    /// Index of its rule, for who is selected.
    rule: usize,
    policy: Arc<Policy>,
    pub(super) at: At,
}

impl Clause {
    pub(super) fn meta(&self) -> &Meta {
        &self.policy.meta
    }

    pub(super) fn is_shadow(&self) -> bool {
        self.meta().is_shadow()
    }

    /// Whom it selects, as written.
    pub(super) fn peers(&self) -> &Peers {
        &self.policy.specs[self.spec].rules[self.rule].peers
    }

    /// Names that a client may ask for, if it lists some.
    pub(super) fn server_names(&self) -> Option<&[(RuleId, FqdnSelector)]> {
        match (&self.l7, &self.tls) {
            (Some(L7Clause::ServerNames(names)), _) => Some(names),
            (_, Some(tls)) if !tls.names.is_empty() => Some(&tls.names),
            _ => None,
        }
    }

    /// Does it name ports of the peer?
    pub(super) fn names_ports_of_peers(&self) -> bool {
        let is_name = |ports: &Ports| matches!(ports.range, PortRange::Named(_));
        self.direction == Direction::Egress && self.ports.iter().flatten().any(is_name)
    }
}

/// TLS that ends and begins at the proxy, with the names a client may ask for.
#[derive(Debug)]
pub(super) struct TlsClause {
    pub(super) contexts: TlsContexts,
    pub(super) names: Vec<(RuleId, FqdnSelector)>,
}

/// L7 rules of a clause, each with its number.
#[derive(Debug)]
pub(super) enum L7Clause {
    Http(Vec<(RuleId, HttpRule)>),
    Dns(Vec<(RuleId, FqdnSelector)>),
    Kafka(Vec<(RuleId, KafkaRule)>),
    ServerNames(Vec<(RuleId, FqdnSelector)>),
    Held(Vec<(RuleId, FqdnSelector)>),
    Plugin {
        at: At,
        name: String,
        rules: Vec<(RuleId, serde_json::Value)>,
    },
}

/// Identities that something selects; `None` means everybody, known or not.
type Selected = Option<BTreeSet<IdentityId>>;

/// The clauses of one spec, and the number of the spec itself (which stands for its
/// default deny).
#[derive(Debug)]
pub(super) struct FlatSpec {
    pub(super) id: RuleId,
    pub(super) clauses: Vec<Clause>,
    /// Label sets it applies to.
    pub(super) subjects: BTreeSet<IdentityId>,
    /// By rule: who is among its peers.
    peers: Vec<Selected>,
    /// Another number whenever a table could come out in another way because of it.
    pub(super) stamp: u64,
    policy: Arc<Policy>,
    index: usize,
}

impl FlatSpec {
    fn spec(&self) -> &Spec {
        &self.policy.specs[self.index]
    }

    pub(super) fn is_shadow(&self) -> bool {
        self.policy.meta.is_shadow()
    }

    pub(super) fn denies_by_default(&self, direction: Direction) -> bool {
        self.spec().denies_by_default(direction)
    }

    /// Who is among the peers of a clause; `None` means everybody.
    pub(super) fn peers_of(&self, clause: &Clause) -> Option<&BTreeSet<IdentityId>> {
        self.peers[clause.rule].as_ref()
    }

    /// Takes in identities that came and went. Whose tables are others now?
    fn follow(
        &mut self,
        moves: &Moves,
        everybody: &Everybody,
        stamps: &mut Stamps,
    ) -> BTreeSet<IdentityId> {
        let policy = self.policy.clone();
        let spec = &policy.specs[self.index];
        let mut touched = revise(&mut self.subjects, moves, everybody, &|peer| {
            is_subject(peer) && spec.subject.matches(&peer.labels)
        });
        let mut changed = false;
        for (rule, peers) in spec.rules.iter().zip(&mut self.peers) {
            if let Some(peers) = peers {
                let selects = |peer: &Peer| peer.is_among(&rule.peers);
                changed |= !revise(peers, moves, everybody, &selects).is_empty();
            }
        }
        if changed {
            self.stamp = stamps.next();
            touched.extend(&self.subjects);
        }
        touched
    }
}

/// A policy, flattened.
#[derive(Debug)]
pub(super) struct FlatPolicy {
    pub(super) specs: Vec<FlatSpec>,
    pub(super) texts: Texts,
}

impl FlatPolicy {
    /// One whose rules are not applied at all.
    pub(super) fn idle() -> Self {
        Self {
            specs: Vec::new(),
            texts: Vec::new(),
        }
    }

    pub(super) fn new(
        policy: &Arc<Policy>,
        numbers: &mut Interner,
        everybody: &Everybody,
        stamps: &mut Stamps,
    ) -> Result<Self, NoNumber> {
        let mut register = Register::new(numbers, &policy.meta);
        let mut specs = Vec::new();
        for (index, spec) in policy.specs.iter().enumerate() {
            let id = register.id(&spec.at)?;
            let mut flat = FlatSpec {
                id,
                clauses: flatten(policy, index, &mut register)?,
                subjects: BTreeSet::new(),
                peers: spec
                    .rules
                    .iter()
                    .map(|rule| nobody_yet(&rule.peers))
                    .collect(),
                stamp: stamps.next(),
                policy: policy.clone(),
                index,
            };
            flat.follow(&Moves::all(everybody), everybody, stamps);
            specs.push(flat);
        }
        let texts = register.texts;
        Ok(Self { specs, texts })
    }

    /// Identities came and went. Whose tables are others now?
    pub(super) fn follow(
        &mut self,
        moves: &Moves,
        everybody: &Everybody,
        stamps: &mut Stamps,
    ) -> BTreeSet<IdentityId> {
        let specs = self.specs.iter_mut();
        specs
            .flat_map(|spec| spec.follow(moves, everybody, stamps))
            .collect()
    }

    /// Label sets it applies to.
    pub(super) fn subjects(&self) -> BTreeSet<IdentityId> {
        let specs = self.specs.iter();
        specs.flat_map(|spec| &spec.subjects).copied().collect()
    }
}

fn nobody_yet(peers: &Peers) -> Selected {
    match peers {
        Peers::Any => None,
        Peers::Of(_) => Some(BTreeSet::new()),
    }
}

/// Everybody there is, by identity.
pub(super) type Everybody = BTreeMap<IdentityId, Peer>;

/// Gives each number once.
#[derive(Debug, Default)]
pub(super) struct Stamps(u64);

impl Stamps {
    pub(super) fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

/// Only label sets are subjects of policies.
fn is_subject(peer: &Peer) -> bool {
    peer.kind == PeerKind::Endpoint
}

/// Brings a selection up to date. Who came into it, or left it?
fn revise(
    selected: &mut BTreeSet<IdentityId>,
    moves: &Moves,
    everybody: &Everybody,
    selects: &dyn Fn(&Peer) -> bool,
) -> BTreeSet<IdentityId> {
    let mut changed = BTreeSet::new();
    for identity in &moves.gone {
        if selected.remove(identity) {
            changed.insert(*identity);
        }
    }
    for identity in &moves.come {
        if everybody.get(identity).is_some_and(selects) && selected.insert(*identity) {
            changed.insert(*identity);
        }
    }
    changed
}

/// A binding, and who it is about.
#[derive(Debug)]
pub(super) struct FlatBinding {
    pub(super) binding: Arc<PluginBinding>,
    pub(super) rule: RuleId,
    pub(super) texts: Texts,
    /// Label sets it applies to.
    pub(super) subjects: BTreeSet<IdentityId>,
    /// Its peers; `None` means everybody.
    pub(super) peers: Selected,
    /// As [`FlatSpec::stamp`].
    pub(super) stamp: u64,
}

impl FlatBinding {
    pub(super) fn new(
        binding: &Arc<PluginBinding>,
        numbers: &mut Interner,
        everybody: &Everybody,
        stamps: &mut Stamps,
    ) -> Result<Self, NoNumber> {
        let mut register = Register::new(numbers, &binding.meta);
        let rule = register.id(&binding.meta.at)?;
        let mut flat = Self {
            rule,
            texts: register.texts,
            subjects: BTreeSet::new(),
            peers: binding.peers.as_ref().map(|_| BTreeSet::new()),
            stamp: stamps.next(),
            binding: binding.clone(),
        };
        flat.follow(&Moves::all(everybody), everybody, stamps);
        Ok(flat)
    }

    /// Identities came and went. Whose tables are others now?
    pub(super) fn follow(
        &mut self,
        moves: &Moves,
        everybody: &Everybody,
        stamps: &mut Stamps,
    ) -> BTreeSet<IdentityId> {
        let binding = self.binding.clone();
        let mut touched = revise(&mut self.subjects, moves, everybody, &|peer| {
            is_subject(peer) && binding.subject.matches(&peer.labels)
        });
        if let (Some(selected), Some(selectors)) = (&mut self.peers, &binding.peers) {
            let selects = |peer: &Peer| {
                // Nothing is known of the wildcard's labels.
                peer.kind != PeerKind::Unknown
                    && selectors.iter().any(|(_, s)| s.matches(&peer.labels))
            };
            if !revise(selected, moves, everybody, &selects).is_empty() {
                self.stamp = stamps.next();
                touched.extend(&self.subjects);
            }
        }
        touched
    }
}

fn flatten(
    policy: &Arc<Policy>,
    index: usize,
    register: &mut Register<'_>,
) -> Result<Vec<Clause>, NoNumber> {
    let mut clauses = Vec::new();
    for (position, rule) in policy.specs[index].rules.iter().enumerate() {
        let clause = |id, at: &At, ports, (l7, tls)| Clause {
            id,
            direction: rule.direction,
            deny: rule.deny,
            spec: index,
            rule: position,
            ports,
            l7,
            tls,
            policy: policy.clone(),
            at: at.clone(),
        };
        match &rule.traffic {
            Traffic::All => {
                clauses.push(clause(register.id(&rule.at)?, &rule.at, None, (None, None)))
            }
            Traffic::Of(items) => {
                for item in items {
                    let id = register.id(&item.at)?;
                    let l7 = flatten_l7(item, register)?;
                    let tls = flatten_tls(item, register)?;
                    clauses.push(clause(id, &item.at, Some(item.ports.clone()), (l7, tls)));
                }
            }
        }
    }
    Ok(clauses)
}

fn flatten_l7(item: &PortRule, register: &mut Register<'_>) -> Result<Option<L7Clause>, NoNumber> {
    Ok(match &item.l7 {
        None => None,
        Some(L7Rules::Http(rules)) => Some(L7Clause::Http(number(rules, register)?)),
        Some(L7Rules::Dns(rules)) => Some(L7Clause::Dns(number(rules, register)?)),
        Some(L7Rules::Kafka(rules)) => Some(L7Clause::Kafka(number(rules, register)?)),
        Some(L7Rules::ServerNames(names)) => Some(L7Clause::ServerNames(number(names, register)?)),
        Some(L7Rules::Held(names)) => Some(L7Clause::Held(number(names, register)?)),
        Some(L7Rules::Plugin { at, name, rules }) => Some(L7Clause::Plugin {
            at: at.clone(),
            name: name.clone(),
            rules: number(rules, register)?,
        }),
    })
}

fn flatten_tls(
    item: &PortRule,
    register: &mut Register<'_>,
) -> Result<Option<TlsClause>, NoNumber> {
    let Some(tls) = &item.tls else {
        return Ok(None);
    };
    Ok(Some(TlsClause {
        contexts: tls.contexts.clone(),
        names: number(&tls.names, register)?,
    }))
}

fn number<T: Clone>(
    rules: &[(At, T)],
    register: &mut Register<'_>,
) -> Result<Vec<(RuleId, T)>, NoNumber> {
    let numbered = rules
        .iter()
        .map(|(at, rule)| Ok((register.id(at)?, rule.clone())));
    numbered.collect()
}
