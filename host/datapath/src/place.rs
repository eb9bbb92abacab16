//! Where programs go: devices, cgroups and the network namespace, found by the
//! names people write.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::CString,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage,
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
#[derive(Clone, Copy, Debug)]
pub(super) struct Device {
    /// Its index.
    pub(super) index: u32,
    /// What its packets begin with.
    pub(super) link: Link,
    /// The device it is a part of: a bridge, a VRF, a bond.
    above: Option<u32>,
    /// The device it is a VLAN of.
    pub(super) below: Option<u32>,
}

/// What the packets of a device begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// An Ethernet header.
    Ethernet,
    /// Their IP header: a tunnel (`tun`, WireGuard, IPIP).
    Ip,
    /// Something that the programs do not read.
    Other,
}

impl Link {
    /// By the link type (`ARPHRD_*` of `linux/if_arp.h`).
    fn of(kind: LinkLayerType) -> Self {
        match kind {
            LinkLayerType::Ether | LinkLayerType::Loopback => Self::Ethernet,
            LinkLayerType::None
            | LinkLayerType::Rawip
            | LinkLayerType::Tunnel
            | LinkLayerType::Tunnel6
            | LinkLayerType::Sit
            | LinkLayerType::Ipgre
            | LinkLayerType::Ip6gre
            | LinkLayerType::Ppp => Self::Ip,
            _ => Self::Other,
        }
    }
}

impl Devices {
    /// Those the kernel has listed.
    pub(super) fn of(links: &[LinkMessage]) -> Self {
        let device = |link: &LinkMessage| {
            let mut device = Device {
                index: link.header.index,
                link: Link::of(link.header.link_layer_type),
                above: None,
                below: None,
            };
            let (mut name, mut vlan) = (None, false);
            for attribute in &link.attributes {
                match attribute {
                    LinkAttribute::IfName(text) => name = Some(text.clone()),
                    LinkAttribute::Controller(index) => device.above = Some(*index),
                    // Of others it may be an index of another network namespace.
                    LinkAttribute::Link(index) => device.below = Some(*index),
                    LinkAttribute::LinkInfo(facts) => {
                        vlan = facts.contains(&LinkInfo::Kind(InfoKind::Vlan));
                    }
                    _ => {}
                }
            }
            device.below = device.below.filter(|_| vlan);
            Some((name?, device))
        };
        Self(links.iter().filter_map(device).collect())
    }

    /// Their names, by index.
    pub(super) fn names(&self) -> HashMap<u32, &str> {
        let names = self.0.iter();
        names.map(|(name, it)| (it.index, name.as_str())).collect()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = Device> {
        self.0.values().copied()
    }

    /// What stands above these devices, and above that: what they take in goes on as if it had
    /// come in there (`skb->skb_iif`).
    pub(super) fn above(&self, devices: &BTreeSet<u32>) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        loop {
            let is_known = |index: u32| devices.contains(&index) || found.contains(&index);
            let known = self.0.values().filter(|device| is_known(device.index));
            let mut next: BTreeSet<u32> = known.filter_map(|device| device.above).collect();
            let vlans = self.0.values();
            let vlans = vlans.filter(|device| device.below.is_some_and(is_known));
            next.extend(vlans.map(|device| device.index));
            if next.is_subset(&found) {
                return found;
            }
            found.append(&mut next);
        }
    }

    /// The device of this name, if there is one (yet).
    pub(super) fn get(&self, name: &str) -> Option<Device> {
        self.0.get(name).copied()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_above_is_found_to_the_top() {
        let device = |index: u32, above: Option<u32>, below: Option<u32>| {
            let device = Device {
                index,
                link: Link::Ethernet,
                above,
                below,
            };
            (format!("d{index}"), device)
        };
        // 3 is a port of bridge 5, whose VLAN 6 is in VRF 7; 4 is nobody's we know.
        let devices = Devices(BTreeMap::from([
            device(3, Some(5), None),
            device(4, Some(8), None),
            device(5, None, None),
            device(6, Some(7), Some(5)),
            device(7, None, None),
            device(8, None, None),
        ]));
        let above = |of: &[u32]| devices.above(&of.iter().copied().collect());
        assert_eq!(above(&[3]), BTreeSet::from([5, 6, 7]));
        assert_eq!(above(&[5]), BTreeSet::from([6, 7]));
        assert_eq!(above(&[7, 8]), BTreeSet::new());
    }
}
