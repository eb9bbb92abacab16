//! Admitting plugin files, on the agent's side: checked, compiled once, cached by
//! digest. What comes out is ready to be published.

mod cache;
mod refusal;

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest, Sha256};
use tidegate_contract::{BUILT_IN, PluginInfo};
use tidegate_signatures::{EXTENSION, SIZE, Signer, Trust};

pub use self::refusal::Refusal;
use self::{
    cache::{Cache, Entry},
    refusal::refuse_io,
};
use super::{
    compile::{COMPONENT, Inspection, Job, JobError, LONGEST},
    dropped::{self, Unreadable},
    host_calls::CAPABILITIES,
    manifest::{self, Manifest, Sidecar, is_plain},
};

/// The plugins inside this binary, in the order of [`BUILT_IN`].
const BUILT_IN_CODE: [&[u8]; 3] = [
    tidegate_artifacts::DNS_PLUGIN,
    tidegate_artifacts::HTTP_PLUGIN,
    tidegate_artifacts::KAFKA_PLUGIN,
];

/// Those of them that are compiled when a rule first needs them.
const ON_DEMAND: [&str; 1] = ["kafka"];

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
    /// Whose files are taken. What is inside the binary needs no signature.
    pub trust: Trust,
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
            trust: Trust::default(),
        }
    }
}

/// Admits plugin files.
#[derive(Debug)]
pub struct PluginStore {
    options: StoreOptions,
    cache: Cache,
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
    /// Whose it is, if it is signed by somebody the node believes.
    pub signer: Option<Signer>,
}

impl PluginStore {
    /// Opens a store.
    ///
    /// # Errors
    ///
    /// If the cache cannot be made, or this machine cannot run compiled plugins.
    pub fn new(options: StoreOptions) -> anyhow::Result<Self> {
        Ok(Self {
            cache: Cache::open(options.cache.clone())?,
            options,
        })
    }

    /// Names the compiled code that is in force, or will be in a moment.
    pub fn keep(&self, in_force: BTreeSet<PathBuf>) {
        self.cache.keep(in_force);
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
        // Before anything looks into it.
        let signer = self.signer(path, &bytes)?;
        let sidecar = Sidecar::read(path).map_err(Refusal::Manifest)?;
        let admitted = self.admit_bytes(stem, &bytes, &sidecar, patience).await?;
        let admitted = Admitted { signer, ..admitted };
        if BUILT_IN.contains(&admitted.name.as_str()) {
            let reason = format!(
                "`{}` is the name of a built-in plugin; give it another",
                admitted.name
            );
            return Err(Refusal::Manifest(reason));
        }
        Ok(admitted)
    }

    fn signer(&self, path: &Path, bytes: &[u8]) -> Result<Option<Signer>, Refusal> {
        let beside = path.with_added_extension(EXTENSION);
        let signature = match dropped::read(&beside, SIZE) {
            Ok(signature) => Some(String::from_utf8_lossy(&signature).into_owned()),
            Err(Unreadable::Io(error)) if error.kind() == ErrorKind::NotFound => None,
            Err(Unreadable::Io(error)) => return Err(refuse_io(&beside)(error)),
            Err(other) => return Err(Refusal::Signature(format!("has a signature: {other}"))),
        };
        let signer = self.options.trust.signer(bytes, signature.as_deref());
        signer.map_err(|doubt| Refusal::Signature(doubt.to_string()))
    }

    /// Admits the plugins inside this binary, but for those that take long to compile, few
    /// nodes need and no earlier run compiled: [`Self::on_demand`] does.
    ///
    /// # Errors
    ///
    /// As [`Self::admit`]; it means that this binary or the machine is broken.
    pub async fn builtin(&self) -> Result<Vec<Admitted>, Refusal> {
        let mut admitted = Vec::new();
        for (name, bytes) in BUILT_IN.into_iter().zip(BUILT_IN_CODE) {
            let compiled = || matches!(self.cache.cached(&digest(bytes)), Some(Ok(_)));
            if !ON_DEMAND.contains(&name) || compiled() {
                admitted.push(self.on_demand(name).await?);
            }
        }
        Ok(admitted)
    }

    /// Admits a plugin inside this binary.
    ///
    /// # Errors
    ///
    /// As [`Self::builtin`]; also if there is none of this name.
    pub async fn on_demand(&self, name: &str) -> Result<Admitted, Refusal> {
        let mut all = BUILT_IN.into_iter().zip(BUILT_IN_CODE);
        let Some((name, bytes)) = all.find(|(own, _)| *own == name) else {
            return Err(Refusal::Manifest(format!(
                "no built-in plugin is named `{name}`"
            )));
        };
        let plain = Sidecar::default();
        self.admit_bytes(name, bytes, &plain, LONGEST).await
    }

    async fn admit_bytes(
        &self,
        stem: &str,
        bytes: &[u8],
        sidecar: &Sidecar,
        patience: Duration,
    ) -> Result<Admitted, Refusal> {
        let digest = digest(bytes);
        let (entry, artifact) = match self.cache.cached(&digest) {
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
            signer: None,
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
        match job.run(bytes).await {
            Ok((inspection, code)) => self.cache.compiled(digest, inspection, &code),
            Err(JobError::TakesLong(patience)) => Err(Refusal::TakesLong(patience)),
            Err(error @ JobError::Worker(_)) => Err(Refusal::Interrupted(error.to_string())),
            Err(JobError::Component(reason)) => {
                self.cache.refused(digest, &reason);
                Err(Refusal::Component(reason))
            }
        }
    }
}

/// `sha256:…`.
fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
