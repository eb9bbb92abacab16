//! What follows from the objects there are, kept from one compilation to the next: a change
//! is worked out for what it has an influence on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Footing, News,
    applying::Selections,
    by_name,
    clause::{Clause, FlatBinding, FlatPolicy, Stamps, Texts},
    denied::Denied,
    services::Services,
    tables::{Key, Node, Table, Tables},
    universe::{Moves, Placed, Universe},
};
use crate::{
    compiled::{Compiled, CompiledEndpoint, L7RuleSet, PolicyRow, RuleInfo},
    ids::{Ids, Interner, NoNumber},
    objects::Mode,
    origin::ObjectKey,
    problem::Problem,
    shared::{Map, set},
    terms::{EndpointId, IdentityId, L7Id, RuleId},
};

/// What follows from the objects there are. By name, so that the order of files never
/// matters.
#[derive(Debug, Default)]
pub(super) struct State {
    universe: Universe,
    policies: BTreeMap<ObjectKey, FlatPolicy>,
    bindings: BTreeMap<ObjectKey, FlatBinding>,
    selections: Selections,
    denied: Denied,
    services: Services,
    tables: Tables,
    /// Endpoints by name: number, and the table they use.
    seats: HashMap<String, (EndpointId, Arc<Key>)>,
    /// Endpoints whose table may be another one than that.
    unsettled: BTreeSet<String>,
    endpoints: Map<EndpointId, Arc<CompiledEndpoint>>,
    outward: Map<EndpointId, Arc<[PolicyRow]>>,
    /// Where every rule was written.
    rules: Map<RuleId, Arc<RuleInfo>>,
    sets: Map<L7Id, Arc<L7RuleSet>>,
    /// Tables that name each of them.
    set_users: HashMap<L7Id, usize>,
    stamps: Stamps,
    /// Stands for the ports of all peers: see [`Node::ports_of_peers`].
    ports_of_peers: u64,
}

impl State {
    /// Takes in the node's own addresses.
    pub(super) fn follow_node(&mut self, addresses: &[IpAddr]) {
        self.universe.follow_node(addresses);
    }

    /// Takes in what came and went, and gives it numbers.
    pub(super) fn follow(
        &mut self,
        news: &News,
        footing: &Footing,
        ids: &mut Ids,
    ) -> Result<(), NoNumber> {
        let mut touched: BTreeSet<IdentityId> = BTreeSet::new();
        for policy in &news.policies.gone {
            let key = policy.meta.key();
            if let Some(flat) = self.policies.remove(&key) {
                let subjects = flat.subjects();
                self.selections.policy(&key, &subjects, &BTreeSet::new());
                touched.extend(subjects);
                self.forget_rules(&flat.texts);
            }
        }
        for binding in &news.bindings.gone {
            let key = binding.meta.key();
            if let Some(flat) = self.bindings.remove(&key) {
                let nobody = BTreeSet::new();
                self.selections.binding(&key, &flat.subjects, &nobody);
                touched.extend(&flat.subjects);
                self.forget_rules(&flat.texts);
            }
        }
        let mut moves = Moves::default();
        self.universe
            .follow_endpoints(&news.endpoints, ids, &mut moves)?;
        self.universe
            .follow_policies(&news.policies, ids, &mut moves)?;
        if !moves.is_none() {
            touched.extend(self.follow_moves(&moves));
        }
        if moves.ports {
            self.ports_of_peers = self.stamps.next();
            touched.extend(self.who_goes_by_ports_of_peers());
        }
        let everybody = &self.universe.peers;
        for policy in by_name(&news.policies.come, |policy| policy.meta.key()) {
            let flat = match footing.mode {
                Mode::Never => FlatPolicy::idle(),
                _ => FlatPolicy::new(policy, &mut ids.rules, everybody, &mut self.stamps)?,
            };
            let (key, subjects) = (policy.meta.key(), flat.subjects());
            self.selections.policy(&key, &BTreeSet::new(), &subjects);
            touched.extend(subjects);
            note_rules(&mut self.rules, &flat.texts);
            self.policies.insert(key, flat);
        }
        for binding in by_name(&news.bindings.come, |binding| binding.meta.key()) {
            let flat = FlatBinding::new(binding, &mut ids.rules, everybody, &mut self.stamps)?;
            let key = binding.meta.key();
            let nobody = BTreeSet::new();
            self.selections.binding(&key, &nobody, &flat.subjects);
            touched.extend(&flat.subjects);
            note_rules(&mut self.rules, &flat.texts);
            self.bindings.insert(key, flat);
        }
        let (gone, come) = self.denied.follow(&news.lists, &mut ids.rules)?;
        self.forget_rules(&gone);
        note_rules(&mut self.rules, &come);
        let members = touched
            .iter()
            .filter_map(|identity| self.universe.sets.get(identity))
            .flat_map(|set| set.members.keys());
        self.unsettled.extend(members.cloned());
        let changed = news.endpoints.all();
        self.unsettled
            .extend(changed.map(|endpoint| endpoint.meta.full_name()));
        self.services.follow(
            &news.services,
            &news.endpoints,
            &self.universe,
            &mut ids.services,
        )
    }

