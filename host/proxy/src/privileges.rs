//! What the proxy gives up before it reads its first byte: root's user, every
//! capability but two, the chance to get any back, its tie to the agent's session, and
//! every system call it does not need.

use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use nix::{
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
    },
    unistd::{Gid, Uid, setgroups, setresgid, setresuid, setsid},
};
use tidegate_lifecycle::syscalls::{self, Call};

/// Binding the client's own port on the upstream leg, also below 1024; and
/// `IP_TRANSPARENT` and, since Linux 5.17, `SO_MARK`.
const KEPT: [Capability; 2] = [Capability::CAP_NET_BIND_SERVICE, Capability::CAP_NET_RAW];

/// What the proxy does besides computing: transparent sockets of the internet families,
/// events on them, messages to the agent, and values of tables it was handed.
const NETWORK: &[Call] = &[
    Call::one_of(
        libc::SYS_socket,
        0,
        &[libc::AF_INET as u32, libc::AF_INET6 as u32],
    ),
    Call::any(libc::SYS_socketpair),
    Call::any(libc::SYS_accept4),
    Call::any(libc::SYS_bind),
    Call::any(libc::SYS_connect),
    Call::any(libc::SYS_shutdown),
    Call::any(libc::SYS_getsockname),
    Call::any(libc::SYS_getpeername),
    Call::any(libc::SYS_getsockopt),
    Call::any(libc::SYS_setsockopt),
    Call::any(libc::SYS_recvfrom),
    Call::any(libc::SYS_recvmsg),
    Call::any(libc::SYS_sendto),
    Call::any(libc::SYS_sendmsg),
    Call::any(libc::SYS_epoll_create1),
    Call::any(libc::SYS_epoll_ctl),
    Call::any(libc::SYS_epoll_pwait),
    #[cfg(target_arch = "x86_64")]
    Call::any(libc::SYS_epoll_wait),
    Call::any(libc::SYS_eventfd2),
    // The thread that prepares plugins for long stands behind traffic.
    Call::one_of(libc::SYS_setpriority, 0, &[libc::PRIO_PROCESS]),
    Call::one_of(libc::SYS_bpf, 0, &tidegate_bpf::map::COMMANDS),
];

/// The last capability number a kernel may have: two words of 32 bits.
const LAST_CAPABILITY: u32 = 63;

/// Descriptors the proxy may open: two per connection, and more than any worker takes.
const DESCRIPTORS: u64 = 1 << 20;

/// Becomes the given user and group with no power but [`KEPT`], which a program it might
/// execute would not inherit. Must run before the process has a second thread: these are
/// attributes of threads. Returns how many descriptors the process may open.
///
/// # Errors
///
/// The kernel's, naming the step. A proxy that could not give up its powers must end.
pub(super) fn drop_all_but_network(uid: Uid, gid: Gid) -> io::Result<u64> {
    // A child of the agent leads no group, so this fails only when started by hand
    // from a shell; then there is nothing to be cut off from.
    let _ = setsid();
    let descriptors = step("raise the descriptor limit", raise_descriptors())?;
    step("drop the bounding set", drop_bounding_set())?;
    step("keep capabilities over setuid", prctl::set_keepcaps(true))?;
    step("leave all groups", setgroups(&[]))?;
    step("change the group", setresgid(gid, gid, gid))?;
    step("change the user", setresuid(uid, uid, uid))?;
    step("reduce the capabilities", set_capabilities())?;
    step("forbid new privileges", prctl::set_no_new_privs())?;
    // Neither core dumps nor other processes of this user may read the memory.
    step("become undumpable", prctl::set_dumpable(false))?;
    step(
        "give up system calls",
        syscalls::allow_only(&[syscalls::BASIC, NETWORK]),
    )?;
    Ok(descriptors)
}

fn step<T, E: Into<io::Error>>(what: &str, result: Result<T, E>) -> io::Result<T> {
    result.map_err(|error| {
        let error = error.into();
        io::Error::new(error.kind(), format!("cannot {what}: {error}"))
    })
}

/// Raises the limit as far as allowed; root may raise the ceiling too.
fn raise_descriptors() -> nix::Result<u64> {
    let (_, ceiling) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = DESCRIPTORS.max(ceiling);
    // The kernel's own ceiling (`fs.nr_open`) may be lower than ours.
    setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted)
        .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, ceiling, ceiling))?;
    getrlimit(Resource::RLIMIT_NOFILE).map(|(descriptors, _)| descriptors)
}

/// No later `exec` can bring any capability back: of all that this kernel has, also of those
/// that no library knows yet.
fn drop_bounding_set() -> nix::Result<()> {
    for capability in 0..=LAST_CAPABILITY {
        // SAFETY: takes numbers only.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        match nix::errno::Errno::result(result) {
            // EINVAL: the kernel has no capability of this number, nor any above.
            Err(nix::Error::EINVAL) => return Ok(()),
            other => other.map(drop)?,
        }
    }
    Ok(())
}

fn set_capabilities() -> io::Result<()> {
    let kept = KEPT.into_iter().collect();
    let set = |of, which: &CapsHashSet| caps::set(None, of, which).map_err(io::Error::other);
    set(CapSet::Inheritable, &CapsHashSet::new())?;
    set(CapSet::Effective, &kept)?;
    set(CapSet::Permitted, &kept)
}
