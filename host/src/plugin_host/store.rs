//! Admitting plugin files, on the agent's side: checked, compiled once, cached by
//! digest. What comes out is ready to be published.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    compile::{COMPONENT, Inspection, Job},
    dropped::{self, Unreadable},
    engine::engine,
    host_calls::CAPABILITIES,
    manifest::{self, Manifest, Sidecar, is_plain},
};
use crate::proxy::contract::PluginInfo;

/// The plugins inside this binary.
const BUILT_IN: [(&str, &[u8]); 2] = [
    ("dns", include_bytes!(env!("TIDEGATE_DNS_PLUGIN"))),
    ("http", include_bytes!(env!("TIDEGATE_HTTP_PLUGIN"))),
];

/// Compiled plugins kept; the least recently used ones are removed beyond that.
const CACHED: usize = 64;

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
    /// It calls something it may not.
    #[error("it uses `{interface}`, which {why}")]
    NotGranted {
        /// The interface.
        interface: String,
        /// Who did not ask or grant.
        why: &'static str,
    },
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
        })
    }

    /// Admits a file: complete, valid, within what it was granted, compiled.
    ///
    /// # Errors
    ///
    /// Why not; the version before should stay in use.
    pub async fn admit(&self, path: &Path) -> Result<Admitted, Refusal> {
        let bytes = dropped::read(path, COMPONENT).map_err(|error| match error {
            Unreadable::Io(error) => refuse_io(path)(error),
            other => Refusal::Component(other.to_string()),
        })?;
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let stem = stem.filter(|stem| is_plain(stem)).ok_or_else(|| {
            Refusal::Manifest(
                "its file name is no plugin name: use letters, digits and `-._+`".into(),
            )
        })?;
        let sidecar = Sidecar::read(path).map_err(Refusal::Manifest)?;
        let admitted = self.admit_bytes(stem, &bytes, &sidecar).await?;
        if BUILT_IN.iter().any(|(name, _)| *name == admitted.name) {
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
        for (name, bytes) in BUILT_IN {
            admitted.push(self.admit_bytes(name, bytes, &Sidecar::default()).await?);
        }
        Ok(admitted)
    }

    async fn admit_bytes(
        &self,
        stem: &str,
        bytes: &[u8],
        sidecar: &Sidecar,
    ) -> Result<Admitted, Refusal> {
        let digest = digest(bytes);
        let (entry, artifact) = match self.cached(&digest) {
            Some(cached) => cached,
            None => self.compile(&digest, bytes).await?,
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

    async fn compile(&self, digest: &str, bytes: &[u8]) -> Result<(Entry, PathBuf), Refusal> {
        let job = Job {
            program: self.options.program.clone(),
        };
        let (inspection, code) = job
            .run(bytes)
            .await
            .map_err(|error| Refusal::Component(error.to_string()))?;
        let entry = Entry {
            inspection,
            artifact: self::digest(&code),
        };
        let (path, note) = self.paths(digest);
        let text = serde_json::to_vec(&entry)
            .map_err(|error| Refusal::Component(format!("cannot keep its manifest: {error}")))?;
        write_whole(&path, &code)?;
        write_whole(&note, &text)?;
        self.prune();
        Ok((entry, path))
    }

    /// The cache's answer, if it has one and the code is what was written.
    fn cached(&self, digest: &str) -> Option<(Entry, PathBuf)> {
        let (path, note) = self.paths(digest);
        let entry: Entry = serde_json::from_slice(&fs::read(note).ok()?).ok()?;
        let intact = self::digest(&fs::read(&path).ok()?) == entry.artifact;
        if intact {
            // Keeps it from being pruned; nothing depends on it.
            let file = fs::File::options().append(true).open(&path);
            let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
        }
        intact.then_some((entry, path))
    }

    /// Compiled code, and what is known of it.
    fn paths(&self, digest: &str) -> (PathBuf, PathBuf) {
        let digest = digest.trim_start_matches("sha256:");
        let name = format!("{digest}-{}", self.engine_id);
        let path = |extension| self.options.cache.join(&name).with_extension(extension);
        (path("cwasm"), path("json"))
    }

    /// Removes what was not used for longest. A file that is still published can be
    /// made again, and the proxy has its own copy.
    fn prune(&self) {
        let Ok(folder) = fs::read_dir(&self.options.cache) else {
            return;
        };
        let mut files: Vec<_> = folder
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "cwasm")
            })
            .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
            .collect();
        files.sort();
        for (_, path) in files.iter().rev().skip(CACHED) {
            let _ = fs::remove_file(path.with_extension("json"));
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes a file so that it is there whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Refusal> {
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, bytes)
        .and_then(|()| fs::rename(&unfinished, path))
        .map_err(refuse_io(path))
}

fn refuse_io(path: &Path) -> impl Fn(io::Error) -> Refusal {
    move |error| Refusal::Io {
        path: path.display().to_string(),
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
    Ok(format!("{:016x}", hasher.finish()))
}
