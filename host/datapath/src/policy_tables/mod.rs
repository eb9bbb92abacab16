//! Endpoints and their policy rows: which policy id each endpoint has in the next
//! generation, and which rows that takes. Pure.
//!
//! A policy id belongs to what it says: replicas share their rows, and rows that did not
//! change keep their id, so a generation costs what it changes. Changed rows get a new id,
//! complete; the generation number then switches all endpoints over at once.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use tidegate_ebpf_shared::{
    endpoint::{EndpointInfo, flags},
    policy::{PolicyEntry, PolicyKey},
};
use tidegate_policy::{
    compiled::{CompiledEndpoint, EndpointId, Generation, Location, PolicyRow},
    shared::{self, Map},
};

use super::{diff::Change, encode};

/// What the kernel has.
pub(super) struct Current<'k> {
    /// The `ENDPOINTS` table.
    pub(super) endpoints: &'k HashMap<u32, EndpointInfo>,
    /// The `POLICY` table.
    pub(super) rows: &'k HashMap<PolicyKey, PolicyEntry>,
    /// The active generation.
    pub(super) generation: Generation,
    /// Largest policy id this process has given out.
    pub(super) last_policy_id: u32,
}

/// What the next generation takes.
pub(super) struct Plan {
    /// Changes of `ENDPOINTS`.
    pub(super) endpoints: Change<u32, EndpointInfo>,
    /// Changes of `POLICY`.
    pub(super) rows: Change<PolicyKey, PolicyEntry>,
    /// Largest policy id given out.
    pub(super) last_policy_id: u32,
    /// What the tables say when all of it is done, if [`step`] may go on from there.
    pub(super) state: Option<State>,
}

/// What the two tables say, in terms of what was compiled. A copy costs nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// The policy id of each content, and how many endpoints have it.
    ids: Map<Arc<[PolicyRow]>, Shared>,
    /// What each endpoint's id says.
    content: Map<EndpointId, Arc<[PolicyRow]>>,
    /// Endpoints that have another policy id in the slot that is not in use.
    split: BTreeSet<EndpointId>,
}

/// A policy id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shared {
    id: u32,
    users: usize,
}

/// Index into [`EndpointInfo::policy_id`] for a generation.
pub(super) fn slot(generation: Generation) -> usize {
    (generation.get() & 1) as usize
}

/// Plans the step to `generation`, which must not share the slot of the active one, whatever
/// the kernel has. `ifindex` finds an endpoint's device; 0 if it is not there.
pub(super) fn plan(
    desired: &Map<EndpointId, Arc<CompiledEndpoint>>,
    ifindex: &dyn Fn(&CompiledEndpoint) -> u32,
    generation: Generation,
    current: &Current<'_>,
) -> Plan {
    let (old, new) = (slot(current.generation), slot(generation));
    debug_assert_ne!(old, new, "consecutive generations use different slots");
    let mut ids = PolicyIds::seeded(current);
    let rows_per_id = count_by_policy(current.rows);
    let mut rows = HashMap::new();
    let mut infos = HashMap::new();
    // Who has the same rows has the same id: one that some of them have already, if it says
    // that in the kernel.
    let mut had: BTreeMap<&[PolicyRow], BTreeSet<u32>> = BTreeMap::new();
    for (id, endpoint) in desired {
        let before = current
            .endpoints
            .get(&id.get())
            .map_or(0, |info| info.policy_id[old]);
        had.entry(&*endpoint.table).or_default().insert(before);
    }
    let mut id_of: BTreeMap<&[PolicyRow], u32> = BTreeMap::new();
    let mut state = State::default();
    for (table, had) in had {
        let kept = had.into_iter().filter(|id| *id != 0).find(|id| {
            let wanted = encoded(*id, table);
            is_in_place(*id, &wanted, current.rows, &rows_per_id)
        });
        let policy_id = kept.unwrap_or_else(|| ids.next());
        rows.extend(encoded(policy_id, table));
        id_of.insert(table, policy_id);
    }
    for (id, endpoint) in desired {
        let before = current
            .endpoints
            .get(&id.get())
            .copied()
            .unwrap_or_default();
        let policy_id = id_of[&*endpoint.table];
        infos.insert(id.get(), info(endpoint, ifindex, before, (new, policy_id)));
        state.hold(&endpoint.table, || policy_id);
        state.seat(*id, &endpoint.table, &infos[&id.get()]);
    }
    let mut endpoints = Change::between(current.endpoints, &infos);
    // An endpoint that goes keeps its policy until it is gone.
    for id in &endpoints.delete {
        let mut last = current.endpoints[id];
        last.policy_id[new] = last.policy_id[old];
        endpoints.put.push((*id, last));
    }
    Plan {
        endpoints,
        rows: Change::between(current.rows, &rows),
        state: ids.all_are_behind().then_some(state),
        last_policy_id: ids.last,
    }
}

