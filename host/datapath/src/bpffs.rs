//! The place for pins: `<bpffs>/v<LAYOUT_VERSION>/{maps,links}`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tidegate_ebpf_shared::LAYOUT_VERSION;

use super::DatapathError;

/// Source shown in the mount table for a bpffs we mounted, and so may unmount.
const MOUNT_SOURCE: &str = "tidegate";

/// Folders of the pins of this binary's layout.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    /// The mount point.
    pub(super) bpffs: PathBuf,
    /// One file per map.
    pub(super) maps: PathBuf,
    /// One file per link.
    pub(super) links: PathBuf,
}

impl Pins {
    /// Where the pins are below a mount point.
    pub(super) fn below(bpffs: &Path) -> Self {
        let version = bpffs.join(format!("v{LAYOUT_VERSION}"));
        Self {
            bpffs: bpffs.to_owned(),
            maps: version.join("maps"),
            links: version.join("links"),
        }
    }

    /// Mounts a bpffs if there is none, and makes the folders.
    pub(super) fn prepare(&self) -> Result<(), DatapathError> {
        if !is_bpffs(&self.bpffs) {
            fs::create_dir_all(&self.bpffs).map_err(|source| DatapathError::Bpffs {
                action: "create the folder",
                path: self.bpffs.clone(),
                source,
            })?;
            mount(
                Some(MOUNT_SOURCE),
                &self.bpffs,
                Some("bpf"),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                Some("mode=0700"),
            )
            .map_err(|errno| DatapathError::Bpffs {
                action: "mount a bpffs at",
                path: self.bpffs.clone(),
                source: errno.into(),
            })?;
        }
        for folder in [&self.maps, &self.links] {
            fs::create_dir_all(folder).map_err(|source| DatapathError::Bpffs {
                action: "create the folder",
                path: folder.clone(),
                source,
            })?;
        }
        Ok(())
    }
}

/// Is this path inside a bpffs? A folder of the system's one will do.
fn is_bpffs(path: &Path) -> bool {
    nix::sys::statfs::statfs(path)
        .is_ok_and(|info| info.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}

/// Names of the files in a folder; none if there is no such folder.
pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Unmounts the bpffs if it is one we mounted.
pub(super) fn unmount(bpffs: &Path) -> Result<(), DatapathError> {
    let ours = fs::read_to_string("/proc/thread-self/mounts")
        .unwrap_or_default()
        .lines()
        .any(|line| {
            let mut words = line.split(' ');
            words.next() == Some(MOUNT_SOURCE) && words.next().map(Path::new) == Some(bpffs)
        });
    if !ours {
        return Ok(());
    }
    umount2(bpffs, MntFlags::MNT_DETACH).map_err(|errno| DatapathError::Bpffs {
        action: "unmount the bpffs at",
        path: bpffs.to_owned(),
        source: errno.into(),
    })
}
