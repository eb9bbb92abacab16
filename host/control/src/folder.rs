//! The watched folders: what is in them now.
//!
//! A scan is the only truth; a notification ([`super::watch`]) merely says "scan soon", so a
//! lost or doubled one does no harm. What is not there is told apart from what was removed:
//! only a folder that could be listed says that a file is gone. A file still being written is seen once it has been
//! quiet for [`QUIET`]; until then its previous content counts. A plugin whose writer
//! has closed it, or which was moved here, is complete and seen at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tidegate_config::Folders;

/// How long a file must be unchanged before it counts as complete.
pub const QUIET: Duration = Duration::from_millis(40);
/// Largest document file, bytes. A policy file of this size has some 20,000 rules.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// A file's clock must have moved on by this much before its time stamp alone proves
/// that nothing changed: time stamps are as coarse as the kernel's tick.
const STAMP_TRUST: Duration = Duration::from_secs(1);

/// What the folders hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scan {
    /// Text of every `*.yaml` and `*.yml` file, or why it could not be read, by the
    /// file's name relative to the configuration: `policies/web.yaml`.
    pub documents: BTreeMap<String, Result<Arc<str>, String>>,
    /// Every `*.wasm` file (and the manifest beside it) by its path.
    pub plugins: BTreeMap<PathBuf, PluginStamp>,
    /// Folders that could not be listed, and why, with a way out. Nothing is known of
    /// their files, so they count as unchanged.
    pub unreadable: BTreeMap<String, String>,
    /// Which folder it was that was listed.
    pub folders: BTreeMap<String, FolderId>,
    /// What looks like a document and is not read, by name, and why.
    pub ignored: BTreeMap<String, String>,
    /// Files that are not read for their names or for the folder they are in, by
    /// [`stem`]: where they are.
    pub astray: BTreeMap<String, String>,
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
}

/// Where an earlier run read files from.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    /// By watched folder, or by file for one of a folder that is not watched any more.
    pub documents: BTreeMap<String, FolderId>,
    /// Plugin files.
    pub plugins: Vec<PathBuf>,
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

/// Tells one version of a plugin file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PluginStamp {
    module: Stamp,
    manifest: Option<Stamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: SystemTime,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    read_at: SystemTime,
    content: Result<Arc<str>, String>,
}

