//! Admitting plugin files, on the agent's side: checked, compiled once, cached by
//! digest. What comes out is ready to be published.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tidegate_contract::{BUILT_IN, PluginInfo};

use super::{
    bindings::{PACKAGE, VERSION},
    compile::{COMPONENT, Inspection, Job, JobError, LONGEST},
    dropped::{self, Unreadable},
    engine::engine,
    host_calls::CAPABILITIES,
    manifest::{self, Manifest, Sidecar, is_plain},
};

/// The plugins inside this binary, in the order of [`BUILT_IN`].
const BUILT_IN_CODE: [&[u8]; 2] = [
    tidegate_artifacts::DNS_PLUGIN,
    tidegate_artifacts::HTTP_PLUGIN,
];

/// Compiled plugins kept that nothing uses; the least recently used ones are removed
/// beyond that.
const CACHED: usize = 64;
/// Refusals kept, likewise.
const REFUSED: usize = 256;
/// A file so young may belong to a generation that is still on its way.
const YOUNG: Duration = Duration::from_secs(600);

/// Where a store keeps things, and what it grants.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Folder for compiled code; made if missing, readable for root alone.
    pub cache: PathBuf,
    /// The `tidegate` binary, which is also the compile worker.
    pub program: PathBuf,
    /// Capabilities a plugin gets by asking for them. A file beside a plugin can grant
    /// fewer, or others.
    pub grant: Vec<String>,
}

impl StoreOptions {
    /// The usual: this very binary, and every capability there is (none of them lets a
    /// plugin reach beyond its own messages).
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            cache: cache.into(),
            // Names this binary even after it was replaced on disk: the kernel
            // resolves it in the child, before the new program is loaded.
            program: PathBuf::from("/proc/self/exe"),
            grant: CAPABILITIES.map(str::to_owned).to_vec(),
        }
    }
}

/// Admits plugin files.
#[derive(Debug)]
pub struct PluginStore {
    options: StoreOptions,
    /// Tells compiled code of one engine version, settings and CPU from another's.
    engine_id: String,
    /// Compiled code that is in force: it stays, however old and many it is.
    in_force: Mutex<BTreeSet<PathBuf>>,
}

/// A plugin ready to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Name rules use.
    pub name: String,
    /// What the proxy must know.
    pub info: PluginInfo,
    /// File of compiled code; its digest is `info.artifact`.
    pub artifact: PathBuf,
}

/// Why a plugin was not admitted. Each is a sentence for `tidegate plugin list`.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The file cannot be read, or the cache cannot be written.
    #[error("cannot access {path}: {error}")]
    Io {
        /// File or folder.
        path: String,
        /// The system's reason.
        #[source]
        error: io::Error,
    },
    /// It is not a usable component.
    #[error("{0}")]
    Component(String),
    /// Manifest or the file beside it is wrong.
    #[error("{0}")]
    Manifest(String),
    /// Compiling it takes longer than it was given.
    #[error("compiling it takes longer than {0:?}")]
    TakesLong(Duration),
    /// The compiler ended before it had a verdict, for want of memory or by somebody's
    /// hand. That says nothing of the plugin.
    #[error("{0}")]
    Interrupted(String),
    /// It calls something it may not.
    #[error("it uses `{interface}`, which {why}")]
    NotGranted {
        /// The interface.
        interface: String,
        /// Who did not ask or grant.
        why: &'static str,
    },
}

impl Refusal {
    /// Is it the file's own fault, so that only another file can mend it?
    pub fn is_final(&self) -> bool {
        match self {
            Self::Component(_) | Self::Manifest(_) | Self::NotGranted { .. } => true,
            Self::Io { .. } | Self::TakesLong(_) | Self::Interrupted(_) => false,
        }
    }
}

/// What the cache knows of a file: what it was compiled to, or why it cannot be.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Verdict {
    Compiled(Box<Entry>),
    Refused(String),
}

