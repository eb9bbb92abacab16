//! Pins: names in a BPF file system that keep a map, program or link alive.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya_obj::generated::BPF_F_RDONLY;

use crate::call::{Command, bpf, bpf_fd, raw};

#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// Pins a map, program or link.
///
/// # Errors
///
/// The kernel's: `EEXIST` if the name is taken.
pub fn make(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = Object {
        path: path.as_ptr() as u64,
        fd: raw(fd),
        flags: 0,
    };
    // SAFETY: `BPF_OBJ_PIN` reads the path up to its NUL.
    unsafe { bpf(Command::BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Opens what is pinned at `path`.
///
/// # Errors
///
/// The kernel's: `ENOENT` if nothing is.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    get(path, 0)
}

/// Opens the map pinned at `path` for who shall read it only: the kernel refuses the
/// descriptor's holder any change (`EPERM`).
///
/// # Errors
///
/// The kernel's: `ENOENT` if nothing is.
pub fn open_to_read(path: &Path) -> io::Result<OwnedFd> {
    get(path, BPF_F_RDONLY)
}

fn get(path: &Path, flags: u32) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = Object {
        path: path.as_ptr() as u64,
        fd: 0,
        flags,
    };
    // SAFETY: `BPF_OBJ_GET` reads the path up to its NUL and answers with a descriptor.
    unsafe { bpf_fd(Command::BPF_OBJ_GET, &mut attr) }
}
