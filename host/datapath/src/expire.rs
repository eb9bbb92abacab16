//! Sweeps out what time has ended: flows that went silent, and addresses of names
//! whose answers have expired.

use std::collections::HashSet;
use tidegate_policy::compiled::IdentityId;

use nix::time::{ClockId, clock_gettime};
use tidegate_decide::{flow::is_gone, policy::is_fresh};
use tidegate_ebpf_shared::{addr::Addr, flow::FlowEntry, flow::FlowKey, identity::FqdnInfo};

use super::{Datapath, DatapathError, table::Table};

/// The clocks of the kernel's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// `CLOCK_MONOTONIC`, nanoseconds: flows.
    pub monotonic_ns: u64,
    /// `CLOCK_BOOTTIME`, seconds: learned addresses.
    pub boot_s: u32,
}

impl Clocks {
    /// What they say now.
    pub fn now() -> Self {
        let read = |clock| clock_gettime(clock).map_or((0, 0), |t| (t.tv_sec(), t.tv_nsec()));
        let (seconds, nanoseconds) = read(ClockId::CLOCK_MONOTONIC);
        let (boot, _) = read(ClockId::CLOCK_BOOTTIME);
        Self {
            monotonic_ns: seconds as u64 * 1_000_000_000 + nanoseconds as u64,
            boot_s: u32::try_from(boot).unwrap_or(u32::MAX),
        }
    }
}

/// What a sweep found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Flows that are left.
    pub flows: usize,
    /// Flows removed.
    pub flows_removed: usize,
    /// Learned addresses that are left.
    pub fqdn: usize,
    /// Learned addresses removed, or with fewer names than before.
    pub fqdn_expired: usize,
}

impl Datapath {
    /// Removes what has expired by `now`: flows past their idle limit, and FQDN
    /// identities past their time, unless a live flow still uses the address. Looks as
    /// well whether flows that were steered since the last time have reached the proxy.
    pub fn expire(&mut self, now: Clocks) -> Result<Sweep, DatapathError> {
        let mut sweep = Sweep::default();
        self.reach.look(self.reader().arrivals()?);
        self.reach.look_at_firewalls();
        let mut in_use = HashSet::new();
        for (key, entry) in self.tables.flows.entries()? {
            if is_gone(&key, &entry, now.monotonic_ns)
                && remove_flow(&self.tables.flows, &key, now)?
            {
                sweep.flows_removed += 1;
            } else {
                sweep.flows += 1;
                in_use.extend([key.low_addr, key.high_addr]);
            }
        }
        for (addr, info) in self.tables.fqdn.entries()? {
            // Of an address in use only what no policy names any more goes.
            let by = if in_use.contains(&addr) {
                0
            } else {
                now.boot_s
            };
            if still_valid(&info, by, &self.names) == info {
                sweep.fqdn += 1;
                continue;
            }
            sweep.fqdn_expired += 1;
            if shorten(&self.tables.fqdn, &addr, by, &self.names)? {
                sweep.fqdn += 1;
            }
        }
        Ok(sweep)
    }
}

/// Removes a flow unless it has spoken since the table was read.
fn remove_flow(
    flows: &Table<FlowKey, FlowEntry>,
    key: &FlowKey,
    now: Clocks,
) -> Result<bool, DatapathError> {
    match flows.get(key)? {
        Some(entry) if is_gone(key, &entry, now.monotonic_ns) => flows.delete(key),
        Some(_) => Ok(false),
        None => Ok(true),
    }
}

/// Takes the expired identities from an address; says whether any are left.
///
/// The proxy may learn the same address at this moment. So the entry is taken out
/// as one step, and what is still valid of it goes back only if nobody has put
/// something newer there.
fn shorten(
    fqdn: &Table<Addr, FqdnInfo>,
    addr: &Addr,
    now: u32,
    names: &Names,
) -> Result<bool, DatapathError> {
    let Some(info) = fqdn.take(addr)? else {
        return Ok(false);
    };
    let left = still_valid(&info, now, names);
    if left == FqdnInfo::default() {
        return Ok(false);
    }
    if !fqdn.put_new(addr, &left)?
        && let Some(newer) = fqdn.get(addr)?
    {
        fqdn.put(addr, &merged(newer, &left))?;
    }
    Ok(true)
}