/// Plans the same step where the kernel is known to have what `state` says, at the price of
/// what is different between `before` and `now`. `None` once policy ids have gone round:
/// whether one is free is then for [`plan`] to find out.
pub(super) fn step(
    state: &State,
    (before, now): (
        &Map<EndpointId, Arc<CompiledEndpoint>>,
        &Map<EndpointId, Arc<CompiledEndpoint>>,
    ),
    ifindex: &dyn Fn(&CompiledEndpoint) -> u32,
    generation: Generation,
    current: &Current<'_>,
) -> Option<Plan> {
    let (old, new) = (slot(current.generation), slot(generation));
    debug_assert_ne!(old, new, "consecutive generations use different slots");
    let changed = shared::changes(before, now).map(|change| *change.key);
    // What the last generation changed is in one slot alone so far.
    let touched: BTreeSet<EndpointId> = changed.chain(state.split.iter().copied()).collect();
    let mut state = state.clone();
    let mut last = current.last_policy_id;
    let mut exhausted = false;
    let (mut had, mut wanted) = (HashMap::new(), HashMap::new());
    let mut left = Vec::new();
    let mut rows = HashMap::new();
    let mut leaving = Vec::new();
    for id in touched {
        let known = current.endpoints.get(&id.get()).copied();
        had.extend(known.map(|info| (id.get(), info)));
        left.extend(state.content.remove(&id));
        let Some(endpoint) = now.get(&id) else {
            // It keeps its policy until it is gone.
            leaving.extend(known.map(|mut last| {
                last.policy_id[new] = last.policy_id[old];
                (id.get(), last)
            }));
            state.split.remove(&id);
            continue;
        };
        let policy_id = state.hold(&endpoint.table, || {
            last = last.checked_add(1).unwrap_or_else(|| {
                exhausted = true;
                u32::MAX
            });
            rows.extend(encoded(last, &endpoint.table));
            last
        });
        let before = known.unwrap_or_default();
        let info = info(endpoint, ifindex, before, (new, policy_id));
        state.seat(id, &endpoint.table, &info);
        wanted.insert(id.get(), info);
    }
    if exhausted {
        return None;
    }
    // Only now: what one endpoint leaves another one may have taken.
    let mut gone = HashMap::new();
    for table in left {
        if let Some(id) = state.release(&table) {
            gone.extend(encoded(id, &table));
        }
    }
    let mut endpoints = Change::within(current.endpoints.len(), &had, &wanted);
    endpoints.put.extend(leaving);
    Some(Plan {
        endpoints,
        rows: Change::within(current.rows.len(), &gone, &rows),
        last_policy_id: last,
        state: Some(state),
    })
}

impl State {
    /// One more endpoint has this content: under which policy id?
    fn hold(&mut self, table: &Arc<[PolicyRow]>, fresh: impl FnOnce() -> u32) -> u32 {
        let known = self.ids.get(table).copied();
        let mut known = known.unwrap_or_else(|| Shared {
            id: fresh(),
            users: 0,
        });
        known.users += 1;
        self.ids.insert(table.clone(), known);
        known.id
    }

