//! A nudge when something in the watched folders may have changed.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use crate::folder::Watched;

/// Why to scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nudge {
    /// Something may have changed.
    Changed,
    /// Somebody writes into this file.
    Written(PathBuf),
    /// Who wrote into this file has closed it; more may follow.
    Closed(PathBuf),
    /// This file was moved here.
    Complete(PathBuf),
    /// This file was removed, or moved away.
    Gone(PathBuf),
    /// A file of a watched folder has another name now.
    Renamed(PathBuf, PathBuf),
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
    pub fn new(folders: &Watched, nudge: mpsc::Sender<Nudge>) -> notify::Result<Self> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            for why in nudges(event) {
                // A full channel already holds a nudge; what is lost with this one is
                // the right not to wait, or some of what would belong together.
                let _ = nudge.try_send(why);
            }
        })?;
        let mut watch = Self {
            watcher,
            folders: folders
                .paths()
                .map(|path| (path.to_owned(), None))
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
    use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RenameMode};
    let Ok(event) = event else {
        return vec![Nudge::Changed];
    };
    let each = |nudge: fn(PathBuf) -> Nudge| event.paths.iter().cloned().map(nudge).collect();
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Create(CreateKind::File) => each(Nudge::Closed),
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => each(Nudge::Complete),
        EventKind::Modify(ModifyKind::Data(_)) => each(Nudge::Written),
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
            each(Nudge::Gone)
        }
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => match &*event.paths {
            [from, to] => vec![Nudge::Renamed(from.clone(), to.clone())],
            _ => vec![Nudge::Changed],
        },
        // Reading a file is an event too, and not a change.
        EventKind::Access(_) => Vec::new(),
        _ => vec![Nudge::Changed],
    }
}
