//! One agent per set of pins and per network namespace: two would overwrite each other's
//! tables, whatever run folder each has.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use super::DatapathError;

/// Held by the process that tends these pins; the kernel lets go of it when the process
/// ends, however that happens.
#[derive(Debug)]
pub struct Owner {
    _locks: Vec<Flock<File>>,
}

impl Owner {
    /// Claims the pins below `bpffs`, and the calling thread's network namespace.
    pub fn claim(bpffs: &Path) -> Result<Self, DatapathError> {
        let places = [bpffs.to_owned(), PathBuf::from("/proc/thread-self/ns/net")];
        let locks = places.iter().map(|place| lock(place));
        Ok(Self {
            _locks: locks.collect::<Result<_, _>>()?,
        })
    }
}

fn lock(place: &Path) -> Result<Flock<File>, DatapathError> {
    let failed = |source| DatapathError::Bpffs {
        action: "claim",
        path: place.to_owned(),
        source,
    };
    let file = File::open(place).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => DatapathError::Owned {
            path: place.to_owned(),
            pid: holder(meta.dev(), meta.ino()).unwrap_or_else(|| "unknown".to_owned()),
        },
        errno => failed(io::Error::from(errno)),
    })
}

/// Process that holds a lock on this file, as `/proc/locks` has it (proc_locks(5):
/// `id: FLOCK ADVISORY WRITE pid major:minor:inode start end`, the first two in hex). Inodes
/// alone are no names: the roots of all bpffs mounts have the same.
fn holder(device: u64, inode: u64) -> Option<String> {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let locked = format!("{major:02x}:{minor:02x}:{inode}");
    fs::read_to_string("/proc/locks")
        .ok()?
        .lines()
        .find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [_, "FLOCK", _, _, pid, file, ..] if *file == locked => Some((*pid).to_owned()),
                _ => None,
            }
        })
}
