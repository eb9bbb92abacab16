//! Compiled plugins by the digest of their file, and refusals: nobody compiles twice.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::refusal::{Refusal, refuse_io};
use crate::{
    compile::Inspection,
    engine::engine,
    worlds::{PACKAGE, VERSIONS},
};

/// Compiled plugins kept that nothing uses; the least recently used ones are removed
/// beyond that.
const CACHED: usize = 64;
/// Refusals kept, likewise.
const REFUSED: usize = 256;
/// A file so young may belong to a generation that is still on its way.
const YOUNG: Duration = Duration::from_secs(600);

/// What the cache knows of a file: what it was compiled to, or why it cannot be.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Verdict {
    Compiled(Box<Entry>),
    Refused(String),
}

/// What the cache knows of a compiled plugin.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) inspection: Inspection,
    /// Digest of the compiled code.
    pub(super) artifact: String,
}

/// A folder of compiled code.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    /// Tells compiled code of one engine version, settings and CPU from another's.
    engine_id: String,
    /// Compiled code that is in force: it stays, however old and many it is.
    in_force: Mutex<BTreeSet<PathBuf>>,
}

impl Cache {
    /// Opens a folder, made if missing and readable for root alone.
    ///
    /// # Errors
    ///
    /// If it cannot be made, or this machine cannot run compiled plugins.
    pub(super) fn open(folder: PathBuf) -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(refuse_io(&folder))?;
        Ok(Self {
            folder,
            engine_id: engine_id()?,
            in_force: Mutex::default(),
        })
    }

    /// Names the compiled code that is in force, or will be in a moment.
    pub(super) fn keep(&self, in_force: BTreeSet<PathBuf>) {
        *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) = in_force;
    }

    /// Keeps what a file was compiled to.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written.
    pub(super) fn compiled(
        &self,
        digest: &str,
        inspection: Inspection,
        code: &[u8],
    ) -> Result<(Entry, PathBuf), Refusal> {
        let (path, note) = self.paths(digest);
        write_whole(&path, code)?;
        let entry = Entry {
            inspection,
            artifact: super::digest(code),
        };
        write_note(&note, &Verdict::Compiled(Box::new(entry.clone())))?;
        self.prune();
        Ok((entry, path))
    }

    /// Keeps why a file cannot be compiled: else every start would find out again, at the
    /// same expense.
    pub(super) fn refused(&self, digest: &str, reason: &str) {
        let (_, note) = self.paths(digest);
        if let Err(error) = write_note(&note, &Verdict::Refused(reason.to_owned())) {
            tracing::warn!(%error, "cannot keep why a plugin was refused");
        }
        self.prune();
    }

    /// The cache's answer, if it has one and the code is what was written: a compiled
    /// plugin, or why there is none.
    pub(super) fn cached(&self, digest: &str) -> Option<Result<(Entry, PathBuf), String>> {
        let (path, note) = self.paths(digest);
        let entry = match serde_json::from_slice(&fs::read(&note).ok()?).ok()? {
            Verdict::Compiled(entry) => *entry,
            Verdict::Refused(reason) => {
                used_now(&note);
                return Some(Err(reason));
            }
        };
        let intact = super::digest(&fs::read(&path).ok()?) == entry.artifact;
        if intact {
            used_now(&path);
        }
        intact.then_some(Ok((entry, path)))
    }

    /// Compiled code, and what is known of it.
    fn paths(&self, digest: &str) -> (PathBuf, PathBuf) {
        let digest = digest.trim_start_matches("sha256:");
        let name = format!("{digest}-{}", self.engine_id);
        let path = |extension| self.folder.join(&name).with_extension(extension);
        (path("cwasm"), path("json"))
    }

    /// Removes what was not used for longest, except what is in force: it is what a
    /// proxy that has to start again is given.
    fn prune(&self) {
        let Ok(folder) = fs::read_dir(&self.folder) else {
            return;
        };
        let in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now();
        let (mut compiled, mut refused) = (Vec::new(), Vec::new());
        for path in folder.flatten().map(|entry| entry.path()) {
            let Ok(used) = fs::metadata(&path).and_then(|meta| meta.modified()) else {
                continue;
            };
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("cwasm") => {
                    let young = now.duration_since(used).map_or(true, |age| age < YOUNG);
                    if !young && !in_force.contains(&path) {
                        compiled.push((used, path));
                    }
                }
                Some("json") if !path.with_extension("cwasm").exists() => {
                    refused.push((used, path));
                }
                _ => {}
            }
        }
        for (mut files, most) in [(compiled, CACHED), (refused, REFUSED)] {
            files.sort();
            for (_, path) in files.iter().rev().skip(most) {
                let _ = fs::remove_file(path.with_extension("json"));
                let _ = fs::remove_file(path.with_extension("cwasm"));
            }
        }
    }
}

/// Keeps a file from being pruned; nothing else depends on it.
fn used_now(path: &Path) {
    let file = fs::File::options().append(true).open(path);
    let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
}

fn write_note(path: &Path, verdict: &Verdict) -> Result<(), Refusal> {
    let text = serde_json::to_vec(verdict)
        .map_err(|error| Refusal::Interrupted(format!("cannot keep its manifest: {error}")))?;
    write_whole(path, &text)
}

/// Writes a file so that it is there whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Refusal> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    fs::write(&unfinished, bytes)
        .and_then(|()| fs::rename(&unfinished, path))
        .map_err(refuse_io(path))
}

fn engine_id() -> anyhow::Result<String> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    engine()?.precompile_compatibility_hash().hash(&mut hasher);
    // Another version of this program may think otherwise of a file.
    (env!("CARGO_PKG_VERSION"), PACKAGE, VERSIONS).hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}
