//! The deny list and the slots its entries are counted in: what the next generation takes,
//! with the slots the kernel already knows kept. Pure.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;
use tidegate_ebpf_shared::addr::AddrPrefix;
use tidegate_policy::{
    compiled::RuleId,
    shared::{self, Map},
};

use super::{diff::Change, encode};

/// What the next generation takes.
pub(super) struct Plan {
    /// Changes of `DENY_LIST`.
    pub(super) list: Change<AddrPrefix, u32>,
    /// What the table says when all of it is done.
    pub(super) state: State,
}

/// Slots nobody counts in. A copy costs nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct State {
    /// Those that were given up.
    free: Map<u32, ()>,
    /// All from here on are free as well.
    next: u32,
}

/// Plans the step to this list, whatever the kernel has. Prefixes keep their slots.
pub(super) fn plan(
    desired: &Map<IpNet, RuleId>,
    current: &HashMap<AddrPrefix, u32>,
    limit: u32,
) -> Plan {
    let taken: HashSet<u32> = current.values().copied().collect();
    let next = taken.iter().max().map_or(0, |last| last + 1);
    let mut state = State {
        free: (0..next)
            .filter(|slot| !taken.contains(slot))
            .map(|slot| (slot, ()))
            .collect(),
        next,
    };
    let wanted = desired.keys().map(|net| {
        let key = encode::prefix(*net);
        let slot = current.get(&key).copied();
        (key, slot.unwrap_or_else(|| state.take(limit)))
    });
    let wanted: HashMap<AddrPrefix, u32> = wanted.collect();
    let list = Change::between(current, &wanted);
    state.give_up(&list, current);
    Plan { list, state }
}

/// Plans the same step where the kernel is known to have what `before` and `state` say, at the
/// price of what is different between `before` and `now`.
pub(super) fn step(
    state: &State,
    (before, now): (&Map<IpNet, RuleId>, &Map<IpNet, RuleId>),
    current: &HashMap<AddrPrefix, u32>,
    limit: u32,
) -> Plan {
    let mut state = state.clone();
    let (mut had, mut wanted) = (HashMap::new(), HashMap::new());
    for change in shared::changes(before, now) {
        let key = encode::prefix(*change.key);
        let slot = current.get(&key).copied();
        had.extend(slot.map(|slot| (key, slot)));
        // Another rule for the same prefix is the same entry.
        if change.now.is_some() {
            wanted.insert(key, slot.unwrap_or_else(|| state.take(limit)));
        }
    }
    let list = Change::within(current.len(), &had, &wanted);
    state.give_up(&list, current);
    Plan { list, state }
}

impl State {
    /// A slot nobody counts in. Without one the table is too small as well, which is reported.
    fn take(&mut self, limit: u32) -> u32 {
        if let Some((slot, ())) = self.free.get_min().cloned() {
            self.free.remove(&slot);
            return slot;
        }
        if self.next >= limit {
            return 0;
        }
        self.next += 1;
        self.next - 1
    }

    /// Only now: until the old entry is gone, programs count in its slot.
    fn give_up(&mut self, list: &Change<AddrPrefix, u32>, current: &HashMap<AddrPrefix, u32>) {
        let slots = list.delete.iter().filter_map(|key| current.get(key));
        self.free.extend(slots.map(|slot| (*slot, ())));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const LIMIT: u32 = 64;

    fn net(n: u8) -> IpNet {
        match n.is_multiple_of(2) {
            true => IpNet::from(std::net::IpAddr::from([192, 0, 2, n])),
            false => format!("2001:db8:{n}::/48").parse().expect("a prefix"),
        }
    }

    proptest! {
        /// Whatever lists there were, and wherever nothing is known of what was written, the
        /// table ends with what the last one says, each prefix with a slot of its own which it
        /// keeps, and which was nobody else's in the same step.
        #[test]
        fn steps_lead_where_planning_from_scratch_leads(
            lists in prop::collection::vec(
                (prop::collection::btree_map(0..12_u8, 1..3_u32, 0..10), prop::bool::weighted(0.2)),
                1..12,
            ),
        ) {
            let (mut table, mut before) = (HashMap::new(), Map::new());
            let mut known: Option<State> = None;
            for (list, forgets) in lists {
                let now: Map<IpNet, RuleId> =
                    list.into_iter().map(|(n, rule)| (net(n), RuleId(rule))).collect();
                let had: HashMap<AddrPrefix, u32> = table.clone();
                let whole = plan(&now, &had, LIMIT);
                let made = match known.take().filter(|_| !forgets) {
                    Some(state) => step(&state, (&before, &now), &had, LIMIT),
                    None => plan(&now, &had, LIMIT),
                };
                let keys = |change: &Change<AddrPrefix, u32>| -> HashSet<AddrPrefix> {
                    change.put.iter().map(|(key, _)| *key).collect()
                };
                prop_assert_eq!(keys(&made.list), keys(&whole.list));
                let deleted = |change: &Change<AddrPrefix, u32>| -> HashSet<AddrPrefix> {
                    change.delete.iter().copied().collect()
                };
                prop_assert_eq!(deleted(&made.list), deleted(&whole.list));
                for (_, slot) in &made.list.put {
                    prop_assert!(!had.values().any(|taken| taken == slot), "{} is taken", slot);
                }
                table.extend(made.list.put.iter().copied());
                for key in &made.list.delete {
                    table.remove(key);
                }
                let wanted: HashSet<_> = now.keys().map(|net| encode::prefix(*net)).collect();
                prop_assert_eq!(table.keys().copied().collect::<HashSet<_>>(), wanted);
                let slots: BTreeSet<u32> = table.values().copied().collect();
                prop_assert_eq!(slots.len(), table.len(), "a slot for each");
                for (key, slot) in &had {
                    prop_assert!(table.get(key).is_none_or(|stays| stays == slot));
                }
                // What is free is all there is but those.
                let free: BTreeSet<u32> =
                    (0..made.state.next).filter(|slot| !slots.contains(slot)).collect();
                prop_assert_eq!(made.state.free.keys().copied().collect::<BTreeSet<_>>(), free);
                known = Some(made.state);
                before = now;
            }
        }
    }
}
