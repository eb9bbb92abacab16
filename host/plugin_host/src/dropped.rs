//! Reading what somebody dropped into a folder: regular files alone (opening a pipe can
//! wait for ever, a device never ends), never more than a limit, and only if nobody
//! was writing meanwhile.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Why a dropped file was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// The system's reason.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A folder, pipe, socket or device.
    #[error("it is not a regular file")]
    NotAFile,
    /// More than the limit.
    #[error("it is larger than {}", size(*.0))]
    TooLarge(usize),
    /// It changed while it was read: somebody is still writing.
    #[error("the file is still being written")]
    Changing,
}

fn size(bytes: usize) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes.div_ceil(1024)),
        mib => format!("{mib} MiB"),
    }
}

/// The whole of a regular file of at most `limit` bytes. Symbolic links are followed:
/// whoever may put one there may put the file there.
pub(super) fn read(path: &Path, limit: usize) -> Result<Vec<u8>, Unreadable> {
    let mut file = File::options()
        .read(true)
        // A pipe without a writer opens at once, and is refused below.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let before = file.metadata()?;
    if !before.is_file() {
        return Err(Unreadable::NotAFile);
    }
    let room = u64::try_from(limit).unwrap_or(u64::MAX);
    if before.len() > room {
        return Err(Unreadable::TooLarge(limit));
    }
    let mut bytes = Vec::new();
    // A file that grows for ever must not be followed.
    (&mut file).take(room).read_to_end(&mut bytes)?;
    let after = file.metadata()?;
    if !same(&before, &after)? || u64::try_from(bytes.len()) != Ok(before.len()) {
        return Err(Unreadable::Changing);
    }
    Ok(bytes)
}

fn same(before: &Metadata, after: &Metadata) -> io::Result<bool> {
    Ok(before.len() == after.len() && before.modified()? == after.modified()?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Seek, Write},
        sync::atomic::{AtomicBool, Ordering},
        thread,
        time::{Duration, Instant},
    };

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("four"), "1234").unwrap();
        std::os::unix::fs::symlink("four", path("link")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("endless")).unwrap();
        mkfifo(&path("pipe"), Mode::S_IRWXU).unwrap();
        fs::create_dir(path("folder")).unwrap();
        assert_eq!(read(&path("four"), 4).unwrap(), b"1234");
        assert_eq!(read(&path("link"), 4).unwrap(), b"1234");
        let check = |name: &str, limit, reason: &str| {
            let error = read(&path(name), limit).unwrap_err().to_string();
            assert!(error.contains(reason), "{name}: {error}");
        };
        check("four", 3, "larger than 1 KiB");
        for odd in ["pipe", "folder", "endless"] {
            check(odd, 4, "not a regular file");
        }
        check("none", 4, "No such file");
    }

    #[test]
    fn a_file_that_grows_is_not_half_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grows");
        let mut file = fs::File::create(&path).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for _ in 0..1_000 {
                        file.write_all(&[1; 4096]).unwrap();
                    }
                    file.set_len(0).unwrap();
                    file.rewind().unwrap();
                }
            });
            // The other thread may have to wait for a processor.
            let until = Instant::now() + Duration::from_secs(10);
            let mut caught = false;
            while !caught && Instant::now() < until {
                caught = matches!(read(&path, 1 << 30), Err(Unreadable::Changing));
            }
            done.store(true, Ordering::Relaxed);
            assert!(caught);
        });
    }
}
