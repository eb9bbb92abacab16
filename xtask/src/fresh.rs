//! Is an output newer than everything it was made of?

use std::{fs, path::Path, time::SystemTime};

/// True if `output` exists and no file under `inputs` is newer. An input that does
/// not exist counts as changed.
pub(crate) fn is_fresh(output: &Path, inputs: &[impl AsRef<Path>]) -> bool {
    let Ok(built) = fs::metadata(output).and_then(|meta| meta.modified()) else {
        return false;
    };
    inputs
        .iter()
        .all(|input| newest(input.as_ref()).is_some_and(|time| time <= built))
}

/// Modification time of the newest file in a tree, build outputs left out.
fn newest(path: &Path) -> Option<SystemTime> {
    let meta = fs::metadata(path).ok()?;
    if !meta.is_dir() {
        return meta.modified().ok();
    }
    fs::read_dir(path)
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name() != "target")
        .filter_map(|entry| newest(&entry.path()))
        .max()
        .or_else(|| meta.modified().ok())
}
