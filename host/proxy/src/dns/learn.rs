//! From an answer to the kernel's table: which FQDN identities an address has.

use std::net::IpAddr;

use nix::time::{ClockId, clock_gettime};
use tidegate_decide::policy::is_fresh;
use tidegate_ebpf_shared::identity::FqdnInfo;
use tidegate_policy::compiled::{EndpointId, IdentityId};
use tidegate_wire::dns::Answer;

use crate::{
    records::{Counters, Learned},
    state::{State, View},
};

/// Writes the addresses of an answer to this endpoint under every selector that matches
/// the name, and tells the agent. What does not fit stays denied, and is counted. What is
/// in shadow takes only what the enforced selectors leave.
pub(super) fn learn(view: &View, endpoint: EndpointId, name: &str, answer: &Answer) {
    if answer.addresses.is_empty() {
        return;
    }
    let local = view.current();
    let state = &local.state;
    let ttl = answer.ttl.max(state.fqdn_min_ttl);
    let (in_shadow, enforced): (Vec<IdentityId>, Vec<IdentityId>) = state
        .fqdn
        .iter()
        .filter(|(_, matcher)| matcher.matches(name))
        .map(|(identity, _)| *identity)
        .partition(|identity| state.fqdn_in_shadow.contains(identity));
    let now = boot_seconds();
    let expires = now.saturating_add(ttl);
    let names = Names {
        is_known: &|identity| {
            state
                .fqdn
                .iter()
                .any(|(known, _)| *known == IdentityId(identity))
        },
        in_shadow: &|identity| state.fqdn_in_shadow.contains(&IdentityId(identity)),
    };
    for address in &answer.addresses {
        let mut refused = 0;
        let mut granted = Vec::new();
        if !enforced.is_empty() {
            if has_room(view, state, Some(endpoint), (*address, expires), now) {
                granted.extend(&enforced);
            } else {
                refused += 1;
            }
        }
        if !in_shadow.is_empty() {
            // Beside an enforced one it takes no address more.
            if !granted.is_empty() || has_room(view, state, None, (*address, expires), now) {
                granted.extend(&in_shadow);
            } else {
                refused += 1;
            }
        }
        if !granted.is_empty() {
            let is_enforced = granted.iter().any(|identity| enforced.contains(identity));
            let mut write = || {
                state.tables.change_fqdn(*address, |info| {
                    for identity in &granted {
                        if !grant(info, (identity.get(), expires), now, &names) {
                            refused += 1;
                        }
                    }
                })
            };
            let mut written = write();
            if is_enforced
                && let Err(error) = &written
                && error.raw_os_error() == Some(libc::E2BIG)
                && let Ok(1..) = state.tables.make_room(now, names.in_shadow)
            {
                written = write();
            }
            if let Err(error) = written {
                tracing::warn!(name, %address, %error, "an address cannot be learned");
                refused += 1;
            }
        }
        for _ in 0..refused {
            Counters::add(&view.shared.records.counters.fqdn_overflow);
        }
    }
    view.learned(Learned {
        name: name.to_owned(),
        addresses: answer
            .addresses
            .iter()
            .map(|address| (*address, ttl))
            .collect(),
    });
}

/// Is there room in the table for an address of this endpoint, or (`None`) of what is in
/// shadow? That has half a share for the whole node, and counts against no endpoint's.
fn has_room(
    view: &View,
    state: &State,
    endpoint: Option<EndpointId>,
    place: (IpAddr, u32),
    now: u32,
) -> bool {
    let share = state.tables.fqdn_share();
    let is_shadow = endpoint.is_none();
    let is_there = |address| {
        let names = state.tables.names_of(address).unwrap_or_default();
        let mut names = names.identities.iter().filter(|name| **name != 0);
        names.any(|name| state.fqdn_in_shadow.contains(&IdentityId(*name)) == is_shadow)
    };
    match endpoint {
        Some(endpoint) => {
            let quotas = &view.shared.quotas;
            quotas.take(endpoint, place, now, share, &is_there)
        }
        None => {
            let quotas = &view.shared.quotas_in_shadow;
            quotas.take(EndpointId(0), place, now, share.div_ceil(2), &is_there)
        }
    }
}