/// Identities of selectors. What a generation does not name yet is not forgotten: the
/// proxy knows the next one, and learns for it, before the kernel does.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Those of the generation in force.
    current: HashSet<IdentityId>,
    /// Those that generations of this process had before.
    forgotten: HashSet<IdentityId>,
}

impl Names {
    /// A generation with these names is in force now.
    pub(super) fn replace(&mut self, names: impl Iterator<Item = IdentityId>) {
        self.forgotten.extend(self.current.drain());
        self.current.extend(names);
        let Self { current, forgotten } = self;
        forgotten.retain(|name| !current.contains(name));
    }
}

/// The identities that have not expired and stand for a selector, moved to the front.
fn still_valid(info: &FqdnInfo, now: u32, names: &Names) -> FqdnInfo {
    let mut left = FqdnInfo::default();
    let valid = info
        .identities
        .iter()
        .zip(info.expires)
        .filter(|(identity, expires)| {
            **identity != 0
                && is_fresh(*expires, now)
                && !names.forgotten.contains(&IdentityId(**identity))
        });
    for (place, (identity, expires)) in valid.enumerate() {
        left.identities[place] = *identity;
        left.expires[place] = expires;
    }
    left
}

/// `newer` with what it lacks of `older`, as far as there is room.
fn merged(mut newer: FqdnInfo, older: &FqdnInfo) -> FqdnInfo {
    for (identity, expires) in older.identities.iter().zip(older.expires) {
        if *identity == 0 || newer.identities.contains(identity) {
            continue;
        }
        if let Some(place) = newer.identities.iter().position(|id| *id == 0) {
            newer.identities[place] = *identity;
            newer.expires[place] = expires;
        }
    }
    newer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(pairs: &[(u32, u32)]) -> FqdnInfo {
        let mut info = FqdnInfo::default();
        for (place, (identity, expires)) in pairs.iter().enumerate() {
            info.identities[place] = *identity;
            info.expires[place] = *expires;
        }
        info
    }

    #[test]
    fn expired_identities_go_and_the_others_move_up() {
        let check = |given: &[(u32, u32)], now, expected: &[(u32, u32)]| {
            assert_eq!(
                still_valid(&info(given), now, &Names::default()),
                info(expected)
            );
        };
        check(&[(1, 10), (2, 20)], 5, &[(1, 10), (2, 20)]);
        let grace = tidegate_ebpf_shared::limits::FQDN_GRACE;
        check(&[(1, 10), (2, 20)], 9 + grace, &[(1, 10), (2, 20)]);
        check(&[(1, 10), (2, 20)], 10 + grace, &[(2, 20)]);
        check(&[(1, 10), (2, 20)], 20 + grace, &[]);
        let mut names = Names::default();
        let places = info(&[(1, 10), (2, 20), (3, 30)]);
        for (generation, left) in [
            (&[1, 2][..], &[(1, 10), (2, 20), (3, 30)][..]),
            // No policy has the first any more; the third is of a generation to come.
            (&[2], &[(2, 20), (3, 30)]),
            (&[3], &[(3, 30)]),
            (&[1, 3], &[(1, 10), (3, 30)]),
        ] {
            names.replace(generation.iter().copied().map(IdentityId));
            assert_eq!(still_valid(&places, 5, &names), info(left), "{names:?}");
        }
    }

    #[test]
    fn merging_keeps_the_newer_expiry_and_drops_what_has_no_room() {
        let check = |newer: &[(u32, u32)], older: &[(u32, u32)], expected: &[(u32, u32)]| {
            assert_eq!(merged(info(newer), &info(older)), info(expected));
        };
        check(&[(1, 30)], &[(1, 10), (2, 20)], &[(1, 30), (2, 20)]);
        let full: Vec<(u32, u32)> = (1..=FqdnInfo::default().identities.len() as u32)
            .map(|identity| (identity, 9))
            .collect();
        check(&full, &[(99, 9)], &full);
    }
}
