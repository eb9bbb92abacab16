//! How much of the table of learned addresses the answers of one workload may take.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use tidegate_decide::policy::is_fresh;
use tidegate_policy::compiled::EndpointId;

/// Addresses learned for each endpoint, for as long as it keeps them in the table. A new
/// proxy begins with none: what is in the table then counts for nobody.
#[derive(Debug, Default)]
pub(crate) struct Quotas(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    of: HashMap<EndpointId, Taken>,
    /// Who keeps each address there: who has the longest term for it.
    keepers: HashMap<IpAddr, (EndpointId, u32)>,
}

/// Times are seconds of `CLOCK_BOOTTIME`.
#[derive(Debug, Default)]
struct Taken {
    /// When each address expires; it is in the table until somebody takes it out.
    until: HashMap<IpAddr, u32>,
    /// No look for places that have become free before this.
    next_look: u32,
}

/// Seconds between two looks of a workload whose share is taken for what has left the
/// table: a look reads the table once for each expired address.
const LOOK: u32 = 5;

impl Quotas {
    /// Takes a place for an address until `expires`, unless the endpoint has `limit`
    /// places with others. An address that has expired by `now` keeps its place while it
    /// is still in the table, which the agent alone empties, unless another endpoint is
    /// who keeps it there.
    pub(super) fn take(
        &self,
        endpoint: EndpointId,
        (address, expires): (IpAddr, u32),
        now: u32,
        limit: usize,
        is_there: &dyn Fn(IpAddr) -> bool,
    ) -> bool {
        // Nothing in here can panic half-way.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let All { of, keepers } = &mut *all;
        let stays = |keepers: &HashMap<_, _>, endpoint, (address, until): (&IpAddr, &u32)| {
            let keeps = || {
                keepers
                    .get(address)
                    .is_some_and(|(who, _)| *who == endpoint)
            };
            is_fresh(*until, now) || keeps() && is_there(*address)
        };
        if !of.contains_key(&endpoint) {
            // A newcomer: the moment to forget who has gone.
            of.retain(|who, taken| taken.until.iter().any(|place| stays(keepers, *who, place)));
            keepers.retain(|address, (who, _)| {
                of.get(who)
                    .is_some_and(|taken| taken.until.contains_key(address))
            });
        }
        let own = of.entry(endpoint).or_default();
        if !own.until.contains_key(&address) {
            if own.until.len() >= limit && now >= own.next_look {
                own.until.retain(|addr, until| {
                    let stays = stays(keepers, endpoint, (addr, until));
                    if !stays && keepers.get(addr).is_some_and(|(who, _)| *who == endpoint) {
                        keepers.remove(addr);
                    }
                    stays
                });
                own.next_look = now.saturating_add(LOOK);
            }
            if own.until.len() >= limit {
                return false;
            }
        }
        let until = own.until.entry(address).or_default();
        *until = expires.max(*until);
        let keeper = keepers.entry(address).or_insert((endpoint, *until));
        if keeper.1 < *until {
            *keeper = (endpoint, *until);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tidegate_ebpf_shared::limits::FQDN_GRACE;

    use super::*;

    #[test]
    fn one_workload_leaves_room_for_the_others() {
        let quotas = Quotas::default();
        let in_table = Cell::new(true);
        let take = |endpoint, last: u8, expires, now| {
            let address = [192, 0, 2, last].into();
            quotas.take(endpoint, (address, expires), now, 2, &|_| in_table.get())
        };
        assert!(take(EndpointId(1), 1, 100, 10));
        assert!(take(EndpointId(1), 2, 200, 10));
        assert!(!take(EndpointId(1), 3, 300, 10), "its share is taken");
        assert!(take(EndpointId(1), 1, 150, 10), "one it has is renewed");
        assert!(
            take(EndpointId(2), 3, 300, 10),
            "another workload has its own share"
        );
        let gone = 150 + FQDN_GRACE;
        assert!(
            !take(EndpointId(1), 3, 300, gone),
            "it is in the table until swept out"
        );
        in_table.set(false);
        assert!(
            !take(EndpointId(1), 3, 300, gone + 1),
            "looked a moment ago"
        );
        assert!(
            take(EndpointId(1), 3, 300, gone + LOOK),
            "what has left makes room"
        );
        assert!(
            !take(EndpointId(1), 4, 300, gone + 2 * LOOK),
            "only as much as has left"
        );
        assert!(take(EndpointId(3), 1, 900, 300 + FQDN_GRACE));
        let known = quotas
            .0
            .lock()
            .unwrap()
            .of
            .keys()
            .copied()
            .collect::<Vec<_>>();
        assert_eq!(
            known,
            [EndpointId(3)],
            "whoever has nothing any more is forgotten"
        );
    }

    #[test]
    fn a_place_is_taken_by_whoever_keeps_the_address_in_the_table() {
        let quotas = Quotas::default();
        let take = |endpoint, last: u8, expires, now| {
            let address = [192, 0, 2, last].into();
            quotas.take(endpoint, (address, expires), now, 1, &|_| true)
        };
        assert!(take(EndpointId(1), 1, 100, 10));
        assert!(
            take(EndpointId(2), 1, 500, 90),
            "the same address, for longer"
        );
        let gone = 100 + FQDN_GRACE;
        assert!(
            take(EndpointId(1), 2, 300, gone),
            "what another renews is no place of ours"
        );
        assert!(!take(EndpointId(2), 3, 900, gone), "but of the other's");
        let gone = 500 + FQDN_GRACE;
        assert!(
            !take(EndpointId(2), 3, 900, gone),
            "also when it has expired"
        );
        // Who has nothing of its own any more leaves no trace.
        assert!(take(EndpointId(2), 1, 2_000, gone));
        let gone = 2_000 + FQDN_GRACE + LOOK;
        let is_there = |_| false;
        assert!(quotas.take(
            EndpointId(3),
            ([192, 0, 2, 9].into(), 3_000),
            gone,
            1,
            &is_there
        ));
        let all = quotas.0.lock().unwrap();
        assert_eq!((all.of.len(), all.keepers.len()), (1, 1));
    }
}
