//! Raw `bpf(2)`: the calls the loader library has no wrapper for. Links of every
//! kind are made and replaced the same way, and tables are read in batches.
//!
//! The only file of the room with system calls of its own. Structures are those of
//! `union bpf_attr` in `linux/bpf.h`.

use std::{
    ffi::CString,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya::Pod;

/// `enum bpf_cmd`, as far as used here.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Command {
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    ObjPin = 6,
    ObjGet = 7,
    #[cfg(test)]
    ProgTestRun = 10,
    MapFdById = 14,
    InfoByFd = 15,
    MapLookupAndDelete = 21,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDetach = 34,
}

/// `enum bpf_attach_type`, as far as used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum AttachType {
    /// Packets that sockets of a cgroup receive.
    CgroupIngress = 0,
    /// Packets that sockets of a cgroup send.
    CgroupEgress = 1,
    /// `socket` on a cgroup.
    SockCreate = 2,
    /// sockops on a cgroup.
    SockOps = 3,
    /// sk_msg on a socket map.
    SkMsg = 7,
    /// IPv4 `connect` on a cgroup.
    Connect4 = 10,
    /// IPv6 `connect` on a cgroup.
    Connect6 = 11,
    /// IPv4 UDP `sendmsg` on a cgroup.
    SendMsg4 = 14,
    /// IPv6 UDP `sendmsg` on a cgroup.
    SendMsg6 = 15,
    /// IPv4 UDP `recvmsg` on a cgroup.
    RecvMsg4 = 19,
    /// IPv6 UDP `recvmsg` on a cgroup.
    RecvMsg6 = 20,
    /// IPv4 `getpeername` on a cgroup.
    GetPeerName4 = 29,
    /// IPv6 `getpeername` on a cgroup.
    GetPeerName6 = 30,
    /// sk_lookup in a network namespace.
    SkLookup = 36,
    /// XDP on a device.
    Xdp = 37,
    /// tcx ingress on a device.
    TcxIngress = 46,
    /// tcx egress on a device.
    TcxEgress = 47,
}