/// Scans the folders, reading only what changed.
#[derive(Debug)]
pub struct Scanner {
    documents: [(&'static str, PathBuf); 3],
    plugins: PathBuf,
    /// Folders and plugin files that files in force came from and that are not watched.
    former: BTreeSet<PathBuf>,
    former_plugins: Vec<PathBuf>,
    known: BTreeMap<String, Known>,
    /// Plugin files as they were when somebody said that they are complete.
    complete: BTreeMap<PathBuf, Stamp>,
    last: Scan,
}

impl Scanner {
    /// A scanner that has not looked yet. `origins` are where files in force came from.
    pub fn new(folders: &Folders, origins: &Origins) -> Self {
        let documents = [
            ("endpoints", folders.endpoints.clone()),
            ("services", folders.services.clone()),
            ("policies", folders.policies.clone()),
        ];
        let watched = |name: &str| {
            documents
                .iter()
                .find(|(label, _)| *label == folder_of(name))
        };
        let former = origins.documents.iter().filter(|(name, origin)| {
            origin.path != Path::new("")
                && watched(name).is_some_and(|(_, path)| *path != origin.path)
        });
        let is_elsewhere = |file: &&PathBuf| file.parent() != Some(&*folders.plugins);
        Self {
            former: former.map(|(_, origin)| origin.path.clone()).collect(),
            former_plugins: origins
                .plugins
                .iter()
                .filter(is_elsewhere)
                .cloned()
                .collect(),
            documents,
            plugins: folders.plugins.clone(),
            known: BTreeMap::new(),
            complete: BTreeMap::new(),
            last: Scan::default(),
        }
    }

    /// A plugin file is complete as it is now: the next scan need not wait.
    pub fn complete(&mut self, plugin: PathBuf) {
        // One that is gone already is of no interest.
        if let Ok(stamp) = Stamp::of(&plugin) {
            self.complete.insert(plugin, stamp);
        }
    }

    /// Looks at everything. `now` is the wall clock, as files have it.
    pub fn scan(&mut self, now: SystemTime) -> &Scan {
        let mut scan = Scan::default();
        for (label, folder) in self.documents.clone() {
            self.folder(&mut scan, label, &folder, now);
        }
        match list(&self.plugins, &["wasm"]) {
            Ok(listing) => {
                for path in listing.files {
                    self.plugin(&mut scan, path, now);
                }
            }
            Err(error) => {
                scan.unreadable.insert(
                    "plugins".to_owned(),
                    unreadable("plugins", &self.plugins, &error),
                );
                scan.plugins = self.last.plugins.clone();
            }
        }
        let former = self.former.iter();
        scan.former = former
            .map(|folder| (folder.clone(), former_folder(folder)))
            .collect();
        let is_kept = |file: &&PathBuf| {
            let folder = file
                .parent()
                .and_then(|folder| list(folder, &["wasm"]).ok());
            // Of a folder that is not there nothing is known.
            folder.is_none_or(|listing| listing.files.contains(file))
        };
        scan.plugins_elsewhere = self
            .former_plugins
            .iter()
            .filter(is_kept)
            .cloned()
            .collect();
        self.known
            .retain(|name, _| scan.documents.contains_key(name));
        self.complete.clear();
        self.last = scan;
        &self.last
    }

    /// Reads a folder of documents. One that is moved away or replaced meanwhile is not
    /// half read: everything in it counts as before, and is looked at again soon.
    fn folder(&mut self, scan: &mut Scan, label: &str, folder: &Path, now: SystemTime) {
        let listing = match list(folder, &["yaml", "yml"]) {
            Ok(listing) => listing,
            Err(error) => {
                let message = unreadable(label, folder, &error);
                scan.unreadable.insert(label.to_owned(), message);
                return;
            }
        };
        let mut part = Scan::default();
        for path in &listing.files {
            self.document(&mut part, label, path, now);
        }
        scan.unsettled |= part.unsettled;
        if FolderId::of(folder).ok().as_ref() == Some(&listing.id) {
            scan.documents.extend(part.documents);
            scan.folders.insert(label.to_owned(), listing.id);
            let astray = listing.astray.into_iter();
            scan.astray.extend(astray.map(|file| {
                let name = file.rsplit('/').next().unwrap_or(&file);
                (stem(&format!("{label}/{name}")), format!("{label}/{file}"))
            }));
            let ignored = listing.ignored.into_iter();
            scan.ignored
                .extend(ignored.map(|(file, why)| (format!("{label}/{file}"), why)));
        } else {
            scan.unsettled = true;
            self.carry_over(scan, label);
        }
    }

    fn document(&mut self, scan: &mut Scan, label: &str, path: &Path, now: SystemTime) {
        let Some(file) = path.file_name().map(|name| name.to_string_lossy()) else {
            return;
        };
        let name = format!("{label}/{}", printable(&file));
        let stamp = match Stamp::of(path) {
            Ok(stamp) => stamp,
            // Vanished between listing and looking: it is simply not there.
            Err(error) if !is_there(path) && error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                let why = match fs::read_link(path) {
                    Ok(target) => format!(
                        "the link leads to {}, which cannot be read: {error}; mend the link, or delete it to remove what the file said",
                        target.display()
                    ),
                    Err(_) => format!("cannot read the file: {error}"),
                };
                scan.documents.insert(name, Err(why));
                return;
            }
        };
        let known = self.known.get(&name);
        if let Some(known) = known
            && known.stamp == stamp
            && stamp.age(known.read_at) > STAMP_TRUST
        {
            scan.documents.insert(name, known.content.clone());
            return;
        }
        if stamp.age(now) < QUIET {
            scan.unsettled = true;
            if let Some(known) = known {
                scan.documents.insert(name, known.content.clone());
            }
            return;
        }
        let content = read(path, stamp.size);
        let known = Known {
            stamp,
            read_at: now,
            content: content.clone(),
        };
        self.known.insert(name.clone(), known);
        scan.documents.insert(name, content);
    }

    fn plugin(&self, scan: &mut Scan, path: PathBuf, now: SystemTime) {
        let Ok(module) = Stamp::of(&path) else { return };
        let manifest = ["yaml", "toml"]
            .iter()
            .find_map(|extension| Stamp::of(&path.with_extension(extension)).ok());
        let stamp = PluginStamp { module, manifest };
        let quiet = |stamp: Stamp| stamp.age(now) >= QUIET;
        let complete = self.complete.get(&path) == Some(&module);
        if (complete || quiet(module)) && manifest.is_none_or(quiet) {
            scan.plugins.insert(path, stamp);
            return;
        }
        scan.unsettled = true;
        if let Some(before) = self.last.plugins.get(&path) {
            scan.plugins.insert(path, *before);
        }
    }

    fn carry_over(&self, scan: &mut Scan, label: &str) {
        let before = self.last.documents.iter();
        scan.documents.extend(
            before
                .filter(|(name, _)| folder_of(name) == label)
                .map(|(name, content)| (name.clone(), content.clone())),
        );
        match (
            self.last.folders.get(label),
            self.last.unreadable.get(label),
        ) {
            (Some(id), _) => {
                scan.folders.insert(label.to_owned(), id.clone());
            }
            (None, Some(why)) => {
                scan.unreadable.insert(label.to_owned(), why.clone());
            }
            // Never seen whole yet: known to be there, and no more.
            (None, None) => {
                let why = "the folder changes while it is read".to_owned();
                scan.unreadable.insert(label.to_owned(), why);
            }
        }
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

/// A folder that is not watched any more, for what is not in it any more.
fn former_folder(folder: &Path) -> Result<FormerFolder, String> {
    let listing = list(folder, &["yaml", "yml"]).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "it is not there".to_owned(),
        _ => format!("it cannot be listed: {error}"),
    })?;
    let names = listing.files.iter().filter_map(|file| file.file_name());
    Ok(FormerFolder {
        id: listing.id,
        files: names
            .map(|name| printable(&name.to_string_lossy()))
            .collect(),
    })
}

/// A folder's files of interest.
struct Listing {
    id: FolderId,
    files: Vec<PathBuf>,
    /// Names that look like files of interest and are not read, and why.
    ignored: Vec<(String, String)>,
    /// The files that these are, or that are in them, relative to the folder.
    astray: Vec<String>,
}

/// Folders in folders that are looked into for files that are not read.
const DEPTH: usize = 4;

/// Files of a folder with one of these extensions, sorted. Hidden files are editors'
/// and tools' own.
fn list(folder: &Path, extensions: &[&str]) -> io::Result<Listing> {
    let mut listing = Listing {
        id: FolderId::of(folder)?,
        files: Vec::new(),
        ignored: Vec::new(),
        astray: Vec::new(),
    };
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().map(|name| name.to_string_lossy()) else {
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        let extension = path.extension().map(|e| e.to_string_lossy());
        let is = |wanted: &&str| extension.as_deref() == Some(*wanted);
        let resembles = |wanted: &&str| {
            extension
                .as_deref()
                .is_some_and(|e| e.eq_ignore_ascii_case(wanted))
        };
        let name = printable(&name);
        if extensions.iter().any(is) {
            listing.files.push(path.clone());
        } else if extensions.iter().any(resembles) {
            let why = format!(
                "not read because of its name: only *.{} is; rename it",
                extensions.join(" and *.")
            );
            listing.astray.push(name.clone());
            listing.ignored.push((name, why));
        } else {
            let within = files_within(&path, extensions, DEPTH);
            if !within.is_empty() {
                let why = "folders in this folder are not read; move its files up".to_owned();
                let within = within.iter().map(|file| format!("{name}/{file}"));
                listing.astray.extend(within);
                listing.ignored.push((name, why));
            }
        }
    }
    listing.files.sort();
    Ok(listing)
}

/// Files of interest in a folder and the folders in it, relative to it; none if it is no
/// folder.
fn files_within(folder: &Path, extensions: &[&str], depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    // Links to folders may lead anywhere, also back.
    let is_folder = fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir());
    let entries = is_folder.then(|| fs::read_dir(folder).ok()).flatten();
    for entry in entries.into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let extension = path.extension().map(|e| e.to_string_lossy());
        if name.starts_with('.') {
            continue;
        }
        let name = printable(&name);
        if extensions.iter().any(|wanted| {
            extension
                .as_deref()
                .is_some_and(|e| e.eq_ignore_ascii_case(wanted))
        }) {
            found.push(name);
        } else if depth > 1 {
            let within = files_within(&path, extensions, depth - 1);
            found.extend(within.iter().map(|file| format!("{name}/{file}")));
        }
    }
    found.sort();
    found
}

