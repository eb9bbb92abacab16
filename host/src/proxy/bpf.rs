//! Kernel tables by descriptor: typed lookup and update over `bpf(2)`. The proxy has no
//! power to create or find tables, and needs none: the agent hands the descriptors over.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd, OwnedFd},
};

use tidegate_ebpf_shared::{
    addr::Addr,
    flow::{FlowEntry, FlowKey},
    identity::FqdnInfo,
    steer::{PeerKey, SteerOrigin},
};

/// `enum bpf_cmd` of `linux/bpf.h`, as far as used here.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(super) enum Command {
    MapLookup = 1,
    MapUpdate = 2,
    InfoByFd = 15,
}

impl Command {
    /// Every command this process gives.
    pub(super) const ALL: [u32; 3] = [
        Self::MapLookup as u32,
        Self::MapUpdate as u32,
        Self::InfoByFd as u32,
    ];
}

/// `union bpf_attr` for element commands.
#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// The head of `struct bpf_map_info`; the kernel fills as much as it is asked for.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// Map types whose lookup writes one value per CPU, more than `value_size`.
const PER_CPU_KINDS: [u32; 4] = [5, 6, 10, 21];

/// Data that may be handed to and taken from the kernel as it lies in memory.
///
/// # Safety
///
/// No padding, and every bit pattern is a valid value.
pub(super) unsafe trait Plain: Copy + Default {}

// SAFETY: integers and arrays of integers, asserted free of padding by
// `tidegate_ebpf_shared::layout!`; `i32` trivially so.
unsafe impl Plain for FlowKey {}
// SAFETY: as above.
unsafe impl Plain for FlowEntry {}
// SAFETY: as above.
unsafe impl Plain for Addr {}
// SAFETY: as above.
unsafe impl Plain for FqdnInfo {}
// SAFETY: as above.
unsafe impl Plain for PeerKey {}
// SAFETY: as above.
unsafe impl Plain for SteerOrigin {}
// SAFETY: as above.
unsafe impl Plain for i32 {}

/// A kernel table with keys `K` and values `V`.
#[derive(Debug)]
pub(super) struct Map<K, V> {
    fd: OwnedFd,
    /// Entries there is room for.
    capacity: u32,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Plain, V: Plain> Map<K, V> {
    /// Takes a descriptor, after asking the kernel whether its sizes are ours.
    ///
    /// # Errors
    ///
    /// If it is no table, or one of another layout.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let mut info = MapInfo::default();
        let mut attr = InfoAttr {
            fd: fd.as_raw_fd() as u32,
            info_len: size_of::<MapInfo>() as u32,
            info: (&raw mut info) as u64,
        };
        bpf(Command::InfoByFd, &mut attr)?;
        let sizes = (info.key_size as usize, info.value_size as usize);
        if sizes != (size_of::<K>(), size_of::<V>()) || PER_CPU_KINDS.contains(&info.kind) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a table of another layout: {sizes:?} bytes of key and value"),
            ));
        }
        Ok(Self {
            fd,
            capacity: info.max_entries,
            types: PhantomData,
        })
    }

    /// Entries there is room for.
    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The value at a key, if there is one.
    ///
    /// # Errors
    ///
    /// The kernel's, other than "not there".
    pub(super) fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::default();
        let mut attr = ElementAttr {
            map_fd: self.fd.as_raw_fd() as u32,
            key: std::ptr::from_ref(key) as u64,
            value: (&raw mut value) as u64,
            ..ElementAttr::default()
        };
        match bpf(Command::MapLookup, &mut attr) {
            Ok(()) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a value at a key, replacing what was there.
    ///
    /// # Errors
    ///
    /// `E2BIG` if the table is full.
    pub(super) fn put(&self, key: &K, value: &V) -> io::Result<()> {
        let mut attr = ElementAttr {
            map_fd: self.fd.as_raw_fd() as u32,
            key: std::ptr::from_ref(key) as u64,
            value: std::ptr::from_ref(value) as u64,
            ..ElementAttr::default()
        };
        bpf(Command::MapUpdate, &mut attr)
    }
}

fn bpf<T>(command: Command, attr: &mut T) -> io::Result<()> {
    // SAFETY: `attr` is the part of `union bpf_attr` that the command reads, with its
    // true size. The addresses in it are of live values: keys and values of `Plain`
    // types whose sizes were compared with the table's when it was opened.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, attr, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod testing {
    //! Real tables for tests; creating them needs root.

    use std::os::fd::FromRawFd;

    use super::*;

    #[repr(C)]
    struct CreateAttr {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
    }

    /// A hash table with room for `entries`.
    pub(in super::super) fn hash<K, V>(entries: u32) -> OwnedFd {
        let attr = CreateAttr {
            kind: 1,
            key_size: size_of::<K>() as u32,
            value_size: size_of::<V>() as u32,
            max_entries: entries,
            flags: 0,
        };
        // SAFETY: BPF_MAP_CREATE (0) only reads the attributes; the result is a
        // new descriptor of ours.
        unsafe {
            let fd = libc::syscall(libc::SYS_bpf, 0, &attr, size_of::<CreateAttr>());
            assert!(
                fd >= 0,
                "creating a table needs root: {}",
                io::Error::last_os_error()
            );
            OwnedFd::from_raw_fd(fd as i32)
        }
    }

    #[test]
    fn another_layout_is_refused() {
        let table = hash::<FlowKey, u32>(4);
        assert!(Map::<FlowKey, FlowEntry>::new(table).is_err());
    }

    #[test]
    fn put_then_get() {
        let map = Map::<Addr, FqdnInfo>::new(hash::<Addr, FqdnInfo>(1)).unwrap();
        let key = Addr::v4([192, 0, 2, 1]);
        assert_eq!(map.get(&key).unwrap(), None);
        let mut value = FqdnInfo::default();
        (value.identities[0], value.expires[0]) = (7, 9);
        map.put(&key, &value).unwrap();
        assert_eq!(map.get(&key).unwrap(), Some(value));
        let full = map.put(&Addr::v4([192, 0, 2, 2]), &value).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(libc::E2BIG));
    }
}
