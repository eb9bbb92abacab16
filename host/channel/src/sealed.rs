//! Bytes too large for a message, in a memory file that nobody can change any more.

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};

const SEALS: SealFlag = SealFlag::F_SEAL_WRITE
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW);

/// A sealed copy of some bytes.
///
/// # Errors
///
/// The kernel's, e.g. out of memory.
pub fn seal(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(file.into())
}

/// Takes a file that must be sealed, and at most `limit` bytes long.
///
/// # Errors
///
/// If it is not: whoever sent it could change it under us.
pub fn check(fd: OwnedFd, limit: u64) -> io::Result<File> {
    let seals = SealFlag::from_bits_truncate(fcntl(fd.as_fd(), FcntlArg::F_GET_SEALS)?);
    let file = File::from(fd);
    let length = file.metadata()?.len();
    if !seals.contains(SEALS) || length > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a memory file that is not sealed, or of more than {limit} bytes: {length}"),
        ));
    }
    Ok(file)
}

/// All bytes of a sealed file.
pub fn read(file: &File) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_can_be_read_and_not_written() {
        let file = check(seal("test", b"bytes").unwrap(), 5).unwrap();
        assert_eq!(read(&file).unwrap(), b"bytes");
        assert!(file.write_at(b"x", 0).is_err());
    }

    #[test]
    fn too_long_or_not_sealed_is_refused() {
        assert!(check(seal("test", b"bytes").unwrap(), 4).is_err());
        let open = memfd_create("test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING);
        assert!(check(open.unwrap(), 4).is_err());
    }
}
