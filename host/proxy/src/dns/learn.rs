//! From an answer to the kernel's table: which FQDN identities an address has.

use nix::time::{ClockId, clock_gettime};
use tidegate_decide::policy::is_fresh;
use tidegate_ebpf_shared::identity::FqdnInfo;
use tidegate_wire::dns::Answer;

use crate::{
    records::{Counters, Learned},
    state::View,
};

/// Writes the addresses of an answer to this endpoint under every selector that matches
/// the name, and tells the agent. What does not fit stays denied, and is counted.
pub(super) fn learn(view: &View, endpoint: u32, name: &str, answer: &Answer) {
    if answer.addresses.is_empty() {
        return;
    }
    let local = view.current();
    let state = &local.state;
    let ttl = answer.ttl.max(state.fqdn_min_ttl);
    let matching: Vec<u32> = state
        .fqdn
        .iter()
        .filter(|(_, matcher)| matcher.matches(name))
        .map(|(identity, _)| *identity)
        .collect();
    if !matching.is_empty() {
        let now = boot_seconds();
        let expires = now.saturating_add(ttl);
        let is_known = |identity| state.fqdn.iter().any(|(known, _)| *known == identity);
        let share = state.tables.fqdn_share();
        let is_there = |address| {
            state
                .tables
                .names_of(address)
                .is_ok_and(|info| info != FqdnInfo::default())
        };
        for address in &answer.addresses {
            let mut refused = 0;
            let quotas = &view.shared.quotas;
            if !quotas.take(endpoint, (*address, expires), now, share, &is_there) {
                Counters::add(&view.shared.records.counters.fqdn_overflow);
                continue;
            }
            let written = state.tables.change_fqdn(*address, |info| {
                for identity in &matching {
                    if !grant(info, (*identity, expires), now, &is_known) {
                        refused += 1;
                    }
                }
            });
            if let Err(error) = written {
                tracing::warn!(name, %address, %error, "an address cannot be learned");
                refused += 1;
            }
            for _ in 0..refused {
                Counters::add(&view.shared.records.counters.fqdn_overflow);
            }
        }
    }
    view.shared.records.learned(Learned {
        name: name.to_owned(),
        addresses: answer
            .addresses
            .iter()
            .map(|address| (*address, ttl))
            .collect(),
    });
}

/// Gives an address an identity until `expires`, in the place it has, a free one, or
/// one whose identity has expired or is no selector's any more. False if there is none.
fn grant(
    info: &mut FqdnInfo,
    (identity, expires): (u32, u32),
    now: u32,
    is_known: &dyn Fn(u32) -> bool,
) -> bool {
    let place = |wanted: &dyn Fn(usize) -> bool| (0..info.identities.len()).find(|i| wanted(*i));
    let own = place(&|i| info.identities[i] == identity);
    let free = place(&|i| info.identities[i] == 0);
    let stale = || place(&|i| !is_fresh(info.expires[i], now) || !is_known(info.identities[i]));
    let Some(at) = own.or(free).or_else(stale) else {
        return false;
    };
    // A shorter answer does not end what a longer one has granted.
    if own.is_none() || info.expires[at] < expires {
        info.expires[at] = expires;
    }
    info.identities[at] = identity;
    true
}

/// Seconds of `CLOCK_BOOTTIME`, the clock of the table.
pub(crate) fn boot_seconds() -> u32 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .ok()
        .and_then(|time| u32::try_from(time.tv_sec()).ok())
        .unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use tidegate_ebpf_shared::limits::FQDN_GRACE;

    use super::*;

    /// Identity and expiry, place by place.
    fn info(places: &[(u32, u32)]) -> FqdnInfo {
        let mut info = FqdnInfo::default();
        for (place, (identity, expires)) in places.iter().enumerate() {
            info.identities[place] = *identity;
            info.expires[place] = *expires;
        }
        info
    }

    #[test]
    fn places() {
        let three = [(7, 100), (8, 200), (9, 300)];
        /// Identity and expiry, now, and the places afterwards.
        type Row<'a> = ((u32, u32), u32, &'a [(u32, u32)]);
        let rows: [Row<'_>; 4] = [
            // Its own place, extended; not shortened.
            ((8, 400), 150, &[(7, 100), (8, 400), (9, 300)]),
            ((8, 160), 150, &three),
            // A free place before an expired one.
            ((5, 400), 150, &[(7, 100), (8, 200), (9, 300), (5, 400)]),
            ((5, 400), 50, &[(7, 100), (8, 200), (9, 300), (5, 400)]),
        ];
        for (given, now, expected) in rows {
            let mut places = info(&three);
            assert!(grant(&mut places, given, now, &|_| true));
            assert_eq!(places, info(expected), "{given:?} {now}");
        }
    }

    #[test]
    fn a_full_entry_takes_only_what_replaces_the_expired_and_the_forgotten() {
        let count = FqdnInfo::default().identities.len() as u32;
        let places: Vec<(u32, u32)> = (0..count).map(|n| (100 + n, 1_000 + n)).collect();
        let full = info(&places);
        let mut now = full;
        assert!(!grant(&mut now, (5, 2_000), 50, &|_| true));
        assert_eq!(now, full);
        assert!(
            grant(&mut now, (5, 2_000), 1_000 + FQDN_GRACE, &|_| true),
            "the first has expired"
        );
        assert_eq!((now.identities[0], now.expires[0]), (5, 2_000));
        assert!(
            grant(&mut now, (6, 2_000), 50, &|id| id != 103),
            "no selector's any more"
        );
        assert_eq!((now.identities[3], now.expires[3]), (6, 2_000));
    }
}
