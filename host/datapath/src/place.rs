//! Where programs go: devices, cgroups and the network namespace, found by the
//! names people write.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// `lo` is the first device of every network namespace (`LOOPBACK_IFINDEX`).
pub(super) const LOOPBACK: u32 = 1;

/// Index of the device with this name in the caller's network namespace; `None`
/// if there is none (yet).
pub(super) fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: a terminated string that lives through the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// Name of the device with this index in the caller's network namespace.
pub(super) fn interface_name(index: u32) -> Option<String> {
    let mut name = [0 as libc::c_char; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size the call asks for.
    let result = unsafe { libc::if_indextoname(index, name.as_mut_ptr()) };
    if result.is_null() {
        return None;
    }
    // SAFETY: the call succeeded, so the buffer holds a terminated string.
    let name = unsafe { std::ffi::CStr::from_ptr(name.as_ptr()) };
    Some(name.to_string_lossy().into_owned())
}

/// The devices of the caller's network namespace at one moment.
#[derive(Debug, Default)]
pub(super) struct Devices(BTreeMap<String, Device>);

/// A network device.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Device {
    /// Its index.
    pub(super) index: u32,
    /// Does what passes it begin with an Ethernet header? Tunnels without one (`tun`,
    /// WireGuard, IPIP) say so by their link type (`ARPHRD_*` of `linux/if_arp.h`), or have
    /// no link address at all.
    pub(super) ethernet: bool,
}

impl Devices {
    /// Asks the kernel, once for all of them.
    pub(super) fn now() -> io::Result<Self> {
        let names = nix::net::if_::if_nameindex()?;
        let device = |interface: &nix::net::if_::Interface| {
            let device = Device {
                index: interface.index(),
                ethernet: false,
            };
            (interface.name().to_string_lossy().into_owned(), device)
        };
        let mut devices: BTreeMap<String, Device> = names.iter().map(device).collect();
        for interface in nix::ifaddrs::getifaddrs()? {
            let link = interface.address.as_ref();
            if let Some(link) = link.and_then(|address| address.as_link_addr())
                && let Some(device) = devices.get_mut(&interface.interface_name)
            {
                let kinds = [libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK];
                device.ethernet = kinds.contains(&link.hatype());
            }
        }
        Ok(Self(devices))
    }

    /// The device of this name, if there is one (yet).
    pub(super) fn get(&self, name: &str) -> Option<Device> {
        self.0.get(name).copied()
    }
}

/// Indices of all devices of the caller's network namespace.
pub(super) fn interfaces() -> io::Result<BTreeSet<u32>> {
    let devices = nix::net::if_::if_nameindex()?;
    Ok(devices.iter().map(|device| device.index()).collect())
}

/// A cgroup (v2) of a host service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cgroup {
    /// Folder in the mounted hierarchy.
    pub(super) path: PathBuf,
    /// What `bpf_get_current_cgroup_id` returns for its members.
    pub(super) id: u64,
}

impl Cgroup {
    /// The cgroup at `path`, which is below the cgroup v2 mount or contains it.
    pub(super) fn find(path: &Path) -> io::Result<Self> {
        let path = match cgroup_mount() {
            Some(mount) if !path.starts_with(&mount) => {
                mount.join(path.strip_prefix("/").unwrap_or(path))
            }
            _ => path.to_owned(),
        };
        // The inode number of a cgroup v2 folder is the cgroup's id (kernfs).
        let id = fs::metadata(&path)?.ino();
        Ok(Self { path, id })
    }

    /// Opens it for attaching.
    pub(super) fn open(&self) -> io::Result<File> {
        File::open(&self.path)
    }
}

/// First cgroup v2 mount of this process.
pub(super) fn cgroup_mount() -> Option<PathBuf> {
    fs::read_to_string("/proc/thread-self/mounts")
        .ok()?
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|words| words.get(2) == Some(&"cgroup2"))
        .map(|words| PathBuf::from(words[1]))
}

/// Inode and file of the calling thread's network namespace.
pub(super) fn network_namespace() -> io::Result<(u32, File)> {
    let file = File::open("/proc/thread-self/ns/net")?;
    let inode = file.metadata()?.ino();
    // The kernel's namespace inodes are 32 bits wide.
    let inode = u32::try_from(inode).map_err(io::Error::other)?;
    Ok((inode, file))
}
