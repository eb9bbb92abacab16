//! The one place with system calls.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use aya::Pod;
pub(crate) use aya_obj::generated::bpf_cmd as Command;

/// One `bpf(2)` call. The result is a descriptor, or 0.
///
/// # Safety
///
/// `attr` is the part of `union bpf_attr` that the command reads, and the addresses in it
/// are of memory as large as the command reads or writes there, alive until it returns.
pub(crate) unsafe fn bpf<T>(command: Command, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the size says where the structure ends; the rest is the caller's word.
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
///
/// # Safety
///
/// As there, and the command is such a one.
pub(crate) unsafe fn bpf_fd<T>(command: Command, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's word; the kernel has just made the descriptor for us, and
    // nobody else knows it.
    unsafe { Ok(OwnedFd::from_raw_fd(bpf(command, attr)?)) }
}

pub(crate) fn raw(fd: BorrowedFd<'_>) -> u32 {
    // A borrowed descriptor is never negative.
    fd.as_raw_fd() as u32
}

/// `None` for what is not there.
pub(crate) fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

#[repr(C)]
struct GetInfo {
    fd: u32,
    len: u32,
    info: u64,
}

/// What the kernel says about a descriptor; it fills as much as it is asked for.
pub(crate) fn info<T: Pod + Default>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::default();
    let mut attr = GetInfo {
        fd: raw(fd),
        len: size_of::<T>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `BPF_OBJ_GET_INFO_BY_FD` writes at most `len` bytes at `info`, which are
    // plain old data.
    unsafe { bpf(Command::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}
