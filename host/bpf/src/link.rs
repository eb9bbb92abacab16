//! Links: what ties a program to the place where it runs.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use aya::Pod;
use aya_obj::generated::{self, bpf_attach_type as kernel, bpf_link_type};

use crate::call::{Command, bpf, bpf_fd, found, info, raw};

/// `enum bpf_attach_type`, as far as used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AttachType {
    /// Packets that sockets of a cgroup receive.
    CgroupIngress = kernel::BPF_CGROUP_INET_INGRESS as u32,
    /// Packets that sockets of a cgroup send.
    CgroupEgress = kernel::BPF_CGROUP_INET_EGRESS as u32,
    /// `socket` on a cgroup.
    SockCreate = kernel::BPF_CGROUP_INET_SOCK_CREATE as u32,
    /// sockops on a cgroup.
    SockOps = kernel::BPF_CGROUP_SOCK_OPS as u32,
    /// sk_msg on a socket map.
    SkMsg = kernel::BPF_SK_MSG_VERDICT as u32,
    /// IPv4 `connect` on a cgroup.
    Connect4 = kernel::BPF_CGROUP_INET4_CONNECT as u32,
    /// IPv6 `connect` on a cgroup.
    Connect6 = kernel::BPF_CGROUP_INET6_CONNECT as u32,
    /// IPv4 UDP `sendmsg` on a cgroup.
    SendMsg4 = kernel::BPF_CGROUP_UDP4_SENDMSG as u32,
    /// IPv6 UDP `sendmsg` on a cgroup.
    SendMsg6 = kernel::BPF_CGROUP_UDP6_SENDMSG as u32,
    /// IPv4 UDP `recvmsg` on a cgroup.
    RecvMsg4 = kernel::BPF_CGROUP_UDP4_RECVMSG as u32,
    /// IPv6 UDP `recvmsg` on a cgroup.
    RecvMsg6 = kernel::BPF_CGROUP_UDP6_RECVMSG as u32,
    /// IPv4 `getpeername` on a cgroup.
    GetPeerName4 = kernel::BPF_CGROUP_INET4_GETPEERNAME as u32,
    /// IPv6 `getpeername` on a cgroup.
    GetPeerName6 = kernel::BPF_CGROUP_INET6_GETPEERNAME as u32,
    /// sk_lookup in a network namespace.
    SkLookup = kernel::BPF_SK_LOOKUP as u32,
    /// XDP on a device.
    Xdp = kernel::BPF_XDP as u32,
    /// tcx ingress on a device.
    TcxIngress = kernel::BPF_TCX_INGRESS as u32,
    /// tcx egress on a device.
    TcxEgress = kernel::BPF_TCX_EGRESS as u32,
}

/// A tcx program that runs first, whatever else is attached.
pub const TCX_FIRST: u32 = generated::BPF_F_BEFORE;
/// XDP in the kernel's stack, for devices whose driver has none.
pub const XDP_GENERIC: u32 = generated::XDP_FLAGS_SKB_MODE;
/// XDP in the driver.
pub const XDP_NATIVE: u32 = generated::XDP_FLAGS_DRV_MODE;

#[repr(C)]
struct Create {
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
///
/// # Errors
///
/// The kernel's.
pub fn create(
    program: BorrowedFd<'_>,
    target: u32,
    attach_type: AttachType,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = Create {
        program: raw(program),
        target,
        attach_type: attach_type as u32,
        flags,
        relative: 0,
        revision: 0,
    };
    // SAFETY: `BPF_LINK_CREATE` follows no address in these, and answers with a descriptor.
    unsafe { bpf_fd(Command::BPF_LINK_CREATE, &mut attr) }
}

/// A descriptor as a link's target.
pub fn target(fd: &impl AsFd) -> u32 {
    raw(fd.as_fd())
}

/// Replaces the program of a link between two packets.
///
/// # Errors
///
/// The kernel's.
pub fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = [raw(link), raw(program), 0, 0];
    // SAFETY: `BPF_LINK_UPDATE` reads integers.
    unsafe { bpf(Command::BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Detaches at once, whoever else holds the link.
///
/// # Errors
///
/// The kernel's.
pub fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: `BPF_LINK_DETACH` reads an integer.
    unsafe { bpf(Command::BPF_LINK_DETACH, &mut [raw(link)]) }.map(drop)
}

/// Most programs that one hook of a device has (`BPF_MPROG_MAX`).
const MOST: usize = 64;

#[repr(C)]
struct Query {
    target: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    pad: u32,
    // What goes with each of them, which is not asked, and the list's revision.
    rest: [u64; 4],
}

/// Ids of the programs at a tcx hook of a device, in the order they run.
///
/// # Errors
///
/// The kernel's.
pub fn programs_at(device: u32, attach_type: AttachType) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; MOST];
    let mut attr = Query {
        target: device,
        attach_type: attach_type as u32,
        flags: 0,
        attach_flags: 0,
        programs: ids.as_mut_ptr() as u64,
        count: MOST as u32,
        pad: 0,
        rest: [0; 4],
    };
    // SAFETY: `BPF_PROG_QUERY` writes at most `count` ids at `programs`, where as many fit, and
    // follows no other address that is 0.
    match found(unsafe { bpf(Command::BPF_PROG_QUERY, &mut attr) })? {
        Some(_) => ids.truncate(attr.count as usize),
        None => ids.clear(),
    }
    Ok(ids)
}

/// What the kernel says about a link: the first fields of `struct bpf_link_info`,
/// with the kinds' union as words that each kind reads its own way.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct LinkInfo {
    /// `enum bpf_link_type`.
    pub kind: u32,
    /// Kernel's id.
    pub id: u32,
    /// Id of the program that runs.
    pub program: u32,
    pad: u32,
    first: u32,
    second: u32,
    third: u32,
    fourth: u32,
}

// SAFETY: `repr(C)`, `Copy`, integers only, its size is the sum of the fields.
unsafe impl Pod for LinkInfo {}

impl LinkInfo {
    /// Of this link.
    ///
    /// # Errors
    ///
    /// The kernel's, also for what is no link.
    pub fn of(link: BorrowedFd<'_>) -> io::Result<Self> {
        info(link)
    }

    /// Does what it was attached to still exist? The id of a device, namespace or
    /// map is one word, that of a cgroup two; the kernel clears it.
    pub fn is_attached(&self) -> bool {
        let is_cgroup = self.kind == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32;
        self.first != 0 || (is_cgroup && self.second != 0)
    }

    /// Interface index of a tcx or XDP link; 0 when the device is gone.
    pub fn ifindex(&self) -> u32 {
        self.first
    }

    /// Inode of a netns link's namespace; 0 when it is gone.
    pub fn netns(&self) -> u32 {
        self.first
    }

    /// Id of a cgroup link's cgroup; 0 when it is gone.
    pub fn cgroup(&self) -> u64 {
        u64::from(self.first) | u64::from(self.second) << 32
    }

    /// Id of a socket map link's map; 0 when it is gone.
    pub fn map(&self) -> u32 {
        self.first
    }
}
