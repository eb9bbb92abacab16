//! Compiled plugins go from one world of this process to the next, as they go from one
//! start of a node to the next: compiling the built-in ones costs half of an agent's
//! first start. The first world of a process is always a fresh node.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::Context as _;

/// File names without extension, and what the two files of each have in them.
static KNOWN: Mutex<Vec<(OsString, [Vec<u8>; 2])>> = Mutex::new(Vec::new());

/// The code, and what the node knows of it. One without the other says nothing.
const EXTENSIONS: [&str; 2] = ["cwasm", "json"];

/// Gives a new node what others have compiled; `folder` is that of its state.
///
/// # Errors
///
/// If it cannot be written.
pub(super) fn give(folder: &Path) -> anyhow::Result<()> {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let plugins = folder.join("plugins");
    DirBuilder::new().mode(0o700).create(&plugins)?;
    for (name, contents) in &*known {
        for (extension, content) in EXTENSIONS.iter().zip(contents) {
            let file = plugins.join(name).with_extension(extension);
            fs::write(&file, content)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(())
}

/// Takes what a node that is ready has compiled.
pub(super) fn take(folder: &Path) {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let files = fs::read_dir(folder.join("plugins")).into_iter().flatten();
    for path in files.flatten().map(|entry| entry.path()) {
        let is_code = path.extension().is_some_and(|found| found == EXTENSIONS[0]);
        let Some(name) = path.file_stem().filter(|_| is_code) else {
            continue;
        };
        if known.iter().any(|(other, _)| other == name) {
            continue;
        }
        let [code, note] = EXTENSIONS.map(|extension| fs::read(path.with_extension(extension)));
        // What is being written now is taken from a later world.
        if let (Ok(code), Ok(note)) = (code, note) {
            known.push((name.to_owned(), [code, note]));
        }
    }
}