/// Why a folder's files count as before, and what to do about it.
fn unreadable(label: &str, folder: &Path, error: &io::Error) -> String {
    let folder = folder.display();
    let what = match error.kind() {
        io::ErrorKind::NotFound => format!("there is no folder {folder}"),
        _ => format!("cannot list {folder}: {error}"),
    };
    format!(
        "{what}; what it held stays in force: make it, or correct `folders.{label}` in tidegate.yaml and restart"
    )
}

/// Is there an entry of this name, if only a link that leads nowhere?
fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// A file's name for people: control characters are spelt out, so that none reaches a
/// terminal.
fn printable(name: &str) -> String {
    let spell = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    name.chars().map(spell).collect()
}

fn read(path: &Path, size: u64) -> Result<Arc<str>, String> {
    if size > MAX_DOCUMENT_BYTES {
        return Err(format!(
            "the file has {size} bytes, more than the {MAX_DOCUMENT_BYTES} a document file may have; split it"
        ));
    }
    if !fs::metadata(path).is_ok_and(|meta| meta.is_file()) {
        // Opening a pipe would wait for somebody to write into it.
        return Err("it is not a regular file".to_owned());
    }
    fs::read_to_string(path)
        .map(Arc::from)
        .map_err(|error| format!("cannot read the file: {error}"))
}