    /// One endpoint less has this content. The policy id comes back if it was the last.
    fn release(&mut self, table: &Arc<[PolicyRow]>) -> Option<u32> {
        let mut known = *self.ids.get(table)?;
        known.users -= 1;
        if known.users > 0 {
            self.ids.insert(table.clone(), known);
            return None;
        }
        self.ids.remove(table);
        Some(known.id)
    }

    fn seat(&mut self, id: EndpointId, table: &Arc<[PolicyRow]>, info: &EndpointInfo) {
        self.content.insert(id, table.clone());
        match info.policy_id {
            [one, other] if one == other => _ = self.split.remove(&id),
            _ => _ = self.split.insert(id),
        }
    }
}

fn info(
    endpoint: &CompiledEndpoint,
    ifindex: &dyn Fn(&CompiledEndpoint) -> u32,
    before: EndpointInfo,
    (slot, policy_id): (usize, u32),
) -> EndpointInfo {
    let mut policy_ids = before.policy_id;
    policy_ids[slot] = policy_id;
    EndpointInfo {
        identity: endpoint.identity.get(),
        ifindex: ifindex(endpoint),
        policy_id: policy_ids,
        flags: endpoint_flags(endpoint),
    }
}

fn endpoint_flags(endpoint: &CompiledEndpoint) -> u32 {
    let fast_lane = if endpoint.fast_lane {
        flags::FAST_LANE
    } else {
        0
    };
    let host_service = match endpoint.location {
        Location::Cgroup(_) => flags::HOST_SERVICE,
        Location::Interface(_) => 0,
    };
    fast_lane | host_service
}

fn encoded(policy_id: u32, table: &[PolicyRow]) -> HashMap<PolicyKey, PolicyEntry> {
    table
        .iter()
        .map(|row| encode::policy_row(policy_id, row))
        .collect()
}

fn count_by_policy(rows: &HashMap<PolicyKey, PolicyEntry>) -> HashMap<[u8; 4], usize> {
    let mut counts = HashMap::new();
    for key in rows.keys() {
        *counts.entry(key.policy_id).or_default() += 1;
    }
    counts
}

/// Does the table hold exactly these rows under their policy id?
fn is_in_place(
    policy_id: u32,
    wanted: &HashMap<PolicyKey, PolicyEntry>,
    rows: &HashMap<PolicyKey, PolicyEntry>,
    rows_per_id: &HashMap<[u8; 4], usize>,
) -> bool {
    let count = rows_per_id
        .get(&policy_id.to_be_bytes())
        .copied()
        .unwrap_or(0);
    count == wanted.len()
        && wanted
            .iter()
            .all(|(key, entry)| rows.get(key) == Some(entry))
}

/// Gives out policy ids that nothing in the kernel knows.
struct PolicyIds {
    last: u32,
    known: HashSet<u32>,
}

impl PolicyIds {
    fn seeded(current: &Current<'_>) -> Self {
        let known: HashSet<u32> = current
            .endpoints
            .values()
            .flat_map(|info| info.policy_id)
            .chain(
                current
                    .rows
                    .keys()
                    .map(|key| u32::from_be_bytes(key.policy_id)),
            )
            .collect();
        let found = known.iter().copied().max().unwrap_or(0);
        Self {
            last: found.max(current.last_policy_id),
            known,
        }
    }

    /// Is the next one free without looking?
    fn all_are_behind(&self) -> bool {
        self.known.iter().all(|id| *id <= self.last)
    }

    fn next(&mut self) -> u32 {
        loop {
            // Never 0; after 2³² ids it starts over, past those still in use.
            self.last = self.last.checked_add(1).unwrap_or(1);
            if !self.known.contains(&self.last) {
                return self.last;
            }
        }
    }
}
