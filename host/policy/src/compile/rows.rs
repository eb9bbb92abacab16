//! From port ranges to the entries of a row.

use std::collections::BTreeMap;

use crate::{
    compiled::{Decision, PortMatch},
    protocol,
};

/// Ports of one protocol, and what speaks about them. For ICMP the numbers are types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Term {
    /// What speaks; the meaning is the caller's.
    pub(super) speaker: Speaker,
    /// IANA protocol; `None` means every protocol, known here or not.
    pub(super) protocol: Option<u8>,
    /// First port.
    pub(super) first: u16,
    /// Last port.
    pub(super) last: u16,
}

/// Who speaks about ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Speaker {
    /// A clause, by index; `exact` if it names this one port.
    Clause {
        /// Index.
        index: usize,
        /// Names exactly one port (DNS rules care).
        exact: bool,
    },
    /// A plugin binding, by index.
    Binding(usize),
}

/// Builds the entries of a row: every elementary interval of ports is decided once
/// by `decide`, then written as blocks over the most common decision.
pub(super) fn build(
    terms: &[Term],
    mut decide: impl FnMut(&[Speaker]) -> Decision,
) -> Vec<(PortMatch, Decision)> {
    let everywhere: Vec<Speaker> = sorted(terms.iter().filter(|t| t.protocol.is_none()));
    let catch_all = decide(&everywhere);
    let mut entries = vec![(PortMatch::Any, catch_all)];
    for number in protocol::ALL {
        let own: Vec<&Term> = terms
            .iter()
            .filter(|t| t.protocol == Some(number))
            .collect();
        if own.is_empty() {
            continue;
        }
        let intervals = sweep(&own, &everywhere, top(number), &mut decide);
        let common = most_common(&intervals);
        if common != catch_all {
            entries.push((PortMatch::Protocol(number), common));
        }
        for (first, last, decision) in intervals {
            if decision != common {
                let blocks = blocks(number, first, last);
                entries.extend(blocks.into_iter().map(|block| (block, decision)));
            }
        }
    }
    entries
}

/// Highest port, or ICMP type.
fn top(number: u8) -> u16 {
    if protocol::is_icmp(number) {
        u8::MAX.into()
    } else {
        u16::MAX
    }
}

fn sorted<'t>(terms: impl Iterator<Item = &'t Term>) -> Vec<Speaker> {
    let mut speakers: Vec<Speaker> = terms.map(|term| term.speaker).collect();
    speakers.sort_unstable();
    speakers.dedup();
    speakers
}

/// Walks over the ports from 0 to `top` and decides each stretch in which the same
/// terms speak. Neighbours with the same decision are joined.
fn sweep(
    own: &[&Term],
    everywhere: &[Speaker],
    top: u16,
    decide: &mut impl FnMut(&[Speaker]) -> Decision,
) -> Vec<(u16, u16, Decision)> {
    // Changes by port: what begins there, and what ended just before.
    let mut changes: BTreeMap<u32, Vec<(Speaker, bool)>> = BTreeMap::from([(0, Vec::new())]);
    for term in own {
        let end = u32::from(term.last) + 1;
        changes
            .entry(term.first.into())
            .or_default()
            .push((term.speaker, true));
        changes.entry(end).or_default().push((term.speaker, false));
    }
    // A speaker may have several overlapping terms, so they are counted.
    let mut speaking: BTreeMap<Speaker, usize> =
        everywhere.iter().map(|speaker| (*speaker, 1)).collect();
    let mut intervals: Vec<(u16, u16, Decision)> = Vec::new();
    let mut starts = changes.iter().peekable();
    while let Some((start, list)) = starts.next() {
        for (speaker, begins) in list {
            let count = speaking.entry(*speaker).or_default();
            *count = if *begins {
                *count + 1
            } else {
                count.saturating_sub(1)
            };
            if *count == 0 {
                speaking.remove(speaker);
            }
        }
        let end = starts.peek().map_or(u32::from(top) + 1, |(next, _)| **next);
        let (Ok(first), Ok(last)) = (u16::try_from(*start), u16::try_from(end - 1)) else {
            break;
        };
        if first > top {
            break;
        }
        let speakers: Vec<Speaker> = speaking.keys().copied().collect();
        let decision = decide(&speakers);
        match intervals.last_mut() {
            Some((_, before, same)) if *same == decision => *before = last.min(top),
            _ => intervals.push((first, last.min(top), decision)),
        }
    }
    intervals
}

/// The decision that covers the most ports.
fn most_common(intervals: &[(u16, u16, Decision)]) -> Decision {
    let mut covered: BTreeMap<Decision, u32> = BTreeMap::new();
    for (first, last, decision) in intervals {
        *covered.entry(*decision).or_default() += u32::from(last - first) + 1;
    }
    let most = covered.into_iter().max_by_key(|(_, ports)| *ports);
    most.map_or(super::DENY_ALL, |(decision, _)| decision)
}

/// The fewest power-of-two blocks that cover the range exactly.
fn blocks(number: u8, first: u16, last: u16) -> Vec<PortMatch> {
    if protocol::is_icmp(number) {
        let single = |ty: u16| PortMatch::Ports {
            protocol: number,
            port: ty << 8,
            bits: 8,
        };
        return (first..=last).map(single).collect();
    }
    let mut blocks = Vec::new();
    let (mut start, end) = (u32::from(first), u32::from(last) + 1);
    while start < end {
        // The largest block that begins here: limited by alignment and by what is left.
        let aligned = if start == 0 {
            16
        } else {
            start.trailing_zeros()
        };
        let fits = (end - start).ilog2();
        let size = aligned.min(fits);
        blocks.push(PortMatch::Ports {
            protocol: number,
            port: start as u16,
            bits: (16 - size) as u8,
        });
        start += 1 << size;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(first: u16, last: u16, expected: &[(u16, u8)]) {
        let got: Vec<(u16, u8)> = blocks(protocol::TCP, first, last)
            .into_iter()
            .map(|block| match block {
                PortMatch::Ports { port, bits, .. } => (port, bits),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(got, expected, "{first}-{last}");
    }

    #[test]
    fn ranges_become_blocks() {
        check(80, 80, &[(80, 16)]);
        check(8080, 8081, &[(8080, 15)]);
        check(1, 7, &[(1, 16), (2, 15), (4, 14)]);
        check(0, 1023, &[(0, 6)]);
        check(32768, 65535, &[(32768, 1)]);
        check(65535, 65535, &[(65535, 16)]);
        check(
            1,
            65535,
            &(0..16).map(|i| (1 << i, 16 - i as u8)).collect::<Vec<_>>(),
        );
    }

    #[test]
    fn blocks_cover_exactly() {
        for (first, last) in [(0, 65534), (3, 60000), (1000, 2000), (65000, 65535)] {
            let mut covered = vec![0u8; 65536];
            for block in blocks(protocol::UDP, first, last) {
                let PortMatch::Ports { port, bits, .. } = block else {
                    panic!("{block:?}")
                };
                let size = 1usize << (16 - bits);
                let first = usize::from(port);
                for times in &mut covered[first..first + size] {
                    *times += 1;
                }
            }
            for (port, times) in covered.iter().enumerate() {
                let inside = (usize::from(first)..=usize::from(last)).contains(&port);
                assert_eq!(*times, u8::from(inside), "{first}-{last} at {port}");
            }
        }
    }
}
