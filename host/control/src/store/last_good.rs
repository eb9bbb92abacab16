//! Last good texts. Those of files have the files' names, for people to find them; what an
//! object is called is its source's to say and may be anything, so those of objects have
//! names of ours and say inside whose they are.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tidegate_policy::{Origin, Source};

use super::{NEW, Store, replace};

/// The folder of last good texts.
pub(super) const FOLDER: &str = "last-good";
/// Begins the name of a folder of objects; followed by the source's.
const OBJECTS: &str = "@";

/// An object's text.
#[derive(Debug, Serialize, Deserialize)]
struct Object {
    name: String,
    text: String,
}

impl Store {
    /// Last good texts; none without a folder of them.
    pub(super) fn last_good(&self) -> anyhow::Result<BTreeMap<Origin, Arc<str>>> {
        let mut texts = BTreeMap::new();
        let root = self.folder.join(FOLDER);
        let folders = match fs::read_dir(&root) {
            Ok(folders) => folders,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(texts),
            Err(error) => return Err(error).with_context(|| format!("list {}", root.display())),
        };
        for folder in folders {
            let folder = folder?;
            if !folder.file_type()?.is_dir() {
                continue;
            }
            let label = folder.file_name().to_string_lossy().into_owned();
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                let name = file.file_name().to_string_lossy().into_owned();
                // Left by a crash in the middle of a write.
                if name.ends_with(NEW) {
                    continue;
                }
                let path = file.path();
                let (origin, text) = read(&label, &name, &path)
                    .with_context(|| format!("read {}", path.display()))?;
                texts.insert(origin, Arc::from(text));
            }
        }
        Ok(texts)
    }

    /// Keeps the text of a file or object that is in use.
    pub fn save_last_good(&self, origin: &Origin, text: &str) -> anyhow::Result<()> {
        let path = self.place(origin);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        }
        let bytes = match origin.source().name() {
            "" => text.as_bytes().to_vec(),
            _ => serde_json::to_vec(&Object {
                name: origin.name().to_owned(),
                text: text.to_owned(),
            })?,
        };
        replace(&path, &bytes).with_context(|| format!("write {}", path.display()))
    }

    /// Forgets a file or object that is gone.
    pub fn forget_last_good(&self, origin: &Origin) -> anyhow::Result<()> {
        let path = self.place(origin);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn place(&self, origin: &Origin) -> PathBuf {
        let folder = self.folder.join(FOLDER);
        let source = origin.source().name();
        if source.is_empty() {
            return folder.join(origin.name());
        }
        let digest = Sha256::digest(origin.name());
        let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        folder.join(format!("{OBJECTS}{source}")).join(name)
    }
}

/// A text in the folder `label`.
fn read(label: &str, name: &str, path: &Path) -> anyhow::Result<(Origin, String)> {
    let text = fs::read_to_string(path)?;
    let Some(source) = label.strip_prefix(OBJECTS) else {
        let origin = Origin::new(Source::folders(), &format!("{label}/{name}"));
        return Ok((origin, text));
    };
    let object: Object = serde_json::from_str(&text).context("damaged; remove it")?;
    let origin = Origin::new(Source::named(source), &object.name);
    Ok((origin, object.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_an_object_is_called_its_text_is_found_again_and_nothing_else_is_touched() {
        let root = tempfile::tempdir().expect("a folder");
        let store = Store::open(&root.path().join("state")).expect("opened");
        let long = "x".repeat(4_096);
        let names = [
            ("", "policies/web.yaml"),
            ("vendor", "policies/web.yaml"),
            ("store", "../../../policies/web.yaml"),
            ("store", "/etc/passwd"),
            ("store", "a"),
            ("store", "a/b"),
            ("store", "a.new"),
            ("store", ""),
            ("store", &long),
        ];
        let origins = names.map(|(source, name)| Origin::new(Source::named(source), name));
        for origin in &origins {
            let text = format!("of {origin}");
            store.save_last_good(origin, &text).expect("saved");
        }
        let kept = store.last_good().expect("read");
        assert_eq!(kept.len(), origins.len());
        for origin in &origins {
            assert_eq!(*kept[origin], *format!("of {origin}"));
            store.forget_last_good(origin).expect("forgotten");
        }
        assert_eq!(store.last_good().expect("read").len(), 0);
        let beside = fs::read_dir(root.path()).expect("listed");
        assert_eq!(beside.count(), 1, "something was written beside the folder");
    }
}
