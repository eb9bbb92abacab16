//! Maps with typed keys and values. Reading and writing need no exclusive access: the
//! kernel is the owner of the content.

use std::{
    fmt, io,
    marker::PhantomData,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use aya::Pod;
use aya_obj::generated::{BPF_NOEXIST, bpf_map_type};

use crate::call::{Command, bpf, bpf_fd, found, info, raw};

/// Map types whose lookup writes one value per CPU, more than `value_size`.
const PER_CPU_KINDS: [u32; 4] = [
    bpf_map_type::BPF_MAP_TYPE_PERCPU_HASH as u32,
    bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY as u32,
    bpf_map_type::BPF_MAP_TYPE_LRU_PERCPU_HASH as u32,
    bpf_map_type::BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE as u32,
];

/// What the kernel says about a map: the first fields of `struct bpf_map_info`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MapInfo {
    /// `enum bpf_map_type`.
    pub kind: u32,
    /// Kernel's id.
    pub id: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value (of one CPU).
    pub value_size: u32,
    /// Capacity.
    pub max_entries: u32,
    /// Creation flags.
    pub flags: u32,
}

// SAFETY: `repr(C)`, `Copy`, integers only, its size is the sum of the fields.
unsafe impl Pod for MapInfo {}

impl MapInfo {
    /// Of this map.
    ///
    /// # Errors
    ///
    /// The kernel's, also for what is no map.
    pub fn of(map: BorrowedFd<'_>) -> io::Result<Self> {
        info(map)
    }
}

/// Opens the map with this id of the kernel.
///
/// # Errors
///
/// The kernel's: `ENOENT` if there is none.
pub fn by_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: `BPF_MAP_GET_FD_BY_ID` reads integers and answers with a descriptor.
    unsafe { bpf_fd(Command::BPF_MAP_GET_FD_BY_ID, &mut [id, 0, 0]) }
}

/// Why a descriptor is not the map it should be.
#[derive(Debug)]
pub enum OpenError {
    /// The kernel does not say what it is.
    Inspect(io::Error),
    /// A table of another layout.
    Layout(MapInfo),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inspect(error) => error.fmt(f),
            Self::Layout(MapInfo {
                key_size,
                value_size,
                ..
            }) => write!(
                f,
                "a table of another layout: keys of {key_size} and values of {value_size} bytes"
            ),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Inspect(error) => error,
            layout @ OpenError::Layout(_) => Self::new(io::ErrorKind::InvalidData, layout),
        }
    }
}

/// The map behind a descriptor, if its keys and values are as large as these and it has
/// one value a CPU exactly if it should.
fn inspect<K, V>(fd: &OwnedFd, per_cpu: bool) -> Result<MapInfo, OpenError> {
    let info = MapInfo::of(fd.as_fd()).map_err(OpenError::Inspect)?;
    let sizes = (info.key_size as usize, info.value_size as usize);
    if sizes != (size_of::<K>(), size_of::<V>()) || PER_CPU_KINDS.contains(&info.kind) != per_cpu {
        return Err(OpenError::Layout(info));
    }
    Ok(info)
}

#[repr(C)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Element {
    fn new<K>(map: &OwnedFd, key: &K) -> Self {
        Self {
            map: raw(map.as_fd()),
            pad: 0,
            key: std::ptr::from_ref(key) as u64,
            value: 0,
            flags: 0,
        }
    }
}

#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// The commands of `bpf(2)` that [`Map::new`], [`Map::get`] and [`Map::put`] give, for who
/// bounds a process to them.
pub const COMMANDS: [u32; 3] = [
    Command::BPF_MAP_LOOKUP_ELEM as u32,
    Command::BPF_MAP_UPDATE_ELEM as u32,
    Command::BPF_OBJ_GET_INFO_BY_FD as u32,
];

/// Entries asked for in one call: more than any hash bucket holds in practice.
const BATCH: usize = 4_096;

