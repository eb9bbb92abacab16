//! Looks at the folders, reading only what changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tidegate_signatures::EXTENSION;

use super::{
    FolderId, Origins, PluginStamp, QUIET, Scan, Stamp, folder_of,
    listing::{MOST_OTHERS, Unread, former_folder, is_there, list, printable, read, unreadable},
    stem,
    watched::{Watched, key},
};
use crate::watch::Nudge;

/// A file's clock must have moved on by this much before its time stamp alone proves
/// that nothing changed: time stamps are as coarse as the kernel's tick.
const STAMP_TRUST: Duration = Duration::from_secs(1);

/// How long a file is waited for whose writer has it open and writes nothing.
const STALLED: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    read_at: SystemTime,
    content: Result<Arc<str>, String>,
}

/// Scans the folders, reading only what changed.
#[derive(Debug)]
pub struct Scanner {
    watched: Watched,
    /// Folders and plugin files that files in force came from and that are not watched.
    former: BTreeSet<PathBuf>,
    former_plugins: Vec<PathBuf>,
    known: BTreeMap<String, Known>,
    /// Files that are not read for their names, as they were when they were looked into.
    others: BTreeMap<PathBuf, (Stamp, SystemTime, Option<Unread>)>,
    /// Files as they were when somebody said that they are complete.
    complete: BTreeMap<PathBuf, Stamp>,
    /// Files that somebody writes into and has not closed, as far as is heard.
    open: BTreeSet<PathBuf>,
    last: Scan,
}

impl Scanner {
    /// A scanner that has not looked yet. `origins` are where files in force came from.
    pub fn new(watched: Watched, origins: &Origins) -> Self {
        let watched_now = |name: &str| {
            let mut documents = watched.documents.iter();
            documents.find(|(label, _)| *label == folder_of(name))
        };
        let documents = origins.of(&watched.source).into_iter();
        let former = documents.filter(|(name, origin)| {
            origin.path != Path::new("")
                && watched_now(name).is_some_and(|(_, path)| *path != origin.path)
        });
        let is_elsewhere = |file: &&PathBuf| file.parent() != watched.plugins.as_deref();
        let plugins = origins.plugins.iter().filter(is_elsewhere);
        Self {
            former: former.map(|(_, origin)| origin.path).collect(),
            former_plugins: match watched.plugins {
                Some(_) => plugins.cloned().collect(),
                None => Vec::new(),
            },
            watched,
            known: BTreeMap::new(),
            others: BTreeMap::new(),
            complete: BTreeMap::new(),
            open: BTreeSet::new(),
            last: Scan::default(),
        }
    }

    /// Takes in what happens to files. Half of a policy may well be one, so a file is not read
    /// while its writer has it open.
    pub fn hear(&mut self, nudge: &Nudge) {
        match nudge {
            Nudge::Written(path) => drop(self.open.insert(path.clone())),
            Nudge::Closed(path) | Nudge::Gone(path) => drop(self.open.remove(path)),
            Nudge::Renamed(from, to) => {
                if self.open.remove(from) {
                    self.open.insert(to.clone());
                }
            }
            Nudge::Changed | Nudge::Complete(_) => {}
        }
    }

    /// Is somebody writing into it? Not if nothing came for long: what is heard may be lost.
    fn is_open(&self, path: &Path, stamp: Stamp, now: SystemTime) -> bool {
        self.open.contains(path) && stamp.age(now) < STALLED
    }

    /// A file is complete as it is now: the next scan need not wait.
    pub fn complete(&mut self, file: PathBuf) {
        // One that is gone already is of no interest.
        if let Ok(stamp) = Stamp::of(&file) {
            self.complete.insert(file, stamp);
        }
    }

    /// Looks at everything. `now` is the wall clock, as files have it.
    pub fn scan(&mut self, now: SystemTime) -> &Scan {
        let mut scan = Scan::default();
        match &self.watched.root {
            Some(root) if !root.is_dir() => {
                let key = key(&self.watched.source, "");
                let error = io::ErrorKind::NotFound.into();
                let message = unreadable(&key, root, &error);
                scan.unreadable.insert(String::new(), message);
            }
            _ => {
                for (label, folder) in self.watched.documents.clone() {
                    self.folder(&mut scan, label, &folder, now);
                }
            }
        }
        if let Some(folder) = &self.watched.plugins {
            match list(folder, &["wasm"]) {
                Ok(listing) => {
                    for path in listing.files {
                        self.plugin(&mut scan, path, now);
                    }
                }
                Err(error) => {
                    let key = key(&self.watched.source, "plugins");
                    scan.unreadable
                        .insert("plugins".to_owned(), unreadable(&key, folder, &error));
                    scan.plugins = self.last.plugins.clone();
                }
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
        self.others.retain(|path, _| path.exists());
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
                let place = match error.kind() {
                    io::ErrorKind::NotFound if self.watched.root.is_some() => &mut scan.missing,
                    _ => &mut scan.unreadable,
                };
                let key = key(&self.watched.source, label);
                place.insert(label.to_owned(), unreadable(&key, folder, &error));
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
            for path in listing.others.into_iter().take(MOST_OTHERS) {
                self.other(scan, label, path, now);
            }
        } else {
            scan.unsettled = true;
            self.carry_over(scan, label);
        }
    }

    /// Looks into a file that is not read for its name: it may be one that was.
    fn other(&mut self, scan: &mut Scan, label: &str, path: PathBuf, now: SystemTime) {
        let (Ok(stamp), Some(name)) = (Stamp::of(&path), path.file_name()) else {
            return;
        };
        let name = format!("{label}/{}", printable(&name.to_string_lossy()));
        let unread = match self.others.get(&path) {
            Some((known, read_at, unread))
                if *known == stamp && stamp.age(*read_at) > STAMP_TRUST =>
            {
                unread.clone()
            }
            _ => {
                let unread = Unread::of(&path);
                self.others.insert(path, (stamp, now, unread.clone()));
                unread
            }
        };
        let Some(unread) = unread else {
            return;
        };
        if unread.seems_meant {
            scan.astray.entry(stem(&name)).or_insert(name.clone());
            scan.ignored.entry(name.clone()).or_insert_with(|| {
                "it holds a document and is not read because of its name: only *.yaml and *.yml \
                 is; rename it, or move it out of the folder"
                    .to_owned()
            });
        }
        scan.unread.insert(unread.text, name);
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
        let complete = self.complete.get(path) == Some(&stamp);
        let open = self.is_open(path, stamp, now);
        if open || (!complete && stamp.age(now) < QUIET) {
            // Its end will be heard; until then there is no use in looking again and again.
            scan.unsettled |= !open;
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
        let signature = Stamp::of(&path.with_added_extension(EXTENSION)).ok();
        let stamp = PluginStamp {
            module,
            manifest,
            signature,
        };
        let quiet = |stamp: Stamp| stamp.age(now) >= QUIET;
        let complete = self.complete.get(&path) == Some(&module);
        let open = self.is_open(&path, module, now);
        if !open
            && (complete || quiet(module))
            && manifest.is_none_or(quiet)
            && signature.is_none_or(quiet)
        {
            scan.plugins.insert(path, stamp);
            return;
        }
        scan.unsettled |= !open;
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
