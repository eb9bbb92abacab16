//! The contract between host and filters, as it was when this program was built.

/// A file: path and text.
pub type File = (&'static str, &'static str);

macro_rules! files {
    ($folder:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../../", $folder, "/", $path)))),+]
    };
}

/// The files of `wit/`.
pub const WIT: &[File] = files!["wit":
    "README.md",
    "filter@0.1.0/dns.wit",
    "filter@0.1.0/host.wit",
    "filter@0.1.0/http.wit",
    "filter@0.1.0/world.wit",
    "filter@0.2.0/host.wit",
    "filter@0.2.0/stream.wit",
    "filter@0.2.0/world.wit",
    "filter@0.3.0/exchange.wit",
    "filter@0.3.0/host.wit",
    "filter@0.3.0/world.wit",
];

/// The sources of `tidegate-sdk`, without its manifest, which names the workspace.
pub const SDK: &[File] = files!["sdk":
    "README.md",
    "src/bindings.rs",
    "src/connection.rs",
    "src/dns.rs",
    "src/exchange.rs",
    "src/headers.rs",
    "src/host.rs",
    "src/http.rs",
    "src/lib.rs",
    "src/manifest.rs",
    "src/stream.rs",
    "src/trial.rs",
];

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    fn below(folder: &Path, path: &str, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder.join(path)).expect("a folder") {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("a name");
            let path = format!("{path}{name}");
            match entry.path().is_dir() {
                true => below(folder, &format!("{path}/"), found),
                false => drop(found.insert(path)),
            }
        }
    }

    #[test]
    fn every_file_is_there() {
        for (folder, files) in [("wit", WIT), ("sdk", SDK)] {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
            let mut found = BTreeSet::new();
            below(&root.join(folder), "", &mut found);
            found.remove("Cargo.toml");
            let ours = files.iter().map(|(path, _)| (*path).to_owned()).collect();
            assert_eq!(found, ours, "{folder}");
        }
    }
}
