//! From an answer to the kernel's table: which FQDN identities an address has.

use nix::time::{ClockId, clock_gettime};
use tidegate_ebpf_shared::identity::FqdnInfo;
use tidegate_wire::dns::Answer;

use crate::proxy::{
    records::{Counters, Learned},
    state::View,
};

/// Writes the addresses of an answer under every selector that matches the name, and
/// tells the agent. What does not fit stays denied, and is counted.
pub(super) fn learn(view: &View, name: &str, answer: &Answer) {
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
        for address in &answer.addresses {
            let mut refused = 0;
            let written = state.tables.change_fqdn(*address, |info| {
                for identity in &matching {
                    if !grant(info, *identity, now, now.saturating_add(ttl)) {
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
/// one that has expired. False if there is none.
fn grant(info: &mut FqdnInfo, identity: u32, now: u32, expires: u32) -> bool {
    let place = |wanted: &dyn Fn(usize) -> bool| (0..info.identities.len()).find(|i| wanted(*i));
    let own = place(&|i| info.identities[i] == identity);
    let free = place(&|i| info.identities[i] == 0);
    let expired = place(&|i| info.expires[i] < now);
    let Some(at) = own.or(free).or(expired) else {
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
fn boot_seconds() -> u32 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .ok()
        .and_then(|time| u32::try_from(time.tv_sec()).ok())
        .unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let info = FqdnInfo {
            identities: [7, 8, 9, 0],
            expires: [100, 200, 300, 0],
        };
        /// Identity, now, expiry: identities and expiries afterwards.
        type Row = (u32, u32, u32, [u32; 4], [u32; 4]);
        let rows: [Row; 4] = [
            // Its own place, extended; not shortened.
            (8, 150, 400, [7, 8, 9, 0], [100, 400, 300, 0]),
            (8, 150, 160, [7, 8, 9, 0], [100, 200, 300, 0]),
            // A free place before an expired one.
            (5, 150, 400, [7, 8, 9, 5], [100, 200, 300, 400]),
            (5, 50, 400, [7, 8, 9, 5], [100, 200, 300, 400]),
        ];
        for (identity, now, expires, identities, expiries) in rows {
            let mut info = info;
            assert!(grant(&mut info, identity, now, expires));
            assert_eq!(
                (info.identities, info.expires),
                (identities, expiries),
                "{identity} {now}"
            );
        }
    }

    #[test]
    fn a_full_entry_takes_only_what_replaces_the_expired() {
        let full = FqdnInfo {
            identities: [6, 7, 8, 9],
            expires: [100, 200, 300, 400],
        };
        let mut info = full;
        assert!(!grant(&mut info, 5, 50, 500));
        assert_eq!(info, full);
        assert!(grant(&mut info, 5, 150, 500));
        assert_eq!(
            (info.identities, info.expires),
            ([5, 7, 8, 9], [500, 200, 300, 400])
        );
    }
}
