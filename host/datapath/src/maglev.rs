//! Maglev tables (Eisenbud et al., NSDI '16, §3.4), built as Cilium builds them, so
//! that nodes of either kind choose the same backend for the same hash. Pure.

use tidegate_ebpf_shared::limits::MAGLEV_TABLE;

/// Places in a table, a prime.
const M: u64 = MAGLEV_TABLE as u64;
/// First four bytes, big-endian, of Cilium's default seed `JLfvgnHc2kaSUFaI`.
const HASH_SEED: u32 = 0x24b7_ef82;

/// A backend as the table knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// What is hashed; the same on every node.
    pub(super) name: String,
    /// What is written into the table.
    pub(super) id: u32,
    /// Relative share, at least 1.
    pub(super) weight: u32,
}

/// The table for these candidates; empty for none. Their order does not matter.
pub(super) fn table(candidates: &[Candidate]) -> Vec<u32> {
    if candidates.is_empty() {
        return Vec::new();
    }
    let mut candidates = candidates.to_vec();
    candidates.sort_by(|a, b| a.name.cmp(&b.name));
    let mut walks: Vec<Walk> = candidates.iter().map(Walk::new).collect();
    let mut turns = Turns::new(&candidates);
    let mut places = vec![None; M as usize];
    for number in 0..M {
        let index = turns.next(number);
        let place = walks[index].next_free(&places);
        places[place] = Some(candidates[index].id);
    }
    places.into_iter().flatten().collect()
}

/// Whose turn it is: one after the other, where a candidate waits until its weight
/// has earned it the next place.
struct Turns {
    weights: Vec<u64>,
    sum: u64,
    /// The (fractional) place number each has to earn.
    due: Vec<f64>,
}

impl Turns {
    fn new(candidates: &[Candidate]) -> Self {
        let weights: Vec<u64> = candidates.iter().map(|c| c.weight.max(1).into()).collect();
        Self {
            due: weights
                .iter()
                .map(|weight| *weight as f64 / weights.len() as f64)
                .collect(),
            sum: weights.iter().sum(),
            weights,
        }
    }

    /// The candidate that gets place `number`.
    fn next(&mut self, number: u64) -> usize {
        let count = self.weights.len();
        let first = (number % count as u64) as usize;
        if self.sum <= count as u64 {
            return first;
        }
        let index = (first..first + count)
            .map(|index| index % count)
            .find(|index| (number + 1) * self.weights[*index] >= self.due[*index] as u64)
            // Somebody is always due: together they earn one place per place.
            .unwrap_or(first);
        self.due[index] += self.sum as f64;
        index
    }
}

/// One candidate's permutation of the places.
struct Walk {
    position: u64,
    skip: u64,
}

impl Walk {
    fn new(candidate: &Candidate) -> Self {
        let (h1, h2) = murmur3_x64_128(candidate.name.as_bytes(), HASH_SEED);
        Self {
            position: h1 % M,
            skip: h2 % (M - 1) + 1,
        }
    }

    /// The next place in the permutation that nobody has.
    fn next_free(&mut self, places: &[Option<u32>]) -> usize {
        loop {
            let place = self.position as usize;
            self.position = (self.position + self.skip) % M;
            if places[place].is_none() {
                return place;
            }
        }
    }
}

/// MurmurHash3, the 128-bit variant for 64-bit machines (Austin Appleby, public domain).
fn murmur3_x64_128(data: &[u8], seed: u32) -> (u64, u64) {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    let mix1 = |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let mix2 = |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let (mut h1, mut h2) = (u64::from(seed), u64::from(seed));
    let mut blocks = data.chunks_exact(16);
    for block in &mut blocks {
        h1 ^= mix1(little_endian(&block[..8]));
        h1 = h1.rotate_left(27).wrapping_add(h2);
        h1 = h1.wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 ^= mix2(little_endian(&block[8..]));
        h2 = h2.rotate_left(31).wrapping_add(h1);
        h2 = h2.wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let tail = blocks.remainder();
    let (low, high) = tail.split_at(tail.len().min(8));
    h2 ^= mix2(little_endian(high));
    h1 ^= mix1(little_endian(low));
    h1 ^= data.len() as u64;
    h2 ^= data.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    h1 = finish(h1);
    h2 = finish(h2);
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    (h1, h2)
}

/// At most eight bytes as a number; the missing ones are 0.
fn little_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn finish(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        weights
            .iter()
            .enumerate()
            .map(|(n, weight)| Candidate {
                name: format!("[10.0.0.{n}:80/TCP,State:active]"),
                id: n as u32 + 1,
                weight: *weight,
            })
            .collect()
    }

    fn shares(table: &[u32]) -> BTreeMap<u32, usize> {
        let mut shares = BTreeMap::new();
        for id in table {
            *shares.entry(*id).or_default() += 1;
        }
        shares
    }

    #[test]
    fn murmur3_matches_published_vectors() {
        // From the reference implementation's users' tests (spaolacci/murmur3, seed 0).
        assert_eq!(murmur3_x64_128(b"", 0), (0, 0));
        assert_eq!(
            murmur3_x64_128(b"hello", 0),
            (0xcbd8_a7b3_41bd_9b02, 0x5b1e_906a_48ae_1d19)
        );
        assert_eq!(
            murmur3_x64_128(b"hello, world", 0),
            (0x342f_ac62_3a5e_bc8e, 0x4cdc_bc07_9642_414d)
        );
        assert_eq!(
            murmur3_x64_128(b"The quick brown fox jumps over the lazy dog.", 0),
            (0xcd99_481f_9ee9_02c9, 0x695d_a1a3_8987_b6e7)
        );
    }

    #[test]
    fn every_backend_gets_its_share() {
        let table = table(&candidates(&[1, 1, 1]));
        assert_eq!(table.len(), MAGLEV_TABLE as usize);
        for (id, share) in shares(&table) {
            assert!((339..=342).contains(&share), "backend {id} has {share}");
        }
    }

    #[test]
    fn weights_are_respected() {
        let shares = shares(&table(&candidates(&[1, 3])));
        let ratio = shares[&2] as f64 / shares[&1] as f64;
        assert!((2.5..=3.5).contains(&ratio), "{shares:?}");
    }

    #[test]
    fn the_order_of_backends_does_not_matter() {
        let mut backwards = candidates(&[1, 2, 3]);
        backwards.reverse();
        assert_eq!(table(&backwards), table(&candidates(&[1, 2, 3])));
    }

    #[test]
    fn losing_a_backend_moves_few_others() {
        let four = table(&candidates(&[1, 1, 1, 1]));
        let three = table(&candidates(&[1, 1, 1]));
        let moved = four
            .iter()
            .zip(&three)
            .filter(|(before, after)| **before != 4 && before != after)
            .count();
        assert!(moved < MAGLEV_TABLE as usize / 10, "{moved} moved");
    }

    #[test]
    fn no_backends_no_table() {
        assert!(table(&[]).is_empty());
    }
}
