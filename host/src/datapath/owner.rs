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
    let inode = file.metadata().map_err(failed)?.ino();
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => DatapathError::Owned {
            path: place.to_owned(),
            pid: holder(inode).unwrap_or_else(|| "unknown".to_owned()),
        },
        errno => failed(io::Error::from(errno)),
    })
}

/// Process that holds a lock on a file with this inode, as `/proc/locks` has it
/// (proc_locks(5): `id: FLOCK ADVISORY WRITE pid major:minor:inode start end`).
fn holder(inode: u64) -> Option<String> {
    let end = format!(":{inode}");
    fs::read_to_string("/proc/locks")
        .ok()?
        .lines()
        .find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [_, "FLOCK", _, _, pid, file, ..] if file.ends_with(&end) => {
                    Some((*pid).to_owned())
                }
                _ => None,
            }
        })
}
