//! What must be written and deleted to get from one table content to another. Pure.

use std::{collections::HashMap, hash::Hash};

use aya::Pod;

use super::{DatapathError, table::Table};

/// The way from one content to another: first all writes, later all deletions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change<K, V> {
    /// New and changed entries.
    pub(super) put: Vec<(K, V)>,
    /// Entries that must go.
    pub(super) delete: Vec<K>,
    /// Entries in the table after the writes and before the deletions.
    peak: usize,
}

impl<K: Copy + Eq + Hash, V: Copy + PartialEq> Change<K, V> {
    /// Compares what is with what should be.
    pub(super) fn between(current: &HashMap<K, V>, desired: &HashMap<K, V>) -> Self {
        let put = desired
            .iter()
            .filter(|(key, value)| current.get(key) != Some(value))
            .map(|(key, value)| (*key, *value))
            .collect();
        let delete: Vec<K> = current
            .keys()
            .filter(|key| !desired.contains_key(key))
            .copied()
            .collect();
        Self {
            put,
            peak: desired.len() + delete.len(),
            delete,
        }
    }

    /// Compares a part of a table of `entries` with what that part should be. Everything else
    /// stays, so neither is all of it.
    pub(super) fn within(entries: usize, current: &HashMap<K, V>, desired: &HashMap<K, V>) -> Self {
        let part = Self::between(current, desired);
        Self {
            peak: entries - current.len() + part.peak,
            ..part
        }
    }

    /// Would the table hold the new content, and old and new at once?
    pub(super) fn check(&self, table: &Table<K, V>) -> Result<(), DatapathError>
    where
        K: Pod,
        V: Pod,
    {
        let after = self.peak - self.delete.len();
        let full = |needed, limit| {
            Err(DatapathError::Full {
                table: table.name(),
                needed,
                limit,
            })
        };
        if after > table.limit() as usize {
            return full(after, table.limit());
        }
        if self.peak > table.room() as usize {
            return full(self.peak, table.room());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differences_are_written_and_only_leftovers_deleted() {
        let current = HashMap::from([(1, 'a'), (2, 'b'), (3, 'c')]);
        let desired = HashMap::from([(1, 'a'), (2, 'x'), (4, 'd')]);
        let mut change = Change::between(&current, &desired);
        change.put.sort_unstable();
        assert_eq!(change.put, [(2, 'x'), (4, 'd')]);
        assert_eq!(change.delete, [3]);
        assert_eq!(change.peak, 4, "1, 2, 3 and 4 at once");
    }

    proptest::proptest! {
        /// What comes of a part alone is what comes of all of it.
        #[test]
        fn a_part_is_compared_as_the_whole_is(
            rest: HashMap<u8, u8>,
            current: HashMap<u8, u8>,
            desired: HashMap<u8, u8>,
        ) {
            // The part has keys of its own.
            let part = |of: &HashMap<u8, u8>| -> HashMap<u16, u8> {
                of.iter().map(|(key, value)| (256 + u16::from(*key), *value)).collect()
            };
            let whole = |of: &HashMap<u8, u8>| -> HashMap<u16, u8> {
                let rest = rest.iter().map(|(key, value)| (u16::from(*key), *value));
                rest.chain(part(of)).collect()
            };
            let entries = whole(&current).len();
            let mut of_part = Change::within(entries, &part(&current), &part(&desired));
            let mut of_whole = Change::between(&whole(&current), &whole(&desired));
            for change in [&mut of_part, &mut of_whole] {
                change.put.sort_unstable();
                change.delete.sort_unstable();
            }
            assert_eq!(of_part, of_whole);
        }

        /// Writing and then deleting leads to what was asked for, and the table never
        /// holds more than was announced.
        #[test]
        fn the_way_leads_there(
            current: HashMap<u8, u8>,
            desired: HashMap<u8, u8>,
        ) {
            let change = Change::between(&current, &desired);
            let mut table = current;
            table.extend(change.put.iter().copied());
            assert_eq!(table.len(), change.peak);
            for key in &change.delete {
                assert!(table.remove(key).is_some());
            }
            assert_eq!(table, desired);
        }
    }

    #[test]
    fn nothing_to_do_for_equal_contents() {
        let content = HashMap::from([(1, 'a')]);
        let change = Change::between(&content, &content);
        assert!(change.put.is_empty() && change.delete.is_empty());
    }
}