#[cfg(test)]
impl FolderId {
    /// A folder that differs from those of other numbers.
    pub(super) fn made_up(path: &str, inode: u64) -> Self {
        Self {
            path: path.into(),
            device: 0,
            inode,
            made: Some(SystemTime::UNIX_EPOCH),
        }
    }

    /// One of another file system that has the same numbers.
    pub(super) fn made_later(self) -> Self {
        Self {
            made: self.made.map(|made| made + Duration::from_secs(1)),
            ..self
        }
    }
}

#[cfg(test)]
impl PluginStamp {
    /// A stamp that differs from those of other numbers.
    pub(super) fn made_up(inode: u64) -> Self {
        let module = Stamp {
            inode,
            size: 1,
            modified: SystemTime::UNIX_EPOCH,
        };
        Self {
            module,
            manifest: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(root: &Path) -> Folders {
        let folder = |name| {
            let path = root.join(name);
            fs::create_dir_all(&path).expect("made");
            path
        };
        Folders {
            policies: folder("policies"),
            services: folder("services"),
            endpoints: folder("endpoints"),
            plugins: folder("plugins"),
        }
    }

    #[test]
    fn what_is_not_there_is_told_from_what_was_removed() {
        let root = tempfile::tempdir().expect("a folder");
        let at = |name: &str| root.path().join(name);
        let mut scanner = Scanner::new(&folders(root.path()), &Origins::default());
        fs::write(at("policies/a.yaml"), "a").expect("written");
        std::os::unix::fs::symlink("nowhere", at("policies/link.yaml")).expect("linked");
        let scan = scanner.scan(later(1)).clone();
        assert_eq!(scan.documents["policies/a.yaml"].as_deref(), Ok("a"));
        let dangling = scan.documents["policies/link.yaml"].clone();
        assert!(dangling.expect_err("refused").contains("nowhere"));

        // A folder that is gone says nothing about its files, and is named.
        fs::rename(at("policies"), at("policies.x")).expect("moved");
        let scan = scanner.scan(later(2)).clone();
        assert!(scan.documents.is_empty() && !scan.folders.contains_key("policies"));
        let why = &scan.unreadable["policies"];
        assert!(
            why.contains("no folder") && why.contains("folders.policies"),
            "{why}"
        );

        // One that is back is the same, another one is not.
        fs::rename(at("policies.x"), at("policies")).expect("moved");
        let back = scanner.scan(later(3)).folders["policies"].clone();
        fs::rename(at("policies"), at("policies.x")).expect("moved");
        fs::create_dir(at("policies")).expect("made");
        assert!(!scanner.scan(later(4)).folders["policies"].is(&back));
    }

    /// As the node agent of Kubernetes does it: files are links through `..data`, which is
    /// replaced by a rename.
    #[test]
    fn a_mounted_config_map_may_be_swapped() {
        let root = tempfile::tempdir().expect("a folder");
        let at = |name: &str| root.path().join("policies").join(name);
        let mut scanner = Scanner::new(&folders(root.path()), &Origins::default());
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(at(version)).expect("made");
            fs::write(at(version).join("a.yaml"), text).expect("written");
        }
        std::os::unix::fs::symlink("..1", at("..data")).expect("linked");
        std::os::unix::fs::symlink("..data/a.yaml", at("a.yaml")).expect("linked");
        for text in ["one", "two"] {
            let scan = scanner.scan(later(1));
            assert_eq!(scan.documents["policies/a.yaml"].as_deref(), Ok(text));
            assert!(scan.ignored.is_empty(), "{scan:?}");
            std::os::unix::fs::symlink("..2", at("..new")).expect("linked");
            fs::rename(at("..new"), at("..data")).expect("swapped");
        }
    }

    #[test]
    fn what_looks_like_a_document_and_is_not_read_is_named() {
        let root = tempfile::tempdir().expect("a folder");
        let mut scanner = Scanner::new(&folders(root.path()), &Origins::default());
        fs::write(root.path().join("policies/B.YAML"), "a").expect("written");
        fs::create_dir(root.path().join("policies/team")).expect("made");
        fs::create_dir(root.path().join("policies/lost+found")).expect("made");
        fs::write(root.path().join("policies/team/a.yaml"), "a").expect("written");
        fs::write(root.path().join("policies/notes.txt"), "a").expect("written");
        let scan = scanner.scan(later(1));
        assert!(scan.ignored["policies/B.YAML"].contains("rename it"));
        assert!(scan.ignored["policies/team"].contains("move its files up"));
        assert_eq!(scan.ignored.len(), 2, "{scan:?}");
        assert_eq!(scan.astray["policies/a"], "policies/team/a.yaml");
        assert_eq!(scan.astray["policies/b"], "policies/B.YAML");
    }

    #[test]
    fn folders_that_are_not_watched_any_more_are_looked_at_for_what_is_gone() {
        let root = tempfile::tempdir().expect("a folder");
        let at = |name: &str| root.path().join(name);
        let before = folders(&at("before"));
        let mut scanner = Scanner::new(&before, &Origins::default());
        fs::write(before.policies.join("a.yaml"), "a").expect("written");
        fs::write(before.plugins.join("p.wasm"), "p").expect("written");
        let origins = Origins {
            documents: scanner.scan(later(1)).folders.clone(),
            plugins: vec![before.plugins.join("p.wasm")],
        };
        let mut scanner = Scanner::new(&folders(&at("after")), &origins);
        let scan = scanner.scan(later(1)).clone();
        let former = scan.former[&before.policies].clone().expect("listed");
        assert!(former.files.contains("a.yaml") && former.id.is(&origins.documents["policies"]));
        assert_eq!(scan.plugins_elsewhere.len(), 1);
        fs::remove_dir_all(&before.policies).expect("removed");
        fs::remove_file(before.plugins.join("p.wasm")).expect("removed");
        let scan = scanner.scan(later(2));
        assert!(scan.former[&before.policies].is_err());
        assert!(scan.plugins_elsewhere.is_empty(), "its folder is there");
        fs::remove_dir_all(&before.plugins).expect("removed");
        assert_eq!(scanner.scan(later(3)).plugins_elsewhere.len(), 1);
    }

    fn later(seconds: u64) -> SystemTime {
        SystemTime::now() + Duration::from_secs(seconds)
    }

    #[test]
    fn a_scan_sees_documents_and_plugins_and_nothing_else() {
        let root = tempfile::tempdir().expect("a folder");
        for (name, text) in [
            ("policies/a.yaml", "a"),
            ("policies/b.yml", "b"),
            ("policies/.a.yaml.swp", "editor"),
            ("policies/.hidden.yaml", "editor"),
            ("policies/a.yaml~", "editor"),
            ("plugins/bot.wasm", "wasm"),
            ("plugins/bot.yaml", "manifest"),
        ] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        }
        let mut scanner = Scanner::new(&folders(root.path()), &Origins::default());
        let scan = scanner.scan(later(1));
        let names: Vec<_> = scan.documents.keys().map(String::as_str).collect();
        assert_eq!(names, ["policies/a.yaml", "policies/b.yml"]);
        assert_eq!(scan.plugins.len(), 1);
        assert!(scan.unreadable.is_empty(), "{scan:?}");
    }