/// A hash, array, trie or socket map with keys `K` and values `V`.
#[derive(Debug)]
pub struct Map<K, V> {
    fd: OwnedFd,
    capacity: u32,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Pod, V: Pod> Map<K, V> {
    /// Takes a descriptor, after asking the kernel whether its sizes are ours.
    ///
    /// # Errors
    ///
    /// If it is no table, or one of another layout.
    pub fn new(fd: OwnedFd) -> Result<Self, OpenError> {
        let info = inspect::<K, V>(&fd, false)?;
        Ok(Self {
            fd,
            capacity: info.max_entries,
            types: PhantomData,
        })
    }

    /// Entries there is room for.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    fn read(&self, command: Command, key: &K) -> io::Result<Option<V>> {
        let mut value = MaybeUninit::<V>::uninit();
        let mut attr = Element::new(&self.fd, key);
        attr.value = value.as_mut_ptr() as u64;
        // SAFETY: both commands read a key and write a value, of the sizes compared when
        // the table was opened.
        let result = found(unsafe { bpf(command, &mut attr) })?;
        // SAFETY: the call succeeded, so the kernel has written the whole value, and every
        // bit pattern of plain old data is valid.
        Ok(result.map(|_| unsafe { value.assume_init() }))
    }

    /// The value of a key, if there is one; of a trie, of the longest prefix that covers it.
    ///
    /// # Errors
    ///
    /// The kernel's, other than "not there".
    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        self.read(Command::BPF_MAP_LOOKUP_ELEM, key)
    }

    /// Removes a key and returns what it had, as one step.
    ///
    /// # Errors
    ///
    /// The kernel's, other than "not there".
    pub fn take(&self, key: &K) -> io::Result<Option<V>> {
        self.read(Command::BPF_MAP_LOOKUP_AND_DELETE_ELEM, key)
    }

    fn write(&self, key: &K, value: &V, flags: u64) -> io::Result<()> {
        let mut attr = Element::new(&self.fd, key);
        attr.value = std::ptr::from_ref(value) as u64;
        attr.flags = flags;
        // SAFETY: reads a key and a value of the sizes compared when the table was opened.
        unsafe { bpf(Command::BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
    }

    /// Inserts or replaces.
    ///
    /// # Errors
    ///
    /// `E2BIG` if the table is full.
    pub fn put(&self, key: &K, value: &V) -> io::Result<()> {
        self.write(key, value, 0)
    }

    /// Inserts unless the key is there by now; says whether it did.
    ///
    /// # Errors
    ///
    /// `E2BIG` if the table is full.
    pub fn put_new(&self, key: &K, value: &V) -> io::Result<bool> {
        match self.write(key, value, BPF_NOEXIST.into()) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Inserts or replaces all of them; `keys` and `values` are equally long.
    ///
    /// # Errors
    ///
    /// The kernel's; those before it are written.
    ///
    /// # Panics
    ///
    /// If they are not equally long.
    pub fn put_all(&self, keys: &[K], values: &[V]) -> io::Result<()> {
        assert_eq!(keys.len(), values.len(), "one value per key");
        for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
            let mut attr = Batch {
                in_batch: 0,
                out_batch: 0,
                keys: keys.as_ptr() as u64,
                values: values.as_ptr() as u64,
                count: keys.len() as u32,
                map: raw(self.fd.as_fd()),
                element_flags: 0,
                flags: 0,
            };
            // SAFETY: reads `count` keys and values of the sizes compared when the table
            // was opened.
            unsafe { bpf(Command::BPF_MAP_UPDATE_BATCH, &mut attr) }?;
        }
        Ok(())
    }

    /// Removes a key; says whether it was there.
    ///
    /// # Errors
    ///
    /// The kernel's, other than "not there".
    pub fn delete(&self, key: &K) -> io::Result<bool> {
        // SAFETY: reads a key of the size compared when the table was opened.
        let result = unsafe {
            bpf(
                Command::BPF_MAP_DELETE_ELEM,
                &mut Element::new(&self.fd, key),
            )
        };
        match result {
            // Socket maps say EINVAL for an empty place.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            result => found(result).map(|found| found.is_some()),
        }
    }

    /// Removes all keys that are there.
    ///
    /// # Errors
    ///
    /// The kernel's; those before it are gone.
    pub fn delete_all(&self, mut keys: &[K]) -> io::Result<()> {
        while !keys.is_empty() {
            let mut attr = Batch {
                in_batch: 0,
                out_batch: 0,
                keys: keys.as_ptr() as u64,
                values: 0,
                count: keys.len().min(BATCH) as u32,
                map: raw(self.fd.as_fd()),
                element_flags: 0,
                flags: 0,
            };
            // SAFETY: reads `count` keys of the size compared when the table was opened, and
            // writes how many of them it removed.
            let result = unsafe { bpf(Command::BPF_MAP_DELETE_BATCH, &mut attr) };
            // It stops at a key that is not there.
            let absent = usize::from(found(result)?.is_none());
            keys = keys.get(attr.count as usize + absent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Hands all entries to `each`, in batches. Entries that come or go meanwhile may
    /// be missed or seen, as with any walk over a live table.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn each_batch(&self, mut each: impl FnMut(&[K], &[V])) -> io::Result<()> {
        let mut size = BATCH;
        let mut keys = vec![MaybeUninit::<K>::uninit(); size];
        let mut values = vec![MaybeUninit::<V>::uninit(); size];
        // Position in the table: an opaque number for hashes, a key for tries. 64 bytes
        // hold either; `u64` for alignment.
        let mut position = [0u64; 8];
        const { assert!(size_of::<K>() <= 64) };
        let mut started = false;
        loop {
            let mut next = [0u64; 8];
            let mut attr = Batch {
                in_batch: if started { position.as_ptr() as u64 } else { 0 },
                out_batch: next.as_mut_ptr() as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: size as u32,
                map: raw(self.fd.as_fd()),
                element_flags: 0,
                flags: 0,
            };
            // SAFETY: writes at most `count` keys and values, for which there is room, and a
            // position of at most 64 bytes.
            let last = match unsafe { bpf(Command::BPF_MAP_LOOKUP_BATCH, &mut attr) } {
                Ok(_) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                // One bucket holds more than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && size < 1 << 20 => {
                    size *= 2;
                    keys.resize(size, MaybeUninit::uninit());
                    values.resize(size, MaybeUninit::uninit());
                    continue;
                }
                Err(error) => return Err(error),
            };
            let count = (attr.count as usize).min(size);
            // SAFETY: the kernel has written `count` keys and values, and every bit
            // pattern of plain old data is valid.
            let (keys, values) = unsafe {
                (
                    std::slice::from_raw_parts(keys.as_ptr().cast::<K>(), count),
                    std::slice::from_raw_parts(values.as_ptr().cast::<V>(), count),
                )
            };
            each(keys, values);
            if last {
                return Ok(());
            }
            position = next;
            started = true;
        }
    }
}

/// A per-CPU array with values `V`.
#[derive(Debug)]
pub struct PerCpuArray<V> {
    fd: OwnedFd,
    capacity: u32,
    cpus: usize,
    types: PhantomData<fn() -> V>,
}

impl<V: Pod> PerCpuArray<V> {
    /// Takes a descriptor, as [`Map::new`].
    ///
    /// # Errors
    ///
    /// As there, and if the kernel does not say how many CPUs are possible.
    pub fn new(fd: OwnedFd) -> Result<Self, OpenError> {
        const {
            assert!(
                size_of::<V>().is_multiple_of(8),
                "the kernel rounds up to 8 bytes"
            )
        };
        let info = inspect::<u32, V>(&fd, true)?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| OpenError::Inspect(error))?;
        Ok(Self {
            fd,
            capacity: info.max_entries,
            cpus,
            types: PhantomData,
        })
    }

    /// Indices there are.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The values at an index, one per possible CPU.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn get(&self, index: u32) -> io::Result<Vec<V>> {
        let mut values = vec![MaybeUninit::<V>::uninit(); self.cpus];
        let mut attr = Element::new(&self.fd, &index);
        attr.value = values.as_mut_ptr() as u64;
        // SAFETY: reads an index and writes one value per possible CPU.
        unsafe { bpf(Command::BPF_MAP_LOOKUP_ELEM, &mut attr) }?;
        // SAFETY: the kernel has written all of them.
        Ok(values.iter().map(|v| unsafe { v.assume_init() }).collect())
    }

    /// Sets the value of every possible CPU at an index.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn fill(&self, index: u32, value: V) -> io::Result<()> {
        let values = vec![value; self.cpus];
        let mut attr = Element::new(&self.fd, &index);
        attr.value = values.as_ptr() as u64;
        // SAFETY: reads an index and one value per possible CPU.
        unsafe { bpf(Command::BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MapKind, create};

    fn hash<K, V>(entries: u32) -> OwnedFd {
        create::<K, V>(MapKind::BPF_MAP_TYPE_HASH, entries).expect("making a map needs root")
    }

    #[test]
    fn another_layout_is_refused() {
        assert!(Map::<u64, u64>::new(hash::<u64, u32>(4)).is_err());
        let per_cpu = || create::<u32, u64>(MapKind::BPF_MAP_TYPE_PERCPU_ARRAY, 1);
        assert!(
            Map::<u32, u64>::new(per_cpu().expect("a map")).is_err(),
            "its lookup writes more than one value"
        );
        assert!(PerCpuArray::<u64>::new(per_cpu().expect("a map")).is_ok());
        assert!(PerCpuArray::<u64>::new(hash::<u32, u64>(4)).is_err());
    }

    #[test]
    fn what_was_put_is_there_until_it_is_taken() {
        let map = Map::<u32, u64>::new(hash::<u32, u64>(2)).expect("a map");
        assert_eq!(map.capacity(), 2);
        assert_eq!(map.get(&1).expect("a lookup"), None);
        map.put_all(&[1, 2], &[10, 20]).expect("room for two");
        let full = map.put(&3, &30).expect_err("no room for three");
        assert_eq!(full.raw_os_error(), Some(libc::E2BIG));
        assert!(!map.put_new(&1, &11).expect("an answer"));
        let mut all = Vec::new();
        map.each_batch(|keys, values| all.extend(keys.iter().copied().zip(values.to_vec())))
            .expect("a walk");
        all.sort_unstable();
        assert_eq!(all, [(1, 10), (2, 20)]);
        assert_eq!(map.take(&1).expect("a lookup"), Some(10));
        assert!(!map.delete(&1).expect("an answer"));
        assert!(map.delete(&2).expect("an answer"));
        map.put_all(&[1, 2], &[10, 20]).expect("room for two");
        map.delete_all(&[3, 1, 4, 2, 5]).expect("a batch");
        assert_eq!(
            (map.get(&1).ok(), map.get(&2).ok()),
            (Some(None), Some(None))
        );
    }

    #[test]
    fn a_per_cpu_array_has_a_value_of_every_cpu() {
        let array = create::<u32, u64>(MapKind::BPF_MAP_TYPE_PERCPU_ARRAY, 2).expect("a map");
        let array = PerCpuArray::<u64>::new(array).expect("a map");
        array.fill(1, 7).expect("a write");
        let values = array.get(1).expect("a read");
        assert!(!values.is_empty() && values.iter().all(|value| *value == 7));
        assert!(
            array
                .get(0)
                .expect("a read")
                .iter()
                .all(|value| *value == 0)
        );
    }
}
