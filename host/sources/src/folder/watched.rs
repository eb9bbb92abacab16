//! Which folders a source has.

use std::path::{Path, PathBuf};

use tidegate_config::Folders;
use tidegate_policy::Source;

/// The folders of a source.
#[derive(Clone, Debug)]
pub struct Watched {
    pub(super) source: Source,
    /// Of documents, by the label that begins their names.
    pub(super) documents: Vec<(&'static str, PathBuf)>,
    /// Of plugins, if it has any.
    pub(super) plugins: Option<PathBuf>,
    /// As long as this folder is there, those of documents need not be.
    pub(super) root: Option<PathBuf>,
}

/// Labels of the folders of documents.
pub const LABELS: [&str; 3] = ["endpoints", "services", "policies"];

/// The source whose folders whoever made the node's image brought along.
pub const VENDOR: &str = "vendor";

impl Watched {
    /// The folders that `tidegate.yaml` names.
    pub fn of(folders: &Folders) -> Self {
        let all = [&folders.endpoints, &folders.services, &folders.policies];
        let all = LABELS.into_iter().zip(all);
        Self {
            source: Source::folders(),
            documents: all.map(|(label, path)| (label, path.clone())).collect(),
            plugins: Some(folders.plugins.clone()),
            root: None,
        }
    }

    /// Those in a vendor's folder, as many as there are.
    pub fn vendor(root: &Path) -> Self {
        let all = LABELS.into_iter();
        Self {
            source: Source::named(VENDOR),
            documents: all.map(|label| (label, root.join(label))).collect(),
            plugins: None,
            root: Some(root.to_owned()),
        }
    }

    /// Whose they are.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// All of them.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let documents = self.documents.iter().map(|(_, path)| path);
        let all = documents.chain(&self.plugins).chain(&self.root);
        all.map(PathBuf::as_path)
    }
}

/// The key of `tidegate.yaml` that says where a folder is.
pub(super) fn key(source: &Source, label: &str) -> String {
    match source.name() {
        "" => format!("folders.{label}"),
        source => format!("folders.{source}"),
    }
}
