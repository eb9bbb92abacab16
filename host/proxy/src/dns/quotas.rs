//! How much of the table of learned addresses the answers of one workload may take.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use tidegate_decide::policy::is_fresh;

/// Addresses learned for each endpoint, for as long as they are in the table. A new proxy
/// begins with none: what is in the table then counts for nobody.
#[derive(Debug, Default)]
pub(crate) struct Quotas(Mutex<HashMap<u32, Taken>>);

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
    /// is still in the table, which the agent alone empties.
    pub(super) fn take(
        &self,
        endpoint: u32,
        (address, expires): (IpAddr, u32),
        now: u32,
        limit: usize,
        is_there: &dyn Fn(IpAddr) -> bool,
    ) -> bool {
        let stays = |address: &IpAddr, until: u32| is_fresh(until, now) || is_there(*address);
        // Nothing in here can panic half-way.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(&endpoint) {
            // A newcomer: the moment to forget who has gone.
            all.retain(|_, taken| taken.until.iter().any(|(addr, until)| stays(addr, *until)));
        }
        let own = all.entry(endpoint).or_default();
        if let Some(until) = own.until.get_mut(&address) {
            *until = expires.max(*until);
            return true;
        }
        if own.until.len() >= limit && now >= own.next_look {
            own.until.retain(|addr, until| stays(addr, *until));
            own.next_look = now.saturating_add(LOOK);
        }
        if own.until.len() >= limit {
            return false;
        }
        own.until.insert(address, expires);
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
        assert!(take(1, 1, 100, 10));
        assert!(take(1, 2, 200, 10));
        assert!(!take(1, 3, 300, 10), "its share is taken");
        assert!(take(1, 1, 150, 10), "one it has is renewed");
        assert!(take(2, 3, 300, 10), "another workload has its own share");
        let gone = 150 + FQDN_GRACE;
        assert!(!take(1, 3, 300, gone), "it is in the table until swept out");
        in_table.set(false);
        assert!(!take(1, 3, 300, gone + 1), "looked a moment ago");
        assert!(take(1, 3, 300, gone + LOOK), "what has left makes room");
        assert!(
            !take(1, 4, 300, gone + 2 * LOOK),
            "only as much as has left"
        );
        assert!(take(3, 1, 900, 300 + FQDN_GRACE));
        let known = quotas.0.lock().unwrap().keys().copied().collect::<Vec<_>>();
        assert_eq!(known, [3], "whoever has nothing any more is forgotten");
    }
}
