//! Endpoints and their policy rows: which policy id each endpoint has in the next
//! generation, and which rows that takes. Pure.
//!
//! A policy id belongs to what it says: replicas share their rows, and rows that did not
//! change keep their id, so a generation costs what it changes. Changed rows get a new id,
//! complete; the generation number then switches all endpoints over at once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use tidegate_ebpf_shared::{
    endpoint::{EndpointInfo, flags},
    policy::{PolicyEntry, PolicyKey},
};
use tidegate_policy::compiled::{CompiledEndpoint, EndpointId, Location, PolicyRow};

use super::{diff::Change, encode};

/// What the kernel has.
pub(super) struct Current<'k> {
    /// The `ENDPOINTS` table.
    pub(super) endpoints: &'k HashMap<u32, EndpointInfo>,
    /// The `POLICY` table.
    pub(super) rows: &'k HashMap<PolicyKey, PolicyEntry>,
    /// The active generation.
    pub(super) generation: u32,
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
}

/// Index into [`EndpointInfo::policy_id`] for a generation.
pub(super) fn slot(generation: u32) -> usize {
    (generation & 1) as usize
}

/// Plans the step to `generation`, which must not share the slot of the active one.
/// `ifindex` has the devices that exist, by endpoint.
pub(super) fn plan(
    desired: &BTreeMap<EndpointId, Arc<CompiledEndpoint>>,
    ifindex: &BTreeMap<EndpointId, u32>,
    generation: u32,
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
            .get(id)
            .map_or(0, |info| info.policy_id[old]);
        had.entry(&*endpoint.table).or_default().insert(before);
    }
    let mut id_of: BTreeMap<&[PolicyRow], u32> = BTreeMap::new();
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
        let before = current.endpoints.get(id).copied().unwrap_or_default();
        let policy_id = id_of[&*endpoint.table];
        let mut policy_ids = before.policy_id;
        policy_ids[new] = policy_id;
        infos.insert(
            *id,
            EndpointInfo {
                identity: endpoint.identity,
                ifindex: ifindex.get(id).copied().unwrap_or(0),
                policy_id: policy_ids,
                flags: endpoint_flags(endpoint),
            },
        );
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
        last_policy_id: ids.last,
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

#[cfg(test)]
mod tests {
    use tidegate_policy::compiled::{
        Decision, DefaultDeny, Direction, PolicyRow, PortMatch, Verdict,
    };

    use super::*;

    /// An endpoint with one egress row per verdict given.
    fn endpoint(verdicts: &[Verdict]) -> Arc<CompiledEndpoint> {
        let row = |(identity, verdict): (u32, &Verdict)| PolicyRow {
            identity,
            direction: Direction::Egress,
            ports: PortMatch::Any,
            decision: Decision {
                verdict: *verdict,
                rule: 1,
                l7: 0,
                shadow: None,
            },
        };
        Arc::new(CompiledEndpoint {
            name: "default/web".into(),
            identity: 256,
            location: Location::Interface("veth0".into()),
            addresses: Vec::new(),
            fast_lane: false,
            default_deny: DefaultDeny::default(),
            table: (0..).zip(verdicts).map(row).collect(),
        })
    }

    /// What the kernel has.
    #[derive(Default)]
    struct Kernel {
        endpoints: HashMap<u32, EndpointInfo>,
        rows: HashMap<PolicyKey, PolicyEntry>,
        generation: u32,
        last_policy_id: u32,
    }

    /// Takes the step as `publish` does.
    fn apply(
        current: &mut Kernel,
        generation: u32,
        desired: &BTreeMap<EndpointId, Arc<CompiledEndpoint>>,
    ) {
        let seen = Current {
            endpoints: &current.endpoints,
            rows: &current.rows,
            generation: current.generation,
            last_policy_id: current.last_policy_id,
        };
        let plan = plan(desired, &BTreeMap::new(), generation, &seen);
        current.endpoints.extend(plan.endpoints.put);
        current.rows.extend(plan.rows.put);
        current.generation = generation;
        current.last_policy_id = plan.last_policy_id;
        for id in plan.endpoints.delete {
            current.endpoints.remove(&id);
        }
        for key in plan.rows.delete {
            current.rows.remove(&key);
        }
    }

    fn policy_id(current: &Kernel, endpoint: u32) -> u32 {
        current.endpoints[&endpoint].policy_id[slot(current.generation)]
    }

    #[test]
    fn only_changed_endpoints_get_new_policy_ids() {
        let mut current = Kernel::default();
        let allow = endpoint(&[Verdict::Allow]);
        let mut desired = BTreeMap::from([(1, allow.clone()), (2, allow.clone())]);
        apply(&mut current, 1, &desired);
        let shared = policy_id(&current, 1);
        assert!(shared != 0 && policy_id(&current, 2) == shared);
        assert_eq!(current.rows.len(), 1, "replicas share their rows");

        desired.insert(2, endpoint(&[Verdict::Allow, Verdict::Deny]));
        apply(&mut current, 2, &desired);
        assert_eq!(policy_id(&current, 1), shared);
        assert!(policy_id(&current, 2) > shared);
        assert_eq!(current.rows.len(), 3);

        // The one that leaves does not take the rows of the others with it.
        desired.insert(2, allow);
        apply(&mut current, 3, &desired);
        desired.remove(&1);
        apply(&mut current, 4, &desired);
        assert_eq!(policy_id(&current, 2), shared);
        assert_eq!(current.rows.len(), 1);
    }

    #[test]
    fn a_policy_id_is_not_used_again_when_its_endpoint_is_gone() {
        let mut current = Kernel::default();
        let desired = BTreeMap::from([(1, endpoint(&[Verdict::Allow]))]);
        apply(&mut current, 1, &desired);
        let first = policy_id(&current, 1);
        apply(&mut current, 2, &BTreeMap::new());
        assert!(current.rows.is_empty() && current.endpoints.is_empty());
        apply(&mut current, 3, &desired);
        assert!(policy_id(&current, 1) > first);
    }
}
