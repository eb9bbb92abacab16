//! From documents to one generation of tables.
//!
//! All precedence is settled here: each row is complete for its identity, so that
//! kernel, proxy and `explain` only look up.

mod claims;
mod clause;
mod decide;
mod rows;
mod server_names;
mod services;
mod tables;
mod universe;

pub(crate) use self::services::target_port;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use self::{
    claims::Claims,
    clause::{FlatBinding, FlatPolicy, Register, Stamps, Texts},
    services::Services,
    tables::{Applying, Node, Table, Tables},
    universe::{Moves, Universe},
};
use crate::{
    compiled::{Compiled, CompiledEndpoint, Decision, RuleInfo, Verdict},
    follow::{Delta, Followed},
    ids::{Exhausted, Ids, Interner},
    l7::L7Protocol,
    objects::{DenyList, Endpoint, Input, Mode, PluginBinding, Policy, Service},
    origin::ObjectKey,
    problem::{Problem, Severity},
    terms::{EndpointId, IdentityId, RuleId},
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

/// Compiles everything from scratch: see [`Compiler::compile`].
pub fn compile(input: &Input, ids: &mut Ids) -> Result<Compiled, Vec<Problem>> {
    Compiler::default().compile(input, ids)
}

/// Compiles one state of the documents after the other. What follows from objects that are
/// the same as before, not merely equal, is not worked out again; what comes out is what
/// [`compile()`] makes of the last state alone.
#[derive(Debug, Default)]
pub struct Compiler {
    /// If it is another one, nothing of what is known counts.
    footing: Footing,
    followed: FollowedKinds,
    claims: Claims,
    state: State,
}

/// What every decision rests on.
#[derive(Debug, Default, PartialEq)]
struct Footing {
    mode: Mode,
    plugins: BTreeMap<String, L7Protocol>,
}

/// Objects that were there, by kind.
#[derive(Debug, Default)]
struct FollowedKinds {
    endpoints: Followed<Endpoint>,
    policies: Followed<Policy>,
    services: Followed<Service>,
    lists: Followed<DenyList>,
    bindings: Followed<PluginBinding>,
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

impl FollowedKinds {
    fn look(&mut self, input: &Input) -> News {
        News {
            endpoints: self.endpoints.look(&input.endpoints),
            policies: self.policies.look(&input.policies),
            services: self.services.look(&input.services),
            lists: self.lists.look(&input.deny_lists),
            bindings: self.bindings.look(&input.bindings),
        }
    }

    fn accept(&mut self, news: &News) {
        self.endpoints.accept(&news.endpoints);
        self.policies.accept(&news.policies);
        self.services.accept(&news.services);
        self.lists.accept(&news.lists);
        self.bindings.accept(&news.bindings);
    }
}

impl Compiler {
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
        let news = self.followed.look(input);
        if !self.claims.follow(&news) {
            // What is known is about the state before, where everything existed once.
            self.claims.forget(&news);
            return Err(claims::problems(input));
        }
        self.followed.accept(&news);
        let mut problems = Vec::new();
        let followed = self.state.follow(&news, &self.footing, ids);
        let result = followed.and_then(|()| {
            self.state
                .compiled(input, &self.footing, &mut ids.l7, &mut problems)
        });
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

fn out_of_numbers(exhausted: Exhausted) -> Problem {
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

/// What follows from the objects there are. By name, so that the order of files never
/// matters.
#[derive(Debug, Default)]
struct State {
    universe: Universe,
    policies: BTreeMap<ObjectKey, FlatPolicy>,
    bindings: BTreeMap<ObjectKey, FlatBinding>,
    lists: BTreeMap<ObjectKey, (Arc<DenyList>, Texts)>,
    services: Services,
    tables: Tables,
    endpoints: HashMap<EndpointId, Arc<CompiledEndpoint>>,
    stamps: Stamps,
    /// Stands for the ports of all peers: see [`Node::ports_of_peers`].
    ports_of_peers: u64,
}

impl State {
    /// Takes in what came and went, and gives it numbers.
    fn follow(&mut self, news: &News, footing: &Footing, ids: &mut Ids) -> Result<(), Exhausted> {
        for policy in &news.policies.gone {
            self.policies.remove(&policy.meta.key());
        }
        for binding in &news.bindings.gone {
            self.bindings.remove(&binding.meta.key());
        }
        for list in &news.lists.gone {
            self.lists.remove(&list.meta.key());
        }
        let mut moves = Moves::default();
        self.universe
            .follow_endpoints(&news.endpoints, ids, &mut moves)?;
        if !news.policies.is_empty() {
            let stayed = self.policies.values().map(|flat| &*flat.policy);
            let all = stayed.chain(news.policies.come.iter().map(|policy| &**policy));
            self.universe.follow_policies(all, ids, &mut moves)?;
        }
        if moves.ports {
            self.ports_of_peers = self.stamps.next();
        }
        let everybody = &self.universe.peers;
        if !moves.is_none() {
            for policy in self.policies.values_mut() {
                policy.follow(&moves, everybody, &mut self.stamps);
            }
            for binding in self.bindings.values_mut() {
                binding.follow(&moves, everybody, &mut self.stamps);
            }
        }
        for policy in by_name(&news.policies.come, |policy| policy.meta.key()) {
            let flat = match footing.mode {
                Mode::Never => FlatPolicy::idle(policy),
                _ => FlatPolicy::new(policy, &mut ids.rules, everybody, &mut self.stamps)?,
            };
            self.policies.insert(policy.meta.key(), flat);
        }
        for binding in by_name(&news.bindings.come, |binding| binding.meta.key()) {
            let flat = FlatBinding::new(binding, &mut ids.rules, everybody, &mut self.stamps)?;
            self.bindings.insert(binding.meta.key(), flat);
        }
        for list in by_name(&news.lists.come, |list| list.meta.key()) {
            let mut register = Register::new(&mut ids.rules, &list.meta);
            for (at, _) in &list.cidrs {
                register.id(at)?;
            }
            let texts = register.texts;
            self.lists.insert(list.meta.key(), (list.clone(), texts));
        }
        self.services.follow(
            &news.services,
            &news.endpoints,
            &self.universe,
            &mut ids.services,
        )
    }

    /// One generation of what there is now.
    fn compiled(
        &mut self,
        input: &Input,
        footing: &Footing,
        l7: &mut Interner,
        problems: &mut Vec<Problem>,
    ) -> Result<Compiled, Exhausted> {
        let mut compiled = Compiled {
            identities: self.universe.labels.clone(),
            fqdn: self.universe.fqdn(),
            fqdn_in_shadow: self.universe.in_shadow.clone(),
            ipcache: self.universe.ipcache(&input.node_addresses),
            rules: self.rules(),
            services: self.services.all(),
            ..Compiled::default()
        };
        for (list, texts) in self.lists.values() {
            for ((_, net), (number, _)) in list.cidrs.iter().zip(texts) {
                compiled.deny_list.entry(*net).or_insert(number.get());
            }
        }
        let mut applying: HashMap<IdentityId, Applying<'_>> = HashMap::new();
        for spec in self.policies.values().flat_map(|policy| &policy.specs) {
            for subject in &spec.subjects {
                applying.entry(*subject).or_default().specs.push(spec);
            }
        }
        for bound in self.bindings.values() {
            for subject in &bound.subjects {
                applying.entry(*subject).or_default().bindings.push(bound);
            }
        }
        let node = Node {
            everybody: &self.universe.peers,
            mode: footing.mode,
            plugins: &footing.plugins,
            ports_of_peers: self.ports_of_peers,
        };
        let nothing = Applying::default();
        self.tables.begin();
        for (name, placed) in &self.universe.endpoints {
            let applies = applying.get(&placed.identity).unwrap_or(&nothing);
            let table = self
                .tables
                .of(applies, &placed.ports, &node, l7, problems)?;
            for (id, (_, set)) in &*table.sets {
                compiled.l7.entry(*id).or_insert_with(|| set.clone());
            }
            let id = placed.id.get();
            let before = self.endpoints.get(&id);
            let endpoint = match before.filter(|before| is_as(before, name, placed, &table)) {
                Some(before) => before.clone(),
                None => Arc::new(CompiledEndpoint {
                    name: name.clone(),
                    identity: placed.identity,
                    location: placed.endpoint.location.clone(),
                    addresses: placed.endpoint.addresses.clone(),
                    fast_lane: placed.endpoint.fast_lane,
                    default_deny: table.default_deny,
                    table: table.rows,
                }),
            };
            compiled.endpoints.insert(id, endpoint);
        }
        self.tables.end();
        let endpoints = compiled.endpoints.iter();
        self.endpoints = endpoints.map(|(id, e)| (*id, e.clone())).collect();
        Ok(compiled)
    }

    /// Where every rule was written.
    fn rules(&self) -> BTreeMap<RuleId, Arc<RuleInfo>> {
        let policies = self.policies.values().map(|policy| &policy.texts);
        let bindings = self.bindings.values().map(|bound| &bound.texts);
        let lists = self.lists.values().map(|(_, texts)| texts);
        let mut rules = BTreeMap::new();
        for (number, info) in policies.chain(bindings).chain(lists).flatten() {
            rules.entry(number.get()).or_insert_with(|| info.clone());
        }
        rules
    }
}

/// Is it the endpoint, with the very table, that was compiled before?
fn is_as(before: &CompiledEndpoint, name: &str, placed: &universe::Placed, table: &Table) -> bool {
    let endpoint = &placed.endpoint;
    Arc::ptr_eq(&before.table, &table.rows)
        && before.default_deny == table.default_deny
        && before.name == name
        && before.identity == placed.identity
        && before.location == endpoint.location
        && before.addresses == endpoint.addresses
        && before.fast_lane == endpoint.fast_lane
}

/// Documents sorted by name: the order of files never matters.
fn by_name<T>(items: &[Arc<T>], key: impl Fn(&T) -> ObjectKey) -> Vec<&Arc<T>> {
    let mut sorted: Vec<&Arc<T>> = items.iter().collect();
    sorted.sort_by_cached_key(|item| key(item));
    sorted
}