/// What the cache knows of a compiled plugin.
#[derive(Serialize, Deserialize)]
struct Entry {
    inspection: Inspection,
    /// Digest of the compiled code.
    artifact: String,
}

impl PluginStore {
    /// Opens a store.
    ///
    /// # Errors
    ///
    /// If the cache cannot be made, or this machine cannot run compiled plugins.
    pub fn new(options: StoreOptions) -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&options.cache)
            .map_err(refuse_io(&options.cache))?;
        Ok(Self {
            options,
            engine_id: engine_id()?,
            in_force: Mutex::default(),
        })
    }

    /// Names the compiled code that is in force, or will be in a moment.
    pub fn keep(&self, in_force: BTreeSet<PathBuf>) {
        *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) = in_force;
    }

    /// Admits a file: complete, valid, within what it was granted, compiled.
    ///
    /// # Errors
    ///
    /// Why not; the version before should stay in use.
    pub async fn admit(&self, path: &Path) -> Result<Admitted, Refusal> {
        self.admit_within(path, LONGEST).await
    }

    /// Like [`Self::admit`], giving up with [`Refusal::TakesLong`] when compiling takes
    /// longer than `patience`.
    ///
    /// # Errors
    ///
    /// As [`Self::admit`].
    pub async fn admit_within(&self, path: &Path, patience: Duration) -> Result<Admitted, Refusal> {
        let bytes = dropped::read(path, COMPONENT).map_err(|error| match error {
            Unreadable::Io(error) => refuse_io(path)(error),
            // Looked at again when it has changed once more.
            other => Refusal::Component(other.to_string()),
        })?;
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let stem = stem.filter(|stem| is_plain(stem)).ok_or_else(|| {
            Refusal::Manifest(
                "its file name is no plugin name: use letters, digits and `-._+`".into(),
            )
        })?;
        let sidecar = Sidecar::read(path).map_err(Refusal::Manifest)?;
        let admitted = self.admit_bytes(stem, &bytes, &sidecar, patience).await?;
        if BUILT_IN.contains(&admitted.name.as_str()) {
            let reason = format!(
                "`{}` is the name of a built-in plugin; give it another",
                admitted.name
            );
            return Err(Refusal::Manifest(reason));
        }
        Ok(admitted)
    }

    /// Admits the plugins inside this binary: `dns` and `http`.
    ///
    /// # Errors
    ///
    /// As [`Self::admit`]; it means that this binary or the machine is broken.
    pub async fn builtin(&self) -> Result<Vec<Admitted>, Refusal> {
        let mut admitted = Vec::new();
        for (name, bytes) in BUILT_IN.into_iter().zip(BUILT_IN_CODE) {
            let plain = Sidecar::default();
            admitted.push(self.admit_bytes(name, bytes, &plain, LONGEST).await?);
        }
        Ok(admitted)
    }

    async fn admit_bytes(
        &self,
        stem: &str,
        bytes: &[u8],
        sidecar: &Sidecar,
        patience: Duration,
    ) -> Result<Admitted, Refusal> {
        let digest = digest(bytes);
        let (entry, artifact) = match self.cached(&digest) {
            Some(Ok(cached)) => cached,
            Some(Err(reason)) => return Err(Refusal::Component(reason)),
            None => self.compile(&digest, bytes, patience).await?,
        };
        let Inspection {
            world,
            imports,
            manifest,
        } = entry.inspection;
        self.check_grants(&imports, &manifest, sidecar)?;
        let limits =
            manifest::limits(manifest.limits, sidecar.limits).map_err(Refusal::Manifest)?;
        Ok(Admitted {
            name: manifest.name.unwrap_or_else(|| stem.to_owned()),
            info: PluginInfo {
                version: manifest.version.unwrap_or_else(|| "0.0.0".to_owned()),
                digest,
                artifact: entry.artifact,
                world,
                capabilities: imports,
                limits,
            },
            artifact,
        })
    }

    /// Every import must be asked for by the manifest and granted by the operator. A
    /// plugin without a manifest asks for nothing, but the operator may still grant.
    fn check_grants(
        &self,
        imports: &[String],
        manifest: &Manifest,
        sidecar: &Sidecar,
    ) -> Result<(), Refusal> {
        for interface in imports {
            let why = match &sidecar.capabilities {
                Some(granted) if granted.contains(interface) => continue,
                Some(_) => "the file beside it does not grant",
                None if !manifest.capabilities.contains(interface) => {
                    "its manifest does not ask for"
                }
                None if !self.options.grant.contains(interface) => "this node does not grant",
                None => continue,
            };
            return Err(Refusal::NotGranted {
                interface: interface.clone(),
                why,
            });
        }
        Ok(())
    }

    async fn compile(
        &self,
        digest: &str,
        bytes: &[u8],
        patience: Duration,
    ) -> Result<(Entry, PathBuf), Refusal> {
        let job = Job {
            program: self.options.program.clone(),
            patience,
        };
        let (path, note) = self.paths(digest);
        let (inspection, code) = match job.run(bytes).await {
            Ok(compiled) => compiled,
            Err(JobError::TakesLong(patience)) => return Err(Refusal::TakesLong(patience)),
            Err(error @ JobError::Worker(_)) => {
                return Err(Refusal::Interrupted(error.to_string()));
            }
            Err(JobError::Component(reason)) => {
                // Else every start would find out again, at the same expense.
                if let Err(error) = write_note(&note, &Verdict::Refused(reason.clone())) {
                    tracing::warn!(%error, "cannot keep why a plugin was refused");
                }
                self.prune();
                return Err(Refusal::Component(reason));
            }
        };
        let artifact = self::digest(&code);
        write_whole(&path, &code)?;
        let entry = Entry {
            inspection,
            artifact,
        };
        let verdict = Verdict::Compiled(Box::new(entry));
        write_note(&note, &verdict)?;
        self.prune();
        match verdict {
            Verdict::Compiled(entry) => Ok((*entry, path)),
            Verdict::Refused(reason) => Err(Refusal::Component(reason)),
        }
    }

    /// The cache's answer, if it has one and the code is what was written: a compiled
    /// plugin, or why there is none.
    fn cached(&self, digest: &str) -> Option<Result<(Entry, PathBuf), String>> {
        let (path, note) = self.paths(digest);
        let entry = match serde_json::from_slice(&fs::read(&note).ok()?).ok()? {
            Verdict::Compiled(entry) => *entry,
            Verdict::Refused(reason) => {
                used_now(&note);
                return Some(Err(reason));
            }
        };
        let intact = self::digest(&fs::read(&path).ok()?) == entry.artifact;
        if intact {
            used_now(&path);
        }
        intact.then_some(Ok((entry, path)))
    }

    /// Compiled code, and what is known of it.
    fn paths(&self, digest: &str) -> (PathBuf, PathBuf) {
        let digest = digest.trim_start_matches("sha256:");
        let name = format!("{digest}-{}", self.engine_id);
        let path = |extension| self.options.cache.join(&name).with_extension(extension);
        (path("cwasm"), path("json"))
    }

    /// Removes what was not used for longest, except what is in force: it is what a
    /// proxy that has to start again is given.
    fn prune(&self) {
        let Ok(folder) = fs::read_dir(&self.options.cache) else {
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

fn refuse_io(path: &Path) -> impl Fn(io::Error) -> Refusal {
    move |error| Refusal::Io {
        path: format!("{}", path.display()).escape_debug().to_string(),
        error,
    }
}

fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn engine_id() -> anyhow::Result<String> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    engine()?.precompile_compatibility_hash().hash(&mut hasher);
    // Another version of this program may think otherwise of a file.
    (env!("CARGO_PKG_VERSION"), PACKAGE, VERSION).hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}