/// `BPF_NOEXIST`: insert only.
pub(super) const NO_EXIST: u64 = 1;
/// `BPF_F_BEFORE`: a tcx program that runs first, whatever else is attached.
pub(super) const TCX_FIRST: u32 = 1 << 3;
/// `XDP_FLAGS_SKB_MODE`.
pub(super) const XDP_GENERIC: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`.
pub(super) const XDP_NATIVE: u32 = 1 << 2;

/// One `bpf(2)` call. The result is a descriptor, or 0.
fn bpf<T>(command: Command, attr: &mut T) -> io::Result<i32> {
    // SAFETY: every caller passes the structure its command reads, whole and
    // initialised; the size says where it ends, and the pointers in it are alive.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as i32,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    match i32::try_from(result) {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

/// As [`bpf`], for commands that answer with a new descriptor.
fn bpf_fd<T>(command: Command, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the kernel has just made it for us, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    // A borrowed descriptor is never negative.
    fd.as_raw_fd() as u32
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
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
    fn new<K: Pod>(map: BorrowedFd<'_>, key: &K) -> Self {
        Self {
            map: raw(map),
            pad: 0,
            key: std::ptr::from_ref(key) as u64,
            value: 0,
            flags: 0,
        }
    }
}

fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_element<K: Pod, V: Pod>(
    command: Command,
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::uninit();
    let mut attr = Element::new(map, key);
    attr.value = value.as_mut_ptr() as u64;
    found(bpf(command, &mut attr))?
        // SAFETY: the call succeeded, so the kernel has written the whole value
        // (its size was compared when the table was opened), and every bit pattern
        // of plain old data is valid.
        .map(|_| Ok(unsafe { value.assume_init() }))
        .transpose()
}

/// The value of a key.
pub(super) fn map_lookup<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    read_element(Command::MapLookup, map, key)
}

/// Removes a key and returns what it had, as one step.
pub(super) fn map_take<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    read_element(Command::MapLookupAndDelete, map, key)
}

/// The values of a per-CPU table's key, one per possible CPU.
pub(super) fn map_lookup_per_cpu<V: Pod>(
    map: BorrowedFd<'_>,
    key: u32,
    cpus: usize,
) -> io::Result<Vec<V>> {
    const {
        assert!(
            size_of::<V>().is_multiple_of(8),
            "the kernel rounds up to 8 bytes"
        )
    };
    let mut values = vec![MaybeUninit::<V>::uninit(); cpus];
    let mut attr = Element::new(map, &key);
    attr.value = values.as_mut_ptr() as u64;
    bpf(Command::MapLookup, &mut attr)?;
    // SAFETY: the kernel has written one value per possible CPU.
    Ok(values.iter().map(|v| unsafe { v.assume_init() }).collect())
}

/// Sets all per-CPU values of a key.
pub(super) fn map_update_per_cpu<V: Pod>(
    map: BorrowedFd<'_>,
    key: u32,
    values: &[V],
) -> io::Result<()> {
    let mut attr = Element::new(map, &key);
    attr.value = values.as_ptr() as u64;
    bpf(Command::MapUpdate, &mut attr).map(drop)
}

/// Inserts or replaces.
pub(super) fn map_update<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &V,
    flags: u64,
) -> io::Result<()> {
    let mut attr = Element::new(map, key);
    attr.value = std::ptr::from_ref(value) as u64;
    attr.flags = flags;
    bpf(Command::MapUpdate, &mut attr).map(drop)
}

/// Removes a key; says whether it was there.
pub(super) fn map_delete<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    // Socket maps say EINVAL for an empty place.
    match bpf(Command::MapDelete, &mut Element::new(map, key)) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        result => found(result).map(|found| found.is_some()),
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

/// Entries asked for in one call: more than any hash bucket holds in practice.
const BATCH: usize = 4_096;

/// Hands all entries to `each`, in batches. Entries that come or go meanwhile may
/// be missed or seen, as with any walk over a live table.
pub(super) fn map_each_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    mut each: impl FnMut(&[K], &[V]),
) -> io::Result<()> {
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
            map: raw(map),
            element_flags: 0,
            flags: 0,
        };
        let last = match bpf(Command::MapLookupBatch, &mut attr) {
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

/// Inserts or replaces all of them; `keys` and `values` are equally long.
pub(super) fn map_update_all<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    assert_eq!(keys.len(), values.len(), "one value per key");
    for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
        bpf(
            Command::MapUpdateBatch,
            &mut Batch {
                in_batch: 0,
                out_batch: 0,
                keys: keys.as_ptr() as u64,
                values: values.as_ptr() as u64,
                count: keys.len() as u32,
                map: raw(map),
                element_flags: 0,
                flags: 0,
            },
        )?;
    }
    Ok(())
}

#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Pins a map, program or link.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    bpf(
        Command::ObjPin,
        &mut Object {
            path: path.as_ptr() as u64,
            fd: raw(fd),
            flags: 0,
        },
    )
    .map(drop)
}

/// Opens what is pinned at `path`.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    bpf_fd(
        Command::ObjGet,
        &mut Object {
            path: path.as_ptr() as u64,
            fd: 0,
            flags: 0,
        },
    )
}

/// Opens the map with this id of the kernel.
pub(super) fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    bpf_fd(Command::MapFdById, &mut [id, 0, 0])
}

#[repr(C)]
struct CreateLink {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    // `relative_fd` and `expected_revision` of tcx, at the union's offset 16.
    relative: u64,
    revision: u64,
}

/// Attaches a program; it stays until the link's last descriptor and pin are gone.
/// `target` is a descriptor (cgroup, network namespace, map) or an interface index.
pub(super) fn link_create(
    program: BorrowedFd<'_>,
    target: u32,
    attach_type: AttachType,
    flags: u32,
) -> io::Result<OwnedFd> {
    bpf_fd(
        Command::LinkCreate,
        &mut CreateLink {
            program: raw(program),
            target,
            attach_type: attach_type as u32,
            flags,
            relative: 0,
            revision: 0,
        },
    )
}

/// A descriptor as a link's target.
pub(super) fn target(fd: &impl AsFd) -> u32 {
    raw(fd.as_fd())
}

/// Replaces the program of a link between two packets.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    bpf(Command::LinkUpdate, &mut [raw(link), raw(program), 0, 0]).map(drop)
}

/// Detaches at once, whoever else holds the link.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(Command::LinkDetach, &mut [raw(link)]).map(drop)
}

#[repr(C)]
struct GetInfo {
    fd: u32,
    len: u32,
    info: u64,
}

fn info<T: Pod>(fd: BorrowedFd<'_>, zero: T) -> io::Result<T> {
    let mut info = zero;
    bpf(
        Command::InfoByFd,
        &mut GetInfo {
            fd: raw(fd),
            len: size_of::<T>() as u32,
            info: std::ptr::from_mut(&mut info) as u64,
        },
    )?;
    Ok(info)
}

/// What the kernel says about a map: the first fields of `struct bpf_map_info`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct MapInfo {
    /// `enum bpf_map_type`.
    pub(super) kind: u32,
    /// Kernel's id.
    pub(super) id: u32,
    /// Bytes of a key.
    pub(super) key_size: u32,
    /// Bytes of a value (of one CPU).
    pub(super) value_size: u32,
    /// Capacity.
    pub(super) max_entries: u32,
    /// Creation flags.
    pub(super) flags: u32,
}

/// What the kernel says about a link: the first fields of `struct bpf_link_info`,
/// with the kinds' union as two words each kind reads its own way.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct LinkInfo {
    /// `enum bpf_link_type`.
    pub(super) kind: u32,
    /// Kernel's id.
    pub(super) id: u32,
    /// Id of the program that runs.
    pub(super) program: u32,
    pad: u32,
    first: u32,
    second: u32,
    third: u32,
    fourth: u32,
}

/// What the kernel says about a program: the first fields of `struct bpf_prog_info`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct ProgramInfo {
    /// `enum bpf_prog_type`.
    pub(super) kind: u32,
    /// Kernel's id.
    pub(super) id: u32,
}

// SAFETY: `repr(C)`, `Copy`, integers only, sizes are the sum of the fields.
unsafe impl Pod for MapInfo {}
// SAFETY: as above.
unsafe impl Pod for LinkInfo {}
// SAFETY: as above.
unsafe impl Pod for ProgramInfo {}

/// `BPF_LINK_TYPE_CGROUP`.
const LINK_CGROUP: u32 = 3;

impl LinkInfo {
    /// Does what it was attached to still exist? The id of a device, namespace or
    /// map is one word, that of a cgroup two; the kernel clears it.
    pub(super) fn is_attached(&self) -> bool {
        self.first != 0 || (self.kind == LINK_CGROUP && self.second != 0)
    }

    /// Interface index of a tcx or XDP link; 0 when the device is gone.
    pub(super) fn ifindex(&self) -> u32 {
        self.first
    }

    /// Inode of a netns link's namespace; 0 when it is gone.
    pub(super) fn netns(&self) -> u32 {
        self.first
    }

    /// Id of a cgroup link's cgroup; 0 when it is gone.
    pub(super) fn cgroup(&self) -> u64 {
        u64::from(self.first) | u64::from(self.second) << 32
    }

    /// Id of a socket map link's map; 0 when it is gone.
    pub(super) fn map(&self) -> u32 {
        self.first
    }
}

/// See [`MapInfo`].
pub(super) fn map_info(fd: BorrowedFd<'_>) -> io::Result<MapInfo> {
    info(fd, MapInfo::default())
}

/// See [`LinkInfo`].
pub(super) fn link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    info(fd, LinkInfo::default())
}

/// See [`ProgramInfo`].
pub(super) fn program_info(fd: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    info(fd, ProgramInfo::default())
}

/// Waits until every program run that began before now has ended.
///
/// Programs run inside RCU read-side sections, and `MEMBARRIER_CMD_GLOBAL` waits
/// for a grace period (membarrier(2); a few milliseconds).
pub(super) fn grace_period() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: i32 = 1;
    // SAFETY: three integers, no memory.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
#[repr(C)]
struct TestRun {
    program: u32,
    result: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
}

/// Runs a packet program once and returns its return code.
#[cfg(test)]
pub(super) fn test_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: &[u32; 48],
) -> io::Result<u32> {
    let mut attr = TestRun {
        program: raw(program),
        result: 0,
        data_size_in: packet.len() as u32,
        data_size_out: 0,
        data_in: packet.as_ptr() as u64,
        data_out: 0,
        repeat: 0,
        duration: 0,
        context_size_in: size_of_val(context) as u32,
        context_size_out: 0,
        context_in: context.as_ptr() as u64,
        context_out: 0,
    };
    bpf(Command::ProgTestRun, &mut attr)?;
    Ok(attr.result)
}
