//! Programs: what the kernel says about them, and when none of an earlier time runs.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::Pod;

use crate::call::{Command, bpf_fd, info};

/// What the kernel says about a program: the first fields of `struct bpf_prog_info`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ProgramInfo {
    /// `enum bpf_prog_type`.
    pub kind: u32,
    /// Kernel's id.
    pub id: u32,
    // Tag, lengths, addresses of code that is not asked for, times, owner, maps.
    rest: [u64; 7],
    name: [u8; 16],
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

    /// Of the program with this id.
    ///
    /// # Errors
    ///
    /// The kernel's, as for one that is gone.
    pub fn by_id(id: u32) -> io::Result<Self> {
        // SAFETY: `BPF_PROG_GET_FD_BY_ID` reads integers, and answers with a descriptor.
        let program = unsafe { bpf_fd(Command::BPF_PROG_GET_FD_BY_ID, &mut [id, 0, 0]) }?;
        info(program.as_fd())
    }

    /// As whoever loaded it called it; at most 15 bytes.
    pub fn name(&self) -> String {
        let end = self.name.iter().position(|byte| *byte == 0);
        String::from_utf8_lossy(&self.name[..end.unwrap_or(self.name.len())]).into_owned()
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
