//! The watched folders: what is in them now.
//!
//! A scan is the only truth; a notification ([`super::watch`]) merely says "scan soon", so a
//! lost or doubled one does no harm. What is not there is told apart from what was removed:
//! only a folder that could be listed says that a file is gone. A file still being written is seen once it has been
//! quiet for [`QUIET`]; until then its previous content counts. One whose writer
//! has closed it, or which was moved here, is complete and seen at once.

mod absence;
mod listing;
mod scanner;
mod source;
pub mod testing;
#[cfg(test)]
mod tests;
mod watched;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tidegate_policy::{Origin, Source};

pub use self::{
    scanner::Scanner,
    source::FolderSource,
    watched::{LABELS, VENDOR, Watched},
};

/// How long a file must be unchanged before it counts as complete, unless somebody says that it is.
pub const QUIET: Duration = Duration::from_millis(40);

/// What the folders hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scan {
    /// Text of every `*.yaml` and `*.yml` file, or why it could not be read, by the
    /// file's name relative to the configuration: `policies/web.yaml`.
    pub documents: BTreeMap<String, Result<Arc<str>, String>>,
    /// Every `*.wasm` file (and manifest and signature beside it) by its path.
    pub plugins: BTreeMap<PathBuf, PluginStamp>,
    /// Folders that could not be listed, and why, with a way out; with an empty name all of
    /// them. Nothing is known of their files, so they count as unchanged.
    pub unreadable: BTreeMap<String, String>,
    /// Folders that need not be there and are not, likewise: that says something only where
    /// they had files.
    pub missing: BTreeMap<String, String>,
    /// Which folder it was that was listed.
    pub folders: BTreeMap<String, FolderId>,
    /// What looks like a document and is not read, by name, and why.
    pub ignored: BTreeMap<String, String>,
    /// Files that are not read for their names or for the folder they are in, by
    /// [`stem`]: where they are.
    pub astray: BTreeMap<String, String>,
    /// The same, hidden ones and others' backups too, by what they say.
    pub unread: BTreeMap<TextId, String>,
    /// Folders that are not watched any more and that files in force came from.
    pub former: BTreeMap<PathBuf, Result<FormerFolder, String>>,
    /// Plugins in use whose file is, or may be, in a folder that is not watched any more.
    pub plugins_elsewhere: BTreeSet<PathBuf>,
    /// Some file is still being written: scan again after [`QUIET`].
    pub unsettled: bool,
}

/// Tells one folder from another that took its name, or that is named instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderId {
    /// As `tidegate.yaml` names it.
    #[serde(default)]
    path: PathBuf,
    device: u64,
    inode: u64,
    /// When it was made, where the file system tells: the top folders of two file systems
    /// mounted one after the other may have the same numbers.
    #[serde(default)]
    made: Option<SystemTime>,
}

/// A folder that is not watched any more, as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct FormerFolder {
    /// Which it is.
    pub id: FolderId,
    /// Names of the documents in it.
    pub files: BTreeSet<String>,
    /// Files in it that are not read for their names, by what they say.
    pub unread: BTreeMap<TextId, String>,
}

/// Where an earlier run read files from.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    /// By watched folder, or by file for one of a folder that is not watched any more.
    pub documents: BTreeMap<Origin, FolderId>,
    /// Plugin files.
    pub plugins: Vec<PathBuf>,
}

impl Origins {
    /// Those of one source, by their names in it.
    pub fn of(&self, source: &Source) -> BTreeMap<String, FolderId> {
        let all = self.documents.iter();
        let own = all.filter(|(origin, _)| origin.source() == source);
        own.map(|(origin, id)| (origin.name().to_owned(), id.clone()))
            .collect()
    }
}

/// The watched folder a document file is in: `policies` of `policies/web.yaml`.
pub fn folder_of(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

/// What is left of a document file's name when people mistype the rest of it.
pub fn stem(name: &str) -> String {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    stem.to_lowercase()
}

/// Tells one text from another, as long as this process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TextId(u64);

impl TextId {
    /// The same for the same text.
    pub fn of(text: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// Tells one version of a plugin file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PluginStamp {
    module: Stamp,
    manifest: Option<Stamp>,
    signature: Option<Stamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: SystemTime,
}

impl PluginStamp {
    /// Is it the same module, whatever is written about it?
    pub fn is_same_module(&self, other: &Self) -> bool {
        self.module == other.module
    }
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        Ok(Self {
            inode: meta.ino(),
            size: meta.size(),
            modified: meta.modified()?,
        })
    }

    /// Time since the last change; a file from the future counts as old, or a wrong
    /// clock would keep it out for ever.
    fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.modified).unwrap_or(Duration::MAX)
    }
}

impl FolderId {
    fn of(folder: &Path) -> io::Result<Self> {
        let meta = fs::metadata(folder)?;
        Ok(Self {
            path: folder.to_owned(),
            device: meta.dev(),
            inode: meta.ino(),
            made: meta.created().ok(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Is it the same folder, wherever it is by now.
    pub fn is(&self, other: &Self) -> bool {
        let made_apart = self.made.zip(other.made).is_some_and(|(a, b)| a != b);
        (self.device, self.inode) == (other.device, other.inode) && !made_apart
    }

    /// Is it where the other one is. That of an earlier version did not say where it was.
    pub fn is_at(&self, other: &Self) -> bool {
        self.path == other.path || [&self.path, &other.path].contains(&&PathBuf::new())
    }
}
