//! Made-up folders and plugin files, for tests of those who read scans.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use super::{FolderId, PluginStamp, Stamp};

/// A folder that differs from those of other numbers.
pub fn folder(path: impl AsRef<Path>, inode: u64) -> FolderId {
    FolderId {
        path: path.as_ref().to_owned(),
        device: 0,
        inode,
        made: Some(SystemTime::UNIX_EPOCH),
    }
}

/// One of another file system that has the same numbers.
pub fn made_later(folder: FolderId) -> FolderId {
    FolderId {
        made: folder.made.map(|made| made + Duration::from_secs(1)),
        ..folder
    }
}

/// A stamp that differs from those of other numbers.
pub fn plugin(inode: u64) -> PluginStamp {
    let module = Stamp {
        inode,
        size: 1,
        modified: SystemTime::UNIX_EPOCH,
    };
    PluginStamp {
        module,
        manifest: None,
        signature: None,
    }
}
