//! What is in a folder, and what of it is read.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{FolderId, FormerFolder, TextId};

/// Files that are looked into although they are not read for their names, at most.
pub(super) const MOST_OTHERS: usize = 256;
/// Largest document file, bytes. A policy file of this size has some 20,000 rules.
pub(super) const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// A folder that is not watched any more, for what is not in it any more.
pub(super) fn former_folder(folder: &Path) -> Result<FormerFolder, String> {
    let listing = list(folder, &["yaml", "yml"]).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "it is not there".to_owned(),
        _ => format!("it cannot be listed: {error}"),
    })?;
    let names = listing.files.iter().filter_map(|file| file.file_name());
    let unread = listing.others.iter().take(MOST_OTHERS).filter_map(|path| {
        let name = path.file_name()?.to_string_lossy();
        Some((Unread::of(path)?.text, printable(&name)))
    });
    Ok(FormerFolder {
        id: listing.id,
        unread: unread.collect(),
        files: names
            .map(|name| printable(&name.to_string_lossy()))
            .collect(),
    })
}

/// A folder's files of interest.
pub(super) struct Listing {
    pub(super) id: FolderId,
    pub(super) files: Vec<PathBuf>,
    /// Names that look like files of interest and are not read, and why.
    pub(super) ignored: Vec<(String, String)>,
    /// The files that these are, or that are in them, relative to the folder.
    pub(super) astray: Vec<String>,
    /// Further files, which are not read for their names; hidden ones too.
    pub(super) others: Vec<PathBuf>,
}

/// A file that is not read for its name.
#[derive(Clone, Debug)]
pub(super) struct Unread {
    /// What it says.
    pub(super) text: TextId,
    /// It holds documents, and its name is not one that people give to what is not meant to
    /// be read.
    pub(super) seems_meant: bool,
}

impl Unread {
    /// Looks into a file; `None` if it cannot be one of documents.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let size = fs::metadata(path).ok()?.len();
        let text = read(path, size).ok()?;
        if text.trim().is_empty() {
            return None;
        }
        let name = path.file_name()?.to_string_lossy();
        let aside = name.starts_with('.') || ASIDE.iter().any(|end| name.ends_with(end));
        Some(Self {
            text: TextId::of(&text),
            seems_meant: !aside && holds_documents(&name, &text),
        })
    }
}

/// Ends of names that editors, tools and people give to what is put aside.
const ASIDE: [&str; 10] = [
    "~",
    ".bak",
    ".orig",
    ".old",
    ".save",
    ".swp",
    ".tmp",
    ".disabled",
    ".off",
    ".rej",
];

/// Is something in this text a document of ours, be it a broken one?
fn holds_documents(name: &str, text: &str) -> bool {
    match tidegate_policy::parse_file(name, text) {
        Ok(documents) => !documents.is_empty(),
        Err(problems) => problems.iter().any(|problem| problem.document.is_some()),
    }
}

/// Folders in folders that are looked into for files that are not read.
const DEPTH: usize = 4;

/// Files of a folder with one of these extensions, sorted. Hidden files are editors'
/// and tools' own.
pub(super) fn list(folder: &Path, extensions: &[&str]) -> io::Result<Listing> {
    let mut listing = Listing {
        id: FolderId::of(folder)?,
        files: Vec::new(),
        ignored: Vec::new(),
        astray: Vec::new(),
        others: Vec::new(),
    };
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().map(|name| name.to_string_lossy()) else {
            continue;
        };
        let is_file = || fs::metadata(&path).is_ok_and(|meta| meta.is_file());
        if name.starts_with('.') {
            if is_file() {
                listing.others.push(path);
            }
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
            listing.others.push(path.clone());
            let why = format!(
                "not read because of its name: only *.{} is; rename it",
                extensions.join(" and *.")
            );
            listing.astray.push(name.clone());
            listing.ignored.push((name, why));
        } else if is_file() {
            listing.others.push(path);
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
pub(super) fn unreadable(key: &str, folder: &Path, error: &io::Error) -> String {
    let folder = folder.display();
    let what = match error.kind() {
        io::ErrorKind::NotFound => format!("there is no folder {folder}"),
        _ => format!("cannot list {folder}: {error}"),
    };
    format!(
        "{what}; what it held stays in force: make it, or correct `{key}` in tidegate.yaml and restart"
    )
}

/// Is there an entry of this name, if only a link that leads nowhere?
pub(super) fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// A file's name for people: control characters are spelt out, so that none reaches a
/// terminal.
pub(super) fn printable(name: &str) -> String {
    let spell = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    name.chars().map(spell).collect()
}

pub(super) fn read(path: &Path, size: u64) -> Result<Arc<str>, String> {
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
