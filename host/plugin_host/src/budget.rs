//! How often a peer may make a plugin fail, and how long it may hold up a thread.
//!
//! Both are per binding **and peer**: the client whose messages make a plugin trap, or
//! compute for long, pays itself. Everybody else's messages are decided as if nothing
//! had happened.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// Failures within [`WINDOW`] that use the budget up.
const FAILURES: usize = 10;
/// Failures older than this are forgotten.
const WINDOW: Duration = Duration::from_secs(10);
/// First suspension; each further one lasts twice as long, up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// A call that took longer held up everybody else on its thread. Such calls have an
/// allowance of their own: [`LONG_BURST`] at once, and in the long run one
/// [`LONG_PART`]th of the time, too little to show in the 99th percentile of others.
const LONG: Duration = Duration::from_millis(1);
const LONG_BURST: Duration = Duration::from_millis(20);
const LONG_PART: u32 = 200;

/// Peers remembered per binding; the one quiet for longest is forgotten. Somebody who
/// changes addresses to be forgotten still meets the binding's share of the thread.
const PEERS: usize = 1_024;

/// Why a peer's message is not put to the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// Its messages made the plugin fail too often.
    Suspended,
    /// Its messages held the thread for too long.
    TooLong,
}

/// Budgets of all peers of one binding, shared by all threads. Times are since the
/// runtime's start.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    /// Peers remembered. Most bindings have none, and pay one load for it.
    count: AtomicUsize,
    peers: Mutex<BTreeMap<IpAddr, Peer>>,
}

#[derive(Debug, Default)]
struct Peer {
    failures: VecDeque<Duration>,
    /// Length and end of the last suspension.
    last: Option<(Duration, Duration)>,
    /// Time of long calls not yet paid off, and when that was true.
    debt: Duration,
    debt_at: Duration,
    /// Last entry of either kind.
    seen: Duration,
}

impl Budgets {
    /// Why a peer's message must not be put to the plugin now, if so.
    pub(super) fn blocked(&self, peer: IpAddr, now: impl FnOnce() -> Duration) -> Option<Blocked> {
        if self.count.load(Relaxed) == 0 {
            return None;
        }
        let now = now();
        self.peers().get(&peer)?.blocked(now)
    }

    /// A call for this peer failed. `Some`: the peer is suspended for this long.
    pub(super) fn failed(&self, peer: IpAddr, now: Duration) -> Option<Duration> {
        self.remember(peer, now, |peer| peer.failed(now))
    }

    /// A call for this peer took so long.
    pub(super) fn took(&self, peer: IpAddr, length: Duration, now: impl FnOnce() -> Duration) {
        if length > LONG {
            let now = now();
            self.remember(peer, now, |peer| {
                peer.debt = peer.debt(now) + length;
                peer.debt_at = now;
            });
        }
    }

    /// Peers suspended or held back now, and the longest time until one is tried again.
    pub(super) fn held_back(&self, now: Duration) -> (usize, Duration) {
        let peers = self.peers();
        let blocked = peers.values().filter(|peer| peer.blocked(now).is_some());
        let ends = peers
            .values()
            .filter_map(|peer| peer.last)
            .map(|(_, end)| end);
        let longest = ends.max().unwrap_or_default().saturating_sub(now);
        (blocked.count(), longest)
    }

    fn remember<R>(&self, peer: IpAddr, now: Duration, note: impl FnOnce(&mut Peer) -> R) -> R {
        let mut peers = self.peers();
        if !peers.contains_key(&peer) && peers.len() >= PEERS {
            peers.retain(|_, peer| peer.matters(now));
            let quiet = peers.iter().min_by_key(|(_, peer)| peer.seen);
            if let Some(quiet) = quiet.map(|(peer, _)| *peer)
                && peers.len() >= PEERS
            {
                peers.remove(&quiet);
            }
        }
        let known = peers.entry(peer).or_default();
        known.seen = now;
        let noted = note(known);
        self.count.store(peers.len(), Relaxed);
        noted
    }

