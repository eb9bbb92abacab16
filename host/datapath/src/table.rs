//! A pinned kernel table with typed keys and values.

use std::{collections::HashMap, hash::Hash, os::fd::OwnedFd, path::Path};

use aya::Pod;
use tidegate_bpf::{
    map::{Map, OpenError, PerCpuArray},
    pin,
};

use super::{
    DatapathError,
    tables::{TableLimits, copies},
};

/// A hash, array or trie. Reading and writing need no exclusive access: the kernel
/// is the owner of the content.
pub(super) struct Table<K, V> {
    name: &'static str,
    map: Map<K, V>,
    limit: u32,
}

/// The descriptor pinned as `name` in `folder`.
fn open(folder: &Path, name: &'static str) -> Result<OwnedFd, DatapathError> {
    pin::open(&folder.join(name)).map_err(DatapathError::table(name, "open"))
}

/// Why the table `name` with keys `K` and values `V` cannot be used.
fn unusable<K, V>(name: &'static str) -> impl Fn(OpenError) -> DatapathError {
    move |error| match error {
        OpenError::Inspect(error) => DatapathError::table(name, "inspect")(error),
        OpenError::Layout(found) => DatapathError::Layout {
            table: name,
            found_key: found.key_size,
            found_value: found.value_size,
            key: size_of::<K>(),
            value: size_of::<V>(),
        },
    }
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Opens the pin `name` in `folder` and compares its layout, and its capacity
    /// where the configuration sets one, with what is expected.
    pub(super) fn open(
        folder: &Path,
        name: &'static str,
        limits: &TableLimits,
    ) -> Result<Self, DatapathError> {
        let map = Map::new(open(folder, name)?).map_err(unusable::<K, V>(name))?;
        limits.compare(name, map.capacity())?;
        let limit = map.capacity() / copies(name);
        Ok(Self { name, map, limit })
    }

    /// Map name.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Entries there may be while one generation takes over from another, of both together.
    pub(super) fn room(&self) -> u32 {
        self.map.capacity()
    }

    /// Entries of one generation there is room for.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    fn error(&self, action: &'static str) -> impl Fn(std::io::Error) -> DatapathError + use<K, V> {
        DatapathError::table(self.name, action)
    }

    /// The value of a key; for a trie, of the longest prefix that covers it.
    pub(super) fn get(&self, key: &K) -> Result<Option<V>, DatapathError> {
        self.map.get(key).map_err(self.error("read"))
    }

    /// Inserts or replaces.
    pub(super) fn put(&self, key: &K, value: &V) -> Result<(), DatapathError> {
        self.map.put(key, value).map_err(self.error("write"))
    }

    /// Inserts unless the key is there by now; says whether it did.
    pub(super) fn put_new(&self, key: &K, value: &V) -> Result<bool, DatapathError> {
        self.map.put_new(key, value).map_err(self.error("write"))
    }

    /// Inserts or replaces all.
    pub(super) fn put_all(&self, entries: &[(K, V)]) -> Result<(), DatapathError> {
        let (keys, values): (Vec<K>, Vec<V>) = entries.iter().copied().unzip();
        self.map
            .put_all(&keys, &values)
            .map_err(self.error("write"))
    }

    /// Removes a key; says whether it was there.
    pub(super) fn delete(&self, key: &K) -> Result<bool, DatapathError> {
        self.map.delete(key).map_err(self.error("delete from"))
    }

    /// Removes all keys that are there.
    pub(super) fn delete_all(&self, keys: &[K]) -> Result<(), DatapathError> {
        self.map.delete_all(keys).map_err(self.error("delete from"))
    }

    /// Removes a key and returns its value in one step.
    pub(super) fn take(&self, key: &K) -> Result<Option<V>, DatapathError> {
        self.map.take(key).map_err(self.error("delete from"))
    }

    /// Everything in it.
    pub(super) fn entries(&self) -> Result<Vec<(K, V)>, DatapathError> {
        let mut all = Vec::new();
        self.map
            .each_batch(|keys, values| {
                all.extend(keys.iter().copied().zip(values.iter().copied()));
            })
            .map_err(self.error("read"))?;
        Ok(all)
    }

    /// Everything in it, by key.
    pub(super) fn content(&self) -> Result<HashMap<K, V>, DatapathError>
    where
        K: Eq + Hash,
    {
        Ok(self.entries()?.into_iter().collect())
    }

    /// Entries in it: a walk, some tens of nanoseconds per entry.
    pub(super) fn count(&self) -> Result<u64, DatapathError> {
        let mut count = 0;
        self.map
            .each_batch(|keys, _| count += keys.len() as u64)
            .map_err(self.error("read"))?;
        Ok(count)
    }
}

/// A per-CPU array.
pub(super) struct PerCpu<V> {
    name: &'static str,
    array: PerCpuArray<V>,
}

impl<V: Pod> PerCpu<V> {
    /// As [`Table::open`].
    pub(super) fn open(
        folder: &Path,
        name: &'static str,
        limits: &TableLimits,
    ) -> Result<Self, DatapathError> {
        let array = PerCpuArray::new(open(folder, name)?).map_err(unusable::<u32, V>(name))?;
        limits.compare(name, array.capacity())?;
        Ok(Self { name, array })
    }

    /// The values of all possible CPUs.
    pub(super) fn get(&self, index: u32) -> Result<Vec<V>, DatapathError> {
        let failed = DatapathError::table(self.name, "read");
        self.array.get(index).map_err(failed)
    }

    /// Sets the value of every possible CPU.
    pub(super) fn fill(&self, index: u32, value: V) -> Result<(), DatapathError> {
        let failed = DatapathError::table(self.name, "write");
        self.array.fill(index, value).map_err(failed)
    }
}