/// What is known of the identities of names.
struct Names<'n> {
    /// Is it a selector's?
    is_known: &'n dyn Fn(u32) -> bool,
    /// Is it of a selector in shadow alone?
    in_shadow: &'n dyn Fn(u32) -> bool,
}

/// Gives an address an identity until `expires`, in the place it has, a free one, that of
/// one in shadow, or one whose identity has expired or is no selector's any more. One in
/// shadow takes nothing from what is enforced, not even what has expired, by which live
/// flows still go. False if there is no place.
fn grant(
    info: &mut FqdnInfo,
    (identity, expires): (u32, u32),
    now: u32,
    names: &Names<'_>,
) -> bool {
    let (is_known, in_shadow) = (names.is_known, names.in_shadow);
    let place = |wanted: &dyn Fn(usize) -> bool| (0..info.identities.len()).find(|i| wanted(*i));
    let own = place(&|i| info.identities[i] == identity);
    let free = place(&|i| info.identities[i] == 0);
    let is_stale = |i: usize| !is_fresh(info.expires[i], now) || !is_known(info.identities[i]);
    let others = || {
        if in_shadow(identity) {
            place(&|i| in_shadow(info.identities[i]) && is_stale(i))
        } else {
            let shadows = (0..info.identities.len()).filter(|i| in_shadow(info.identities[*i]));
            shadows
                .min_by_key(|i| info.expires[*i])
                .or_else(|| place(&is_stale))
        }
    };
    let Some(at) = own.or(free).or_else(others) else {
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
    use std::{rc::Rc, sync::atomic::Ordering::Relaxed};

    use tidegate_contract::Snapshot;
    use tidegate_ebpf_shared::limits::FQDN_GRACE;
    use tidegate_policy::compiled::Generation;
    use tidegate_policy::{compiled::FqdnSelector, shared::Map};

    use super::*;
    use crate::testing::{snapshot, view_with};

    /// All are selectors', and enforced.
    const KNOWN: Names<'_> = Names {
        is_known: &|_| true,
        in_shadow: &|_| false,
    };

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
            assert!(grant(&mut places, given, now, &KNOWN));
            assert_eq!(places, info(expected), "{given:?} {now}");
        }
    }

    #[test]
    fn a_full_entry_takes_only_what_replaces_the_expired_and_the_forgotten() {
        let count = FqdnInfo::default().identities.len() as u32;
        let places: Vec<(u32, u32)> = (0..count).map(|n| (100 + n, 1_000 + n)).collect();
        let full = info(&places);
        let mut now = full;
        let forgotten = Names {
            is_known: &|id| id != 103,
            ..KNOWN
        };
        assert!(!grant(&mut now, (5, 2_000), 50, &KNOWN));
        assert_eq!(now, full);
        assert!(
            grant(&mut now, (5, 2_000), 1_000 + FQDN_GRACE, &KNOWN),
            "the first has expired"
        );
        assert_eq!((now.identities[0], now.expires[0]), (5, 2_000));
        assert!(
            grant(&mut now, (6, 2_000), 50, &forgotten),
            "no selector's any more"
        );
        assert_eq!((now.identities[3], now.expires[3]), (6, 2_000));
    }
    #[test]
    fn one_in_shadow_gives_way_and_takes_nothing() {
        let count = FqdnInfo::default().identities.len() as u32;
        // All are enforced but two, and some have expired.
        let places: Vec<(u32, u32)> = (0..count).map(|n| (100 + n, 10 + 10 * n)).collect();
        let names = Names {
            in_shadow: &|id| [105, 107, 200, 201].contains(&id),
            ..KNOWN
        };
        let mut now = info(&places);
        assert!(!grant(&mut now, (200, 999), 60, &names), "others' places");
        assert_eq!(now, info(&places));
        assert!(grant(&mut now, (200, 999), 60 + FQDN_GRACE, &names));
        assert_eq!(now.identities[5], 200, "that of one in shadow has expired");
        let after = 500 + FQDN_GRACE;
        for (identity, at) in [(300, 7), (301, 5), (302, 0)] {
            assert!(grant(&mut now, (identity, 999), after, &names));
            assert_eq!(now.identities[at], identity, "{now:?}");
        }
        assert!(!grant(&mut now, (201, 999), after, &names));
    }

    /// A view where 17 selectors in shadow match every name, and one that is enforced, the
    /// last by its number, `api.example` alone; and the table has this many places.
    fn view(addresses: u32) -> Rc<View> {
        let in_shadow = (100..117).map(IdentityId);
        let any = |id| (id, FqdnSelector::MatchPattern("*.example.".to_owned()));
        let mut fqdn: Map<_, _> = in_shadow.clone().map(any).collect();
        fqdn.insert(
            IdentityId(200),
            FqdnSelector::MatchName("api.example.".to_owned()),
        );
        let snapshot = Snapshot {
            fqdn,
            fqdn_in_shadow: in_shadow.collect(),
            ..snapshot(Generation(1))
        };
        view_with(snapshot, Vec::new(), addresses)
    }

    fn answer(last: u8) -> Answer {
        Answer {
            addresses: vec![[192, 0, 2, last].into()],
            ttl: 60,
            ..Answer::default()
        }
    }

    fn identities(view: &View, last: u8) -> Vec<u32> {
        let info = view.current().state.tables.fqdn([192, 0, 2, last].into());
        let identities = info.unwrap_or_default().identities.into_iter();
        identities.filter(|identity| *identity != 0).collect()
    }

    #[test]
    fn names_in_shadow_leave_the_enforced_their_place() {
        let view = view(16);
        learn(&view, EndpointId(3), "api.example.", &answer(1));
        let expected: Vec<u32> = [200].into_iter().chain(100..115).collect();
        assert_eq!(identities(&view, 1), expected);
        // Where those in shadow were first, they give way.
        learn(&view, EndpointId(3), "other.example.", &answer(2));
        assert_eq!(identities(&view, 2), (100..116).collect::<Vec<_>>());
        learn(&view, EndpointId(3), "api.example.", &answer(2));
        assert!(identities(&view, 2).contains(&200));
    }

    #[test]
    fn names_in_shadow_leave_the_enforced_their_share() {
        // A share is four addresses, what is in shadow has two.
        let view = view(32);
        for last in 1..=4 {
            learn(&view, EndpointId(3), "other.example.", &answer(last));
        }
        let in_shadow: Vec<_> = (1..=4).map(|n| identities(&view, n).len()).collect();
        assert_eq!(in_shadow, [16, 16, 0, 0]);
        learn(&view, EndpointId(4), "other.example.", &answer(3));
        assert!(identities(&view, 3).is_empty(), "of all workloads together");
        for last in 2..=6 {
            learn(&view, EndpointId(3), "api.example.", &answer(last));
        }
        let enforced = (1..=6).filter(|n| identities(&view, *n).contains(&200));
        assert_eq!(enforced.collect::<Vec<_>>(), [2, 3, 4, 5]);
    }

    #[test]
    fn in_a_full_table_what_is_in_shadow_makes_room() {
        // A share is one address, and so is what is in shadow.
        let view = view(2);
        learn(&view, EndpointId(3), "other.example.", &answer(1));
        learn(&view, EndpointId(3), "api.example.", &answer(2));
        assert_eq!(identities(&view, 1).len(), 16);
        learn(&view, EndpointId(4), "api.example.", &answer(3));
        assert!(identities(&view, 3).contains(&200));
        assert!(identities(&view, 2).contains(&200), "nothing enforced left");
        assert!(identities(&view, 1).is_empty());
        // Nobody else gives way, and that is counted.
        let overflow = &view.shared.records.counters.fqdn_overflow;
        let before = overflow.load(Relaxed);
        learn(&view, EndpointId(5), "api.example.", &answer(4));
        assert!(identities(&view, 4).is_empty());
        assert!(overflow.load(Relaxed) > before);
    }
}
