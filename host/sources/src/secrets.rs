//! The folder of secrets: `NAMESPACE/NAME/ITEM`, as Kubernetes and Cilium name them. What is
//! in an item is nobody's business here.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use tidegate_contract::Secret;

/// Longest item, bytes: what Kubernetes allows a whole secret.
const LONGEST: u64 = 1 << 20;
/// Most items of all secrets together.
const MOST: usize = 4_096;

/// What the folder holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    /// By `NAMESPACE/NAME`: items by their names, or why one cannot be read.
    pub secrets: BTreeMap<String, BTreeMap<String, Result<Item, String>>>,
    /// Why nothing is known of the rest, with its place, if so.
    pub unreadable: Option<String>,
}

/// An item of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its bytes.
    pub content: Secret,
    /// Everybody on this machine may read it.
    pub exposed: bool,
}

/// Looks at the folder.
pub fn scan(folder: &Path) -> Secrets {
    let mut found = Secrets::default();
    if let Err((place, error)) = namespaces(folder, &mut found) {
        found.unreadable = Some(format!("{place}: {error}"));
    }
    found
}

type Trouble = (String, io::Error);

fn namespaces(folder: &Path, found: &mut Secrets) -> Result<(), Trouble> {
    let mut items = 0;
    for (namespace, path) in folders(folder)? {
        for (name, path) in folders(&path)? {
            let secret = found.secrets.entry(format!("{namespace}/{name}"));
            let secret = secret.or_default();
            for (item, path) in entries(&path)? {
                // `..data` and the like are how Kubernetes replaces all items at once.
                if item.starts_with("..") || path.is_dir() {
                    continue;
                }
                items += 1;
                if items > MOST {
                    let error = io::Error::other(format!("more than {MOST} files"));
                    return Err((folder.display().to_string(), error));
                }
                secret.insert(item, read(&path).map_err(|error| error.to_string()));
            }
        }
    }
    Ok(())
}

fn folders(folder: &Path) -> Result<Vec<(String, std::path::PathBuf)>, Trouble> {
    let mut all = entries(folder)?;
    all.retain(|(name, path)| !name.starts_with('.') && path.is_dir());
    Ok(all)
}

fn entries(folder: &Path) -> Result<Vec<(String, std::path::PathBuf)>, Trouble> {
    let list = || {
        let mut all = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // A name that is no text is nobody's whom a document names.
            if let Ok(name) = entry.file_name().into_string() {
                all.push((name, entry.path()));
            }
        }
        Ok(all)
    };
    list().map_err(|error| (folder.display().to_string(), error))
}

fn read(path: &Path) -> io::Result<Item> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() {
        // Opening a pipe would wait for somebody to write into it.
        return Err(io::Error::other("not a regular file"));
    }
    if meta.len() > LONGEST {
        return Err(io::Error::other("longer than 1 MiB"));
    }
    let file = File::open(path)?;
    // In full before it is read: what a vector grows out of is not overwritten.
    let mut content = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or_default() + 1);
    file.take(LONGEST).read_to_end(&mut content)?;
    Ok(Item {
        content: Secret::new(content),
        exposed: meta.mode() & 0o004 != 0,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn items_are_found_as_kubernetes_lays_them_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("secrets");
        let absent = scan(&root);
        assert!(absent.unreadable.is_some_and(|why| why.contains("secrets")));
        let web = root.join("shop/web");
        fs::create_dir_all(web.join("..2026")).expect("folders");
        fs::write(web.join("..2026/tls.key"), "key").expect("written");
        symlink("..2026", web.join("..data")).expect("linked");
        symlink("..data/tls.key", web.join("tls.key")).expect("linked");
        symlink("nowhere", web.join("tls.crt")).expect("linked");
        fs::write(root.join("note"), "not a secret").expect("written");
        fs::create_dir_all(root.join("shop/empty")).expect("folders");
        let found = scan(&root);
        assert_eq!(found.unreadable, None);
        let names: Vec<_> = found.secrets.keys().collect();
        assert_eq!(names, ["shop/empty", "shop/web"]);
        let items = &found.secrets["shop/web"];
        assert_eq!(items.keys().collect::<Vec<_>>(), ["tls.crt", "tls.key"]);
        let key = items["tls.key"].as_ref().expect("read");
        assert_eq!(key.content.bytes(), b"key");
        assert!(key.exposed && items["tls.crt"].is_err());
        let shown = format!("{key:?}");
        assert!(
            !shown.contains("key") && shown.contains("3 bytes"),
            "{shown}"
        );
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(web.join("..2026/tls.key"), private).expect("changed");
        let found = scan(&root);
        let key = found.secrets["shop/web"]["tls.key"].as_ref().expect("read");
        assert!(!key.exposed);
        let big = File::create(root.join("shop/web/ca.crt")).expect("made");
        big.set_len(LONGEST + 1).expect("long");
        assert!(scan(&root).secrets["shop/web"]["ca.crt"].is_err());
        let pipe = root.join("shop/empty/ca.crt");
        let made = std::process::Command::new("mkfifo").arg(pipe).status();
        assert!(made.expect("mkfifo").success());
        assert!(scan(&root).secrets["shop/empty"]["ca.crt"].is_err());
    }
}
