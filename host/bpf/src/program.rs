//! Programs: what the kernel says about them, and when none of an earlier time runs.

use std::{io, os::fd::BorrowedFd};

use aya::Pod;

use crate::call::info;

/// What the kernel says about a program: the first fields of `struct bpf_prog_info`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ProgramInfo {
    /// `enum bpf_prog_type`.
    pub kind: u32,
    /// Kernel's id.
    pub id: u32,
}

// SAFETY: `repr(C)`, `Copy`, integers only, its size is the sum of the fields.
unsafe impl Pod for ProgramInfo {}

impl ProgramInfo {
    /// Of this program.
    ///
    /// # Errors
    ///
    /// The kernel's, also for what is no program.
    pub fn of(program: BorrowedFd<'_>) -> io::Result<Self> {
        info(program)
    }
}

/// Waits until every program run that began before now has ended.
///
/// Programs run inside RCU read-side sections, and `MEMBARRIER_CMD_GLOBAL` waits
/// for a grace period (membarrier(2); a few milliseconds).
///
/// # Errors
///
/// If the kernel has no such call.
pub fn grace_period() -> io::Result<()> {
    // SAFETY: three integers, no memory.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
