//! Takes everything away again, for `tidegate cleanup`.

use std::{fs, path::Path};

use super::{Datapath, DatapathError, attach, bpffs, kernel_features, routes};

impl Datapath {
    /// Detaches and unpins everything below `bpffs`, of whatever version and process,
    /// and takes back rules and routes: traffic flows as if Tidegate had never been
    /// there. A bpffs that was mounted by us is unmounted.
    pub fn remove(bpffs: &Path) -> Result<(), DatapathError> {
        kernel_features::check_rights()?;
        let failed = |source| DatapathError::Bpffs {
            action: "remove the pins in",
            path: bpffs.to_owned(),
            source,
        };
        for version in bpffs::names(bpffs).map_err(failed)? {
            if !is_version(&version) {
                continue;
            }
            let folder = bpffs.join(version);
            // Programs first: while one runs, its tables must be whole.
            attach::remove_all(&folder.join("links"))?;
            for map in bpffs::names(&folder.join("maps")).map_err(failed)? {
                fs::remove_file(folder.join("maps").join(map)).map_err(failed)?;
            }
            for part in ["links", "maps", ""] {
                match fs::remove_dir(folder.join(part)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(failed(error));
                    }
                    _ => {}
                }
            }
        }
        routes::remove()?;
        bpffs::unmount(bpffs)
    }
}

/// `v` and a number: a folder of ours.
fn is_version(name: &str) -> bool {
    name.strip_prefix('v')
        .is_some_and(|number| number.parse::<u32>().is_ok())
}
