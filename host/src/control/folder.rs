//! The watched folders: what is in them now, and a nudge when that may have changed.
//!
//! A scan is the only truth; a notification merely says "scan soon", so a lost or
//! doubled one does no harm. A file still being written is seen once it has been
//! quiet for [`QUIET`]; until then its previous content counts. A plugin whose writer
//! has closed it, or which was moved here, is complete and seen at once.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use crate::config::Folders;

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
    /// Folders that could not be listed, and why. Their files count as unchanged.
    pub unreadable: BTreeMap<String, String>,
    /// Some file is still being written: scan again after [`QUIET`].
    pub unsettled: bool,
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
    known: BTreeMap<String, Known>,
    /// Plugin files as they were when somebody said that they are complete.
    complete: BTreeMap<PathBuf, Stamp>,
    last: Scan,
}

impl Scanner {
    /// A scanner that has not looked yet.
    pub fn new(folders: &Folders) -> Self {
        Self {
            documents: [
                ("endpoints", folders.endpoints.clone()),
                ("services", folders.services.clone()),
                ("policies", folders.policies.clone()),
            ],
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
            match list(&folder, &["yaml", "yml"]) {
                Ok(files) => {
                    for path in files {
                        self.document(&mut scan, label, &path, now);
                    }
                }
                Err(error) => {
                    scan.unreadable
                        .insert(label.to_owned(), format!("{}: {error}", folder.display()));
                    self.carry_over(&mut scan, label);
                }
            }
        }
        match list(&self.plugins, &["wasm"]) {
            Ok(files) => {
                for path in files {
                    self.plugin(&mut scan, path, now);
                }
            }
            Err(error) => {
                scan.unreadable.insert(
                    "plugins".to_owned(),
                    format!("{}: {error}", self.plugins.display()),
                );
                scan.plugins = self.last.plugins.clone();
            }
        }
        self.known
            .retain(|name, _| scan.documents.contains_key(name));
        self.complete.clear();
        self.last = scan;
        &self.last
    }

    fn document(&mut self, scan: &mut Scan, label: &str, path: &Path, now: SystemTime) {
        let Some(file) = path.file_name().and_then(|name| name.to_str()) else {
            return;
        };
        let name = format!("{label}/{file}");
        // A file that vanishes between listing and looking is simply not there.
        let Ok(stamp) = Stamp::of(path) else { return };
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
        let prefix = format!("{label}/");
        let before = self.last.documents.iter();
        scan.documents.extend(
            before
                .filter(|(name, _)| name.starts_with(&prefix))
                .map(|(name, content)| (name.clone(), content.clone())),
        );
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

/// Files of a folder with one of these extensions, sorted. Hidden files are editors'
/// and tools' own. A folder that does not exist is empty.
fn list(folder: &Path, extensions: &[&str]) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let wanted = path
            .extension()
            .is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted));
        if wanted && !hidden {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
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

/// Why to scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nudge {
    /// Something may have changed.
    Changed,
    /// This plugin file was moved here, or closed by its writer.
    Complete(PathBuf),
}

/// Watches the folders; every change sends a nudge. Keep it alive as long as nudges
/// are wanted.
#[derive(Debug)]
pub struct Watch {
    watcher: notify::RecommendedWatcher,
    folders: BTreeMap<PathBuf, Option<u64>>,
}

impl Watch {
    /// Starts watching. Folders that do not exist yet are picked up by [`Watch::refresh`].
    pub fn new(folders: &Folders, nudge: mpsc::Sender<Nudge>) -> notify::Result<Self> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            for why in nudges(event) {
                // A full channel already holds a nudge; what is lost with this one is
                // the right not to wait.
                let _ = nudge.try_send(why);
            }
        })?;
        let all = [
            &folders.policies,
            &folders.services,
            &folders.endpoints,
            &folders.plugins,
        ];
        let mut watch = Self {
            watcher,
            folders: all
                .into_iter()
                .map(|folder| (folder.clone(), None))
                .collect(),
        };
        watch.refresh();
        Ok(watch)
    }

    /// Watches folders that appeared or were replaced since.
    pub fn refresh(&mut self) {
        for (folder, watched) in &mut self.folders {
            let inode = fs::metadata(folder).ok().map(|meta| meta.ino());
            if *watched == inode {
                continue;
            }
            if watched.is_some() {
                // Fails when the folder is gone, which ended the watch by itself.
                let _ = self.watcher.unwatch(folder);
            }
            *watched = match inode.map(|_| self.watcher.watch(folder, RecursiveMode::NonRecursive))
            {
                Some(Ok(())) => inode,
                Some(Err(error)) => {
                    tracing::warn!(folder = %folder.display(), %error, "cannot watch the folder; it is scanned every few seconds instead");
                    None
                }
                None => None,
            };
        }
    }
}

/// What an event means for us.
fn nudges(event: notify::Result<notify::Event>) -> Vec<Nudge> {
    use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
    let Ok(event) = event else {
        return vec![Nudge::Changed];
    };
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
            event.paths.into_iter().map(complete).collect()
        }
        // Reading a file is an event too, and not a change.
        EventKind::Access(_) => Vec::new(),
        _ => vec![Nudge::Changed],
    }
}

fn complete(path: PathBuf) -> Nudge {
    match path.extension() {
        Some(extension) if extension == "wasm" => Nudge::Complete(path),
        _ => Nudge::Changed,
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
        Folders {
            policies: root.join("policies"),
            services: root.join("services"),
            endpoints: root.join("endpoints"),
            plugins: root.join("plugins"),
        }
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
        let mut scanner = Scanner::new(&folders(root.path()));
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
        let mut scanner = Scanner::new(&folders(root.path()));
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
        let mut scanner = Scanner::new(&folders(root.path()));
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
        let mut scanner = Scanner::new(&folders(root.path()));
        let content = scanner.scan(later(1)).documents["policies/a.yaml"].clone();
        assert!(content.expect_err("refused").contains("regular file"));
    }

    #[test]
    fn an_oversized_file_is_refused_unread() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(root.path().join("policies")).expect("made");
        let file = fs::File::create(root.path().join("policies/big.yaml")).expect("made");
        file.set_len(MAX_DOCUMENT_BYTES + 1).expect("grown");
        let mut scanner = Scanner::new(&folders(root.path()));
        let content = scanner.scan(later(1)).documents["policies/big.yaml"].clone();
        assert!(content.expect_err("refused").contains("split it"));
    }
}
