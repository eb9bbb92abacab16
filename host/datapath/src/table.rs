//! A pinned kernel table with typed keys and values.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    hash::Hash,
    io,
    ops::Deref,
    os::fd::OwnedFd,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::Pod;
use tidegate_bpf::{
    map::{Map, OpenError, PerCpuArray},
    pin,
};
use tidegate_ebpf_shared::limits::MAGLEV_TABLE;

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
    known: Mutex<Known<K, V>>,
}

/// What this process knows of a table's content: nothing, or all of it. It is known from
/// the time somebody asks for it, and then kept true by what this process writes.
struct Known<K, V> {
    is_known: bool,
    content: HashMap<K, V>,
}

/// The content of a table that only this process writes. Nobody writes meanwhile.
pub(super) struct Content<'t, K, V>(MutexGuard<'t, Known<K, V>>);

impl<K, V> Deref for Content<'_, K, V> {
    type Target = HashMap<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.0.content
    }
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

impl<K: Pod + Eq + Hash, V: Pod> Table<K, V> {
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
        Ok(Self {
            name,
            map,
            limit,
            known: Mutex::new(Known {
                is_known: false,
                content: HashMap::new(),
            }),
        })
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

    /// Is it known what is in it, without asking the kernel?
    pub(super) fn is_known(&self) -> bool {
        self.known().is_known
    }

    fn known(&self) -> MutexGuard<'_, Known<K, V>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes to the kernel's table, and the same to what is known of it. After a failure
    /// nothing is known: some of it may have been written.
    fn write<T>(
        &self,
        action: &'static str,
        write: impl FnOnce(&Map<K, V>) -> io::Result<T>,
        note: impl FnOnce(&mut HashMap<K, V>),
    ) -> Result<T, DatapathError> {
        let mut known = self.known();
        let result = write(&self.map);
        known.is_known &= result.is_ok();
        if known.is_known {
            note(&mut known.content);
        } else {
            known.content.clear();
        }
        result.map_err(self.error(action))
    }

    /// Inserts or replaces.
    pub(super) fn put(&self, key: &K, value: &V) -> Result<(), DatapathError> {
        self.put_all(&[(*key, *value)])
    }

    /// Inserts unless the key is there by now; says whether it did.
    pub(super) fn put_new(&self, key: &K, value: &V) -> Result<bool, DatapathError> {
        let put = |map: &Map<K, V>| map.put_new(key, value);
        self.write("write", put, |known| {
            known.entry(*key).or_insert(*value);
        })
    }

    /// Inserts or replaces all.
    pub(super) fn put_all(&self, entries: &[(K, V)]) -> Result<(), DatapathError> {
        let put = |map: &Map<K, V>| match entries {
            [] => Ok(()),
            [(key, value)] => map.put(key, value),
            _ => {
                let (keys, values): (Vec<K>, Vec<V>) = entries.iter().copied().unzip();
                map.put_all(&keys, &values)
            }
        };
        self.write("write", put, |known| known.extend(entries.iter().copied()))
    }

    /// Removes a key; says whether it was there.
    pub(super) fn delete(&self, key: &K) -> Result<bool, DatapathError> {
        let delete = |map: &Map<K, V>| map.delete(key);
        self.write("delete from", delete, |known| _ = known.remove(key))
    }

    /// Removes all keys that are there.
    pub(super) fn delete_all(&self, keys: &[K]) -> Result<(), DatapathError> {
        let delete = |map: &Map<K, V>| map.delete_all(keys);
        self.write("delete from", delete, |known| {
            for key in keys {
                known.remove(key);
            }
        })
    }

    /// Removes a key and returns its value in one step.
    pub(super) fn take(&self, key: &K) -> Result<Option<V>, DatapathError> {
        let take = |map: &Map<K, V>| map.take(key);
        self.write("delete from", take, |known| _ = known.remove(key))
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

    /// Everything in a table that only this process writes, by key. It is read from the
    /// kernel the first time.
    pub(super) fn content(&self) -> Result<Content<'_, K, V>, DatapathError> {
        let mut known = self.known();
        if !known.is_known {
            known.content = self.entries()?.into_iter().collect();
            known.is_known = true;
        }
        Ok(Content(known))
    }

    /// Reads the content from the kernel again; says whether it was what was known.
    pub(super) fn read_back(&self) -> Result<bool, DatapathError>
    where
        V: PartialEq,
    {
        let mut known = self.known();
        if !known.is_known {
            return Ok(true);
        }
        let found: HashMap<K, V> = self.entries()?.into_iter().collect();
        let is_same = found == known.content;
        known.content = found;
        Ok(is_same)
    }

    /// Entries in it: as known, else a walk, some tens of nanoseconds per entry.
    pub(super) fn count(&self) -> Result<u64, DatapathError> {
        let known = self.known();
        if known.is_known {
            return Ok(known.content.len() as u64);
        }
        drop(known);
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

/// The lookup tables of Maglev services, all in one array, each by its number.
pub(super) struct MaglevTables {
    places: Table<u32, u32>,
    known: Mutex<HashMap<u32, Vec<u32>>>,
}

impl MaglevTables {
    /// As [`Table::open`].
    pub(super) fn open(
        folder: &Path,
        name: &'static str,
        limits: &TableLimits,
    ) -> Result<Self, DatapathError> {
        Ok(Self {
            places: Table::open(folder, name, limits)?,
            known: Mutex::default(),
        })
    }

    /// Tables there is room for.
    pub(super) fn limit(&self) -> u32 {
        self.places.limit() / MAGLEV_TABLE
    }

    /// What this process knows of their content. Nobody writes meanwhile.
    pub(super) fn known(&self) -> MutexGuard<'_, HashMap<u32, Vec<u32>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The content of those in use, and of no other; one this process did not write is read
    /// from the kernel. Nobody writes meanwhile.
    pub(super) fn in_use(
        &self,
        numbers: impl Iterator<Item = u32>,
    ) -> Result<MutexGuard<'_, HashMap<u32, Vec<u32>>>, DatapathError> {
        let numbers: HashSet<u32> = numbers.collect();
        let mut known = self.known();
        known.retain(|number, _| numbers.contains(number));
        for number in numbers {
            if let Entry::Vacant(place) = known.entry(number) {
                place.insert(self.read(number)?);
            }
        }
        Ok(known)
    }

    /// One as the kernel has it.
    pub(super) fn read(&self, number: u32) -> Result<Vec<u32>, DatapathError> {
        let start = number * MAGLEV_TABLE;
        let place = |place| Ok(self.places.get(&place)?.unwrap_or(0));
        (start..start + MAGLEV_TABLE).map(place).collect()
    }

    /// Writes a table that nobody reads yet.
    pub(super) fn put(&self, number: u32, content: &[u32]) -> Result<(), DatapathError> {
        let places: Vec<(u32, u32)> = (number * MAGLEV_TABLE..)
            .zip(content.iter().copied())
            .collect();
        let mut known = self.known();
        known.remove(&number);
        self.places.put_all(&places)?;
        known.insert(number, content.to_vec());
        Ok(())
    }

    /// Reads those in use from the kernel again; says whether they were what was known.
    pub(super) fn read_back(&self) -> Result<bool, DatapathError> {
        let mut known = self.known();
        let mut is_same = true;
        for (number, content) in &mut *known {
            let found = self.read(*number)?;
            is_same &= found == *content;
            *content = found;
        }
        Ok(is_same)
    }

    /// Map name.
    pub(super) fn name(&self) -> &'static str {
        self.places.name()
    }
}
