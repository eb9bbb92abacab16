//! Gives up everything the compile worker does not need, before it reads a byte.

use anyhow::Context;
use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::Signal,
    },
    unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid},
};
use tidegate_lifecycle::syscalls;

/// User and group `nobody`.
const NOBODY: u32 = 65534;

/// How far behind traffic it stands for a processor (setpriority(2)).
const NICENESS: i32 = 5;

/// Processor time it may use, seconds.
pub(super) const CPU_SECONDS: u64 = 60;

/// Limits: address space and largest file in bytes. A file may be written at all because
/// the engine keeps code images in anonymous memory files.
const LIMITS: [(Resource, u64); 4] = [
    (Resource::RLIMIT_AS, 4 << 30),
    (Resource::RLIMIT_FSIZE, 256 << 20),
    (Resource::RLIMIT_NOFILE, 32),
    (Resource::RLIMIT_CORE, 0),
];

/// Confines this process: limits, and no system call that opens, starts or connects to
/// anything. As root also: no network, no privileges.
///
/// # Errors
///
/// Any step that fails; the worker must not go on then.
pub(super) fn confine() -> anyhow::Result<()> {
    // SAFETY: closes descriptors beyond the standard three; nothing in this young
    // process owns one.
    let closed = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    nix::errno::Errno::result(closed).context("cannot close inherited descriptors")?;
    if geteuid().is_root() {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC)
            .context("cannot leave the network")?;
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        setgroups(&[]).context("cannot drop groups")?;
        setresgid(gid, gid, gid).context("cannot drop the group")?;
        setresuid(uid, uid, uid).context("cannot drop the user")?;
    }
    prctl::set_no_new_privs().context("cannot forbid new privileges")?;
    prctl::set_dumpable(false).context("cannot forbid tracing")?;
    prctl::set_pdeathsig(Signal::SIGKILL).context("cannot follow the agent's end")?;
    give_way().context("cannot give way to traffic")?;
    // The first limit ends it with a signal of its own; at the second it would be killed,
    // and look as if somebody else had done it.
    setrlimit(Resource::RLIMIT_CPU, CPU_SECONDS, CPU_SECONDS + 5)
        .context("cannot set the limit of processor time")?;
    for (resource, limit) in LIMITS {
        setrlimit(resource, limit, limit)
            .with_context(|| format!("cannot set {resource:?} to {limit}"))?;
    }
    syscalls::allow_only(&[syscalls::BASIC]).context("cannot give up system calls")
}

/// Makes this process nicer; one that was started nicer still stays as it is, since
/// going back takes a privilege that is gone by now (setpriority(2), `EACCES`).
fn give_way() -> nix::Result<()> {
    // SAFETY: takes numbers only; 0 is this process. The answer may be negative, but an
    // error means no more than an ordinary niceness.
    let now = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // SAFETY: as above.
    let slower = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS.max(now)) };
    nix::errno::Errno::result(slower).map(drop)
}