    /// Takes in identities that came and went. Whose tables are others now?
    fn follow_moves(&mut self, moves: &Moves) -> BTreeSet<IdentityId> {
        let everybody = &self.universe.peers;
        let mut touched = BTreeSet::new();
        for (key, policy) in &mut self.policies {
            let before = policy.subjects();
            let by = policy.follow(moves, everybody, &mut self.stamps);
            if !by.is_empty() {
                self.selections.policy(key, &before, &policy.subjects());
                touched.extend(by);
            }
        }
        for (key, binding) in &mut self.bindings {
            let before = binding.subjects.clone();
            let by = binding.follow(moves, everybody, &mut self.stamps);
            if !by.is_empty() {
                self.selections.binding(key, &before, &binding.subjects);
                touched.extend(by);
            }
        }
        touched
    }

    fn who_goes_by_ports_of_peers(&self) -> BTreeSet<IdentityId> {
        let specs = self.policies.values().flat_map(|policy| &policy.specs);
        specs
            .filter(|spec| spec.clauses.iter().any(Clause::names_ports_of_peers))
            .flat_map(|spec| &spec.subjects)
            .copied()
            .collect()
    }

    fn forget_rules(&mut self, texts: &Texts) {
        for (number, _) in texts {
            self.rules.remove(&RuleId(number.get()));
        }
    }

    /// Gives every endpoint that may need another table its table.
    pub(super) fn settle(
        &mut self,
        footing: &Footing,
        l7: &mut Interner,
        problems: &mut Vec<Problem>,
    ) -> Result<(), NoNumber> {
        let mut contradicted = BTreeSet::new();
        for name in std::mem::take(&mut self.unsettled) {
            let Some(placed) = self.universe.endpoints.get(&name) else {
                self.leave(&name);
                continue;
            };
            let node = Node {
                everybody: &self.universe.peers,
                mode: footing.mode,
                plugins: &footing.plugins,
                ports_of_peers: self.ports_of_peers,
            };
            let applies = self
                .selections
                .to(placed.identity, &self.policies, &self.bindings);
            let made = self
                .tables
                .of(&applies, &placed.ports, &node, l7, problems)?;
            let Some((key, table)) = made else {
                contradicted.insert(name);
                continue;
            };
            let (id, endpoint) = compiled(&name, placed, &table);
            set(&mut self.outward, id, table.outward.clone());
            let before = self.endpoints.get(&id);
            // The very table, not an equal one.
            if !before.is_some_and(|before| {
                Arc::ptr_eq(&before.table, &endpoint.table) && **before == endpoint
            }) {
                self.endpoints.insert(id, Arc::new(endpoint));
            }
            self.take_seat(name, id, key, &table);
        }
        self.unsettled = contradicted;
        Ok(())
    }

    fn take_seat(&mut self, name: String, id: EndpointId, key: Arc<Key>, table: &Table) {
        // Taken before the other is left: what both have stays.
        if self.tables.hold(&key, table) {
            for (set, (_, content)) in &*table.sets {
                *self.set_users.entry(*set).or_default() += 1;
                if !self.sets.contains_key(set) {
                    self.sets.insert(*set, content.clone());
                }
            }
        }
        if let Some((_, before)) = self.seats.insert(name, (id, key)) {
            self.release(&before);
        }
    }

    fn leave(&mut self, name: &str) {
        if let Some((id, key)) = self.seats.remove(name) {
            self.release(&key);
            self.endpoints.remove(&id);
            self.outward.remove(&id);
        }
    }

    fn release(&mut self, key: &Arc<Key>) {
        let Some(table) = self.tables.release(key) else {
            return;
        };
        for set in table.sets.keys() {
            if let Some(users) = self.set_users.get_mut(set) {
                *users -= 1;
                if *users == 0 {
                    self.set_users.remove(set);
                    self.sets.remove(set);
                }
            }
        }
    }

    /// One generation of what there is now.
    pub(super) fn compiled(&self) -> Compiled {
        Compiled {
            identities: self.universe.labels.clone(),
            ipcache: self.universe.ipcache.clone(),
            endpoints: self.endpoints.clone(),
            rules: self.rules.clone(),
            l7: self.sets.clone(),
            fqdn: self.universe.fqdn.clone(),
            fqdn_in_shadow: self.universe.in_shadow.clone(),
            outward: self.outward.clone(),
            deny_list: self.denied.all.clone(),
            services: self.services.all.clone(),
        }
    }
}

fn note_rules(rules: &mut Map<RuleId, Arc<RuleInfo>>, texts: &Texts) {
    for (number, info) in texts {
        if !rules.contains_key(&RuleId(number.get())) {
            rules.insert(RuleId(number.get()), info.clone());
        }
    }
}

fn compiled(name: &str, placed: &Placed, table: &Table) -> (EndpointId, CompiledEndpoint) {
    let endpoint = CompiledEndpoint {
        name: name.to_owned(),
        identity: placed.identity,
        location: placed.endpoint.location.clone(),
        addresses: placed.endpoint.addresses.clone(),
        fast_lane: placed.endpoint.fast_lane,
        default_deny: table.default_deny,
        table: table.rows.clone(),
    };
    (EndpointId(placed.id.get()), endpoint)
}