    #[test]
    fn a_file_being_written_keeps_its_previous_content() {
        let root = tempfile::tempdir().expect("a folder");
        let file = root.path().join("policies/a.yaml");
        fs::create_dir_all(file.parent().expect("a parent")).expect("made");
        fs::write(&file, "old").expect("written");
        let mut scanner = Scanner::new(&folders(root.path()), &Origins::default());
        let content = |scan: &Scan| scan.documents["policies/a.yaml"].clone();
        assert_eq!(content(scanner.scan(later(1))).as_deref(), Ok("old"));

        fs::write(&file, "new").expect("written");
        let modified = fs::metadata(&file)
            .and_then(|m| m.modified())
            .expect("a time");
        let scan = scanner.scan(modified + QUIET / 2);
        assert!(scan.unsettled);
        assert_eq!(content(scan).as_deref(), Ok("old"));
        let scan = scanner.scan(modified + QUIET);
        assert!(!scan.unsettled);
        assert_eq!(content(scan).as_deref(), Ok("new"));
    }

    #[test]
    fn a_complete_plugin_is_seen_at_once_and_only_as_it_was() {
        let root = tempfile::tempdir().expect("a folder");
        let file = root.path().join("plugins/a.wasm");
        fs::create_dir_all(file.parent().expect("a parent")).expect("made");
        fs::write(&file, "one").expect("written");
        let mut scanner = Scanner::new(&folders(root.path()), &Origins::default());
        let modified = || {
            let meta = fs::metadata(&file).expect("a file");
            meta.modified().expect("a time")
        };
        assert!(scanner.scan(modified()).unsettled);
        scanner.complete(file.clone());
        let scan = scanner.scan(modified());
        assert!(!scan.unsettled);
        assert!(scan.plugins.contains_key(&file));
        // Somebody goes on writing before it is looked at.
        scanner.complete(file.clone());
        fs::write(&file, "another").expect("written");
        assert!(scanner.scan(modified()).unsettled);
    }

    #[test]
    fn a_folder_in_the_place_of_a_file_is_refused() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(root.path().join("policies/a.yaml")).expect("made");
        let mut scanner = Scanner::new(&folders(root.path()), &Origins::default());
        let content = scanner.scan(later(1)).documents["policies/a.yaml"].clone();
        assert!(content.expect_err("refused").contains("regular file"));
    }

    #[test]
    fn an_oversized_file_is_refused_unread() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(root.path().join("policies")).expect("made");
        let file = fs::File::create(root.path().join("policies/big.yaml")).expect("made");
        file.set_len(MAX_DOCUMENT_BYTES + 1).expect("grown");
        let mut scanner = Scanner::new(&folders(root.path()), &Origins::default());
        let content = scanner.scan(later(1)).documents["policies/big.yaml"].clone();
        assert!(content.expect_err("refused").contains("split it"));
    }
}
