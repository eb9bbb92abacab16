//! What control keeps across restarts: the numbering of identities and rules, the
//! last good text of every file and object, which plugins were published, and the DNS
//! names learned for addresses.
//!
//! Every write is a new file moved over the old one, so a crash leaves either.

mod last_good;
mod numbers;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tidegate_policy::{
    Origin,
    compiled::{EndpointId, Location},
};

use tidegate_sources::folder::{FolderId, Origins};

use super::{bindings::KeptBinding, documents::Past, plugins::Candidate};

/// The state folder.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// Opens the folder, makes it if needed.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder.join(last_good::FOLDER))
            .with_context(|| format!("make the state folder {}", folder.display()))?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// The folder as it is, to be read only.
    pub fn at(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// What the last run left.
    pub fn past(&self) -> anyhow::Result<Past> {
        Ok(Past {
            texts: self.last_good()?,
            origins: self.origins()?,
            // It is written before the first generation is in force.
            lost: !self.has_ids(),
            doubtful: self.doubtful()?,
            ids: self.ids()?,
            plugins: self.plugins()?,
            bindings: self.bindings(),
        })
    }

    /// Where the files in force came from.
    pub fn origins(&self) -> anyhow::Result<Origins> {
        Ok(Origins {
            documents: self.document_origins()?,
            plugins: self.plugins()?.into_keys().collect(),
        })
    }

    fn doubtful(&self) -> anyhow::Result<BTreeSet<Origin>> {
        let path = self.folder.join(DOUBTFUL);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is damaged; remove it", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Keeps what may have been in force and could not be used. Must succeed before anything
    /// is published without it: the next run would take it for newcomers.
    pub fn save_doubtful(&self, doubtful: &BTreeSet<Origin>) -> anyhow::Result<()> {
        let path = self.folder.join(DOUBTFUL);
        if doubtful.is_empty() && !path.exists() {
            return Ok(());
        }
        let bytes = serde_json::to_vec(doubtful).context("encode what is not known")?;
        replace(&path, &bytes).with_context(|| format!("write {}", path.display()))
    }

    fn document_origins(&self) -> anyhow::Result<BTreeMap<Origin, FolderId>> {
        let path = self.folder.join(FOLDERS);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is damaged; remove it", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Keeps which folders the document files came from.
    pub fn save_origins(&self, origins: &BTreeMap<Origin, FolderId>) -> anyhow::Result<()> {
        let path = self.folder.join(FOLDERS);
        let bytes = serde_json::to_vec(origins).context("encode the folders")?;
        if fs::read(&path).is_ok_and(|kept| kept == bytes) {
            return Ok(());
        }
        replace(&path, &bytes).with_context(|| format!("write {}", path.display()))
    }
}

impl Store {
    /// Plugins published by the last run, by file; those whose compiled code is still there.
    pub fn plugins(&self) -> anyhow::Result<BTreeMap<PathBuf, Candidate>> {
        let path = self.folder.join(PLUGINS);
        let mut plugins: BTreeMap<PathBuf, Candidate> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is damaged; remove it", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        plugins.retain(|_, plugin| plugin.artifact.exists());
        Ok(plugins)
    }

    /// Keeps which plugins are published.
    pub fn save_plugins(&self, plugins: &BTreeMap<PathBuf, Candidate>) -> anyhow::Result<()> {
        let path = self.folder.join(PLUGINS);
        let bytes = serde_json::to_vec(plugins).context("encode the plugin list")?;
        replace(&path, &bytes).with_context(|| format!("write {}", path.display()))
    }
}

impl Store {
    /// What bindings accepted last; those whose compiled code is still there. A damaged
    /// file is as good as none: each binding is tried anyway.
    fn bindings(&self) -> Vec<KeptBinding> {
        let path = self.folder.join(BINDINGS);
        let bytes = fs::read(&path).unwrap_or_default();
        if bytes.is_empty() {
            return Vec::new();
        }
        serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(file = %path.display(), %error, "what bindings accepted last is forgotten");
            Vec::new()
        })
    }

    /// Keeps what bindings accepted last.
    pub fn save_bindings(&self, bindings: &[KeptBinding]) -> anyhow::Result<()> {
        let path = self.folder.join(BINDINGS);
        let bytes = serde_json::to_vec(bindings).context("encode the bindings")?;
        replace(&path, &bytes).with_context(|| format!("write {}", path.display()))
    }
}

/// Where endpoints live, by id: name and place.
pub type Homes = BTreeMap<EndpointId, (String, Location)>;

impl Store {
    /// Where the endpoints of the last generation live; none if that is not known.
    pub fn homes(&self) -> Homes {
        let path = self.folder.join(HOMES);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %path.display(), %error, "damaged; endpoints wait for the first generation");
                Homes::default()
            }),
            Err(_) => Homes::default(),
        }
    }

    /// Keeps where the endpoints of a generation live.
    pub fn save_homes(&self, homes: &Homes) -> anyhow::Result<()> {
        let path = self.folder.join(HOMES);
        let bytes = serde_json::to_vec(homes).context("encode where endpoints live")?;
        if fs::read(&path).is_ok_and(|kept| kept == bytes) {
            return Ok(());
        }
        replace(&path, &bytes).with_context(|| format!("write {}", path.display()))
    }
}

/// A DNS name learned for an address, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptName {
    /// Address.
    pub address: IpAddr,
    /// Name.
    pub name: String,
    /// Wall clock when the answer expires, seconds since 1970.
    pub expires_s: u64,
}

impl Store {
    /// Names the last run had learned.
    pub fn names(&self) -> anyhow::Result<Vec<KeptName>> {
        let path = self.folder.join(NAMES);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is damaged", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Keeps the names learned so far.
    pub fn save_names(&self, names: &[KeptName]) -> anyhow::Result<()> {
        let path = self.folder.join(NAMES);
        let bytes = serde_json::to_vec(names).context("encode the learned names")?;
        replace(&path, &bytes).with_context(|| format!("write {}", path.display()))
    }
}

const HOMES: &str = "homes.json";
const NAMES: &str = "names.json";
const PLUGINS: &str = "plugins.json";
const BINDINGS: &str = "bindings.json";
const FOLDERS: &str = "folders.json";
const DOUBTFUL: &str = "doubtful.json";
/// End of the name of a file that is not written whole yet.
const NEW: &str = ".new";

/// Writes a file so that a crash leaves the old or the new one, never a part.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use io::Write as _;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(NEW);
    let new = path.with_file_name(name);
    let mut file = fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}