    fn peers(&self) -> std::sync::MutexGuard<'_, BTreeMap<IpAddr, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    fn blocked(&self, now: Duration) -> Option<Blocked> {
        if self.last.is_some_and(|(_, until)| now < until) {
            Some(Blocked::Suspended)
        } else if self.debt(now) > LONG_BURST {
            Some(Blocked::TooLong)
        } else {
            None
        }
    }

    /// What is left of the debt.
    fn debt(&self, now: Duration) -> Duration {
        let paid = now.saturating_sub(self.debt_at) / LONG_PART;
        self.debt.saturating_sub(paid)
    }

    /// Does anything here still change an answer?
    fn matters(&self, now: Duration) -> bool {
        let recent = |at: Duration| now < at + WINDOW;
        self.failures.back().copied().is_some_and(recent)
            || self.last.is_some_and(|(_, until)| recent(until))
            || !self.debt(now).is_zero()
    }

    fn failed(&mut self, now: Duration) -> Option<Duration> {
        if self.last.is_some_and(|(_, until)| now < until) {
            // Another thread's call was under way when the suspension began.
            return None;
        }
        self.failures.push_back(now);
        while self
            .failures
            .front()
            .is_some_and(|first| *first + WINDOW < now)
        {
            self.failures.pop_front();
        }
        // On probation for one window after a suspension: one failure is enough.
        let probation = self.last.filter(|(_, until)| now < *until + WINDOW);
        let suspension = match probation {
            Some((length, _)) => (length * 2).min(LONGEST),
            None if self.failures.len() >= FAILURES => FIRST,
            None => return None,
        };
        self.failures.clear();
        self.last = Some((suspension, now + suspension));
        Some(suspension)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const fn peer(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(n))
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Failures at these milliseconds; the answers that are suspensions, in seconds.
    fn check(failures_ms: &[u64], expected: &[(u64, u64)]) {
        let budgets = Budgets::default();
        let mut suspensions = Vec::new();
        for at in failures_ms {
            if let Some(length) = budgets.failed(peer(1), ms(*at)) {
                suspensions.push((*at, length.as_secs()));
            }
        }
        assert_eq!(suspensions, expected, "{failures_ms:?}");
    }

    #[test]
    fn ten_failures_in_ten_seconds_suspend_and_repetition_doubles() {
        check(&[1; 9], &[]);
        check(&[1; 10], &[(1, 1)]);
        let slow: Vec<u64> = (0..30).map(|n| n * 1_200).collect();
        check(&slow, &[]);
        let mut again = vec![0; 10];
        again.extend([
            500, 1_000, 3_000, 7_000, 15_000, 31_000, 63_000, 123_000, 183_000,
        ]);
        check(
            &again,
            &[
                (0, 1),
                (1_000, 2),
                (3_000, 4),
                (7_000, 8),
                (15_000, 16),
                (31_000, 32),
                (63_000, 60),
                (123_000, 60),
                (183_000, 60),
            ],
        );
        let mut healed = vec![0; 10];
        healed.push(12_000);
        check(&healed, &[(0, 1)]);
    }

    #[test]
    fn a_suspension_ends_and_is_its_peers_alone() {
        let budgets = Budgets::default();
        let at = |time, who| budgets.blocked(peer(who), || ms(time));
        assert_eq!(at(0, 1), None);
        for _ in 0..FAILURES {
            budgets.failed(peer(1), ms(100));
        }
        assert_eq!(at(600, 1), Some(Blocked::Suspended));
        assert_eq!(at(600, 2), None);
        assert_eq!(budgets.held_back(ms(600)), (1, ms(500)));
        assert_eq!(at(1_100, 1), None);
    }

    #[test]
    fn long_calls_have_an_allowance_of_their_own() {
        let budgets = Budgets::default();
        let mut asked = 0;
        // Eighty messages a second that would each take eight milliseconds.
        for n in 0..800 {
            let now = ms(n * 1_000 / 80);
            if budgets.blocked(peer(1), || now).is_none() {
                budgets.took(peer(1), ms(8), || now);
                asked += 1;
            }
        }
        assert!((3..=10).contains(&asked), "{asked}");
        for _ in 0..1_000 {
            budgets.took(peer(2), Duration::from_micros(1_000), || ms(0));
        }
        assert_eq!(budgets.blocked(peer(2), || ms(0)), None);
    }

    #[test]
    fn peers_are_bounded_and_the_quiet_ones_go_first() {
        let budgets = Budgets::default();
        for n in 0..3 * u32::try_from(PEERS).unwrap() {
            budgets.failed(peer(n), ms(u64::from(n)));
        }
        assert_eq!(budgets.peers().len(), PEERS);
        assert!(!budgets.peers().contains_key(&peer(0)));
    }
}
