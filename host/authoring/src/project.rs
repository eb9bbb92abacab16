//! A new filter's project: a crate with the SDK beside it, which needs nothing of this
//! repository.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::contract::{SDK, WIT};

/// What a filter reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests of HTTP.
    Http,
    /// Exchanges of HTTP, with their bodies.
    Exchange,
    /// Queries of DNS.
    Dns,
    /// Bytes of TCP connections.
    Stream,
}

impl Kind {
    /// The filter's source, and what it must decide.
    fn templates(self) -> (&'static str, &'static str) {
        macro_rules! template {
            ($name:literal) => {
                (
                    include_str!(concat!("../templates/", $name, ".rs.txt")),
                    include_str!(concat!("../templates/", $name, ".yaml")),
                )
            };
        }
        match self {
            Self::Http => template!("http"),
            Self::Exchange => template!("exchange"),
            Self::Dns => template!("dns"),
            Self::Stream => template!("stream"),
        }
    }
}

/// Version of `wit-bindgen` that the SDK is written for.
const WIT_BINDGEN: &str = "0.61";

/// The files of a new project, by path below its folder.
///
/// # Errors
///
/// If the name cannot be a crate's and a plugin's.
pub fn files(name: &str, kind: Kind) -> anyhow::Result<Vec<(PathBuf, String)>> {
    check_name(name)?;
    let (source, cases) = kind.templates();
    let ty: String = name.split(['-', '_']).map(capital).collect();
    let named = |text: &str| text.replace("{{name}}", name).replace("{{Type}}", &ty);
    let mut files = vec![
        ("Cargo.toml".into(), named(MANIFEST)),
        ("README.md".into(), named(README)),
        (".gitignore".into(), "/target\n/*.wasm\n".to_owned()),
        ("src/lib.rs".into(), named(source)),
        ("tests.yaml".into(), named(cases)),
        ("sdk/Cargo.toml".into(), sdk_manifest()),
    ];
    for (folder, of) in [("sdk", SDK), ("wit", WIT)] {
        let placed =
            |(path, text): &(&str, &str)| (Path::new(folder).join(path), (*text).to_owned());
        files.extend(of.iter().map(placed));
    }
    Ok(files)
}

/// Makes the project's folder and all in it.
///
/// # Errors
///
/// If there is something already, or it cannot be written.
pub fn write(folder: &Path, files: &[(PathBuf, String)]) -> anyhow::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            anyhow::bail!("{} is there already; choose another name", folder.display())
        }
        made => made.with_context(|| format!("cannot make {}", folder.display()))?,
    }
    write_below(folder, files)
}

/// Writes files below a folder, and the folders they need.
///
/// # Errors
///
/// If one cannot be written.
pub fn write_below(
    folder: &Path,
    files: &[(impl AsRef<Path>, impl AsRef<str>)],
) -> anyhow::Result<()> {
    for (path, text) in files {
        let path = folder.join(path);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| fs::write(&path, text.as_ref()))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Names of crates, which plugins may have too.
fn check_name(name: &str) -> anyhow::Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let good = name.bytes().all(plain)
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.len() <= 60;
    anyhow::ensure!(
        good,
        "`{name}` cannot be the name of a plugin: use lower-case letters, digits and `-`, a \
         letter first, 60 at most"
    );
    let taken = tidegate_contract::BUILT_IN.contains(&name);
    anyhow::ensure!(!taken, "`{name}` is the name of a built-in plugin");
    // What the project has beside it, and what no crate may be called.
    let reserved = ["tidegate-sdk", "test", "core", "std", "alloc", "proc-macro"];
    anyhow::ensure!(
        !reserved.contains(&name),
        "`{name}` means something else to cargo"
    );
    Ok(())
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

const MANIFEST: &str = include_str!("../templates/Cargo.toml.txt");
const README: &str = include_str!("../templates/README.md");

fn sdk_manifest() -> String {
    format!(
        "# As it is in tidegate {version}.\n\
         [package]\n\
         name = \"tidegate-sdk\"\n\
         description = \"Write Tidegate plugins in Rust: traits, types and one macro.\"\n\
         version = \"{version}\"\n\
         edition = \"2024\"\n\
         rust-version = \"{rust}\"\n\
         publish = false\n\
         \n\
         [dependencies]\n\
         wit-bindgen = {{ version = \"{WIT_BINDGEN}\", default-features = false, \
         features = [\"macros\", \"realloc\"] }}\n",
        version = env!("CARGO_PKG_VERSION"),
        rust = env!("CARGO_PKG_RUST_VERSION"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_crates_and_plugins() {
        for name in ["a", "no-put", "x2"] {
            assert!(files(name, Kind::Http).is_ok(), "{name}");
        }
        for (name, why) in [
            ("", "cannot be the name"),
            ("2x", "cannot be the name"),
            ("-x", "cannot be the name"),
            ("No", "cannot be the name"),
            ("a/b", "cannot be the name"),
            ("../a", "cannot be the name"),
            ("kafka", "built-in"),
            ("core", "means something else"),
        ] {
            let error = files(name, Kind::Http).expect_err(name).to_string();
            assert!(error.contains(why), "{name}: {error}");
        }
    }

    #[test]
    fn the_sdk_needs_what_it_needs_here() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let workspace = fs::read_to_string(root.join("Cargo.toml")).expect("the workspace");
        let line = sdk_manifest();
        let line = line.lines().last().expect("a dependency");
        assert!(workspace.contains(line), "{line}");
    }
}
