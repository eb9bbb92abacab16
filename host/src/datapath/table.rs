//! A pinned kernel table with typed keys and values.

use std::{
    collections::HashMap,
    hash::Hash,
    marker::PhantomData,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use aya::Pod;

use super::{DatapathError, sys};

/// A hash, array or trie. Reading and writing need no exclusive access: the kernel
/// is the owner of the content.
pub(super) struct Table<K, V> {
    name: &'static str,
    fd: OwnedFd,
    limit: u32,
    room: u32,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Opens the pin `name` in `folder` and compares its layout, and its capacity
    /// where the configuration sets one, with what is expected. It has room for that many
    /// entries `copies` times: generations that are in place together.
    pub(super) fn open(
        folder: &Path,
        name: &'static str,
        capacity: Option<u32>,
        copies: u32,
    ) -> Result<Self, DatapathError> {
        let fd = sys::open_pin(&folder.join(name)).map_err(DatapathError::table(name, "open"))?;
        let info = sys::map_info(fd.as_fd()).map_err(DatapathError::table(name, "inspect"))?;
        let sizes = (info.key_size as usize, info.value_size as usize);
        if sizes != (size_of::<K>(), size_of::<V>()) {
            return Err(DatapathError::Layout {
                table: name,
                found_key: info.key_size,
                found_value: info.value_size,
                key: size_of::<K>(),
                value: size_of::<V>(),
            });
        }
        let differs = |wanted: &u32| wanted.saturating_mul(copies) != info.max_entries;
        if let Some(wanted) = capacity.filter(differs) {
            return Err(DatapathError::Capacity {
                table: name,
                found: info.max_entries / copies,
                wanted,
            });
        }
        Ok(Self {
            name,
            fd,
            limit: info.max_entries / copies,
            room: info.max_entries,
            types: PhantomData,
        })
    }

    /// Map name.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Entries there may be while one generation takes over from another, of both together.
    pub(super) fn room(&self) -> u32 {
        self.room
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
        sys::map_lookup(self.fd.as_fd(), key).map_err(self.error("read"))
    }

    /// Inserts or replaces.
    pub(super) fn put(&self, key: &K, value: &V) -> Result<(), DatapathError> {
        sys::map_update(self.fd.as_fd(), key, value, 0).map_err(self.error("write"))
    }

    /// Inserts unless the key is there by now; says whether it did.
    pub(super) fn put_new(&self, key: &K, value: &V) -> Result<bool, DatapathError> {
        match sys::map_update(self.fd.as_fd(), key, value, sys::NO_EXIST) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(self.error("write")(error)),
        }
    }

    /// Inserts or replaces all.
    pub(super) fn put_all(&self, entries: &[(K, V)]) -> Result<(), DatapathError> {
        let (keys, values): (Vec<K>, Vec<V>) = entries.iter().copied().unzip();
        sys::map_update_all(self.fd.as_fd(), &keys, &values).map_err(self.error("write"))
    }

    /// Removes a key; says whether it was there.
    pub(super) fn delete(&self, key: &K) -> Result<bool, DatapathError> {
        sys::map_delete(self.fd.as_fd(), key).map_err(self.error("delete from"))
    }

    /// Removes all keys that are there.
    pub(super) fn delete_all(&self, keys: &[K]) -> Result<(), DatapathError> {
        keys.iter().try_for_each(|key| self.delete(key).map(drop))
    }

    /// Removes a key and returns its value in one step.
    pub(super) fn take(&self, key: &K) -> Result<Option<V>, DatapathError> {
        sys::map_take(self.fd.as_fd(), key).map_err(self.error("delete from"))
    }

    /// Everything in it.
    pub(super) fn entries(&self) -> Result<Vec<(K, V)>, DatapathError> {
        let mut all = Vec::new();
        sys::map_each_batch(self.fd.as_fd(), |keys: &[K], values: &[V]| {
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
        sys::map_each_batch(self.fd.as_fd(), |keys: &[K], _: &[V]| {
            count += keys.len() as u64;
        })
        .map_err(self.error("read"))?;
        Ok(count)
    }
}

impl<V: Pod> Table<u32, V> {
    /// The values of all possible CPUs, of a per-CPU array.
    pub(super) fn get_per_cpu(&self, index: u32, cpus: usize) -> Result<Vec<V>, DatapathError> {
        sys::map_lookup_per_cpu(self.fd.as_fd(), index, cpus).map_err(self.error("read"))
    }

    /// Sets the values of all possible CPUs, of a per-CPU array.
    pub(super) fn put_per_cpu(&self, index: u32, values: &[V]) -> Result<(), DatapathError> {
        sys::map_update_per_cpu(self.fd.as_fd(), index, values).map_err(self.error("write"))
    }
}
