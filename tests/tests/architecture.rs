//! Which way the arrows point: ARCHITECTURE.md says it, cargo knows it, and here they are
//! compared. What crates cannot say (purity, one module style) is read from the source.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;

/// Crates that wrap a hard edge, and the only rooms that may depend on them.
const EDGES: [(&str, &[&str]); 6] = [
    (
        "aya",
        &["ebpf/shared", "host/bpf", "host/datapath", "tests"],
    ),
    ("axum", &["host/api"]),
    ("notify", &["host/sources"]),
    ("rtnetlink", &["host/datapath"]),
    ("seccompiler", &["host/lifecycle"]),
    ("wasmtime", &["host/plugin_host"]),
];

/// Rooms without IO, clock and threads: same input, same answer.
const PURE: [&str; 5] = [
    "ebpf/decide",
    "ebpf/shared",
    "host/policy",
    "host/wire",
    "re2",
];

/// What pure rooms do not depend on.
const IMPURE_CRATES: [&str; 5] = ["libc", "nix", "tokio", "tracing", "wasmtime"];

/// What pure code does not touch.
const IMPURE: [&str; 5] = [
    "std::fs",
    "std::net::Tcp",
    "std::time::SystemTime",
    "std::time::Instant",
    "std::thread",
];

/// What a package says about itself.
#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `dev`, `build`, or nothing.
    kind: Option<String>,
    /// Where it is, if it is of the same repository.
    path: Option<PathBuf>,
}

impl Package {
    /// Its folder in the repository.
    fn room(&self) -> String {
        room(self.manifest_path.parent().expect("a manifest's folder"))
    }

    /// What its product code depends on.
    fn depends_on(&self) -> impl Iterator<Item = &Dependency> {
        self.dependencies.iter().filter(|on| on.kind.is_none())
    }
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the repository").to_owned()
}

fn room(folder: &Path) -> String {
    let inside = folder.strip_prefix(root()).expect("of this repository");
    inside.display().to_string()
}

/// Every package of the workspace.
fn packages() -> Vec<Package> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let metadata: Metadata = serde_json::from_slice(&output.stdout).expect("its JSON");
    metadata.packages
}

/// Rust files below a folder of the repository, with their text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a folder of the repository");
            open.extend(
                entries
                    .map(|entry| entry.expect("an entry").path())
                    .filter(|p| !p.ends_with("target")),
            );
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            found.push((room(&path), text));
        }
    }
    found.sort();
    found
}

/// Fails with every violation at once.
fn check(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

/// The arrows as ARCHITECTURE.md has them: a room a line, `room → room, room`.
fn arrows_written() -> BTreeMap<String, BTreeSet<String>> {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the map");
    let section = map.split("## Which way the arrows point").nth(1);
    let block = section.and_then(|text| text.split("```").nth(1));
    let lines = block.expect("a block of arrows").lines();
    lines
        .filter_map(|line| line.split_once('→'))
        .map(|(from, to)| {
            let to = to.split(',').map(|to| to.trim().to_owned());
            (from.trim().to_owned(), to.collect())
        })
        .collect()
}

#[test]
fn the_map_has_the_arrows_that_cargo_has() {
    // Those who write plugins, examples and tests may see only what a user has.
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        let to = package.depends_on().filter_map(|on| on.path.as_deref());
        let to: BTreeSet<_> = to.map(room).collect();
        let is_guest = package.room().starts_with("tests/guests/");
        if !to.is_empty() && !is_guest {
            found.insert(package.room(), to);
        }
    }
    let line = |(from, to): (&String, &BTreeSet<String>)| {
        let to: Vec<_> = to.iter().map(String::as_str).collect();
        format!("{from} → {}", to.join(", "))
    };
    let lines: Vec<_> = found.iter().map(line).collect();
    assert!(
        arrows_written() == found,
        "the block should have:\n{}",
        lines.join("\n")
    );
}

#[test]
fn hard_edges_stay_in_their_room() {
    let mut violations = Vec::new();
    for package in packages() {
        let room = package.room();
        for on in package.depends_on() {
            let edge = EDGES.iter().find(|(edge, _)| *edge == on.name);
            if edge.is_some_and(|(_, rooms)| !rooms.contains(&room.as_str())) {
                violations.push(format!("{}: not the room for {}", package.name, on.name));
            }
        }
    }
    check(&violations);
}

#[test]
fn plugins_and_guests_know_the_sdk_alone() {
    let mut violations = Vec::new();
    for package in packages() {
        let room = package.room();
        let is_plugin = ["plugins/", "examples/", "tests/guests/"];
        if !is_plugin.iter().any(|folder| room.starts_with(folder)) {
            continue;
        }
        for on in package.depends_on().filter(|on| on.path.is_some()) {
            // The dialect of expressions is for anybody, and shared with the policy compiler.
            if on.name != "tidegate-sdk" && on.name != "tidegate-re2" {
                violations.push(format!("{room}: {}", on.name));
            }
        }
    }
    check(&violations);
}

#[test]
fn pure_code_touches_no_io_clock_or_thread() {
    let mut violations = Vec::new();
    for package in packages() {
        let room = package.room();
        if !PURE.contains(&room.as_str()) {
            continue;
        }
        let impure = |on: &&Dependency| IMPURE_CRATES.contains(&on.name.as_str());
        for on in package.depends_on().filter(impure) {
            violations.push(format!("{room}: depends on {}", on.name));
        }
        for (file, text) in sources(&format!("{room}/src")) {
            // Tests read their tables from files.
            if file.ends_with("tests.rs") || file.contains("/tests/") {
                continue;
            }
            let code = text
                .split("#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or_default();
            for impure in IMPURE.iter().filter(|impure| code.contains(**impure)) {
                violations.push(format!("{file}: {impure}"));
            }
        }
    }
    check(&violations);
}

#[test]
fn the_contract_with_plugins_knows_no_rust() {
    assert!(sources("wit").is_empty());
}

#[test]
fn there_is_one_module_style() {
    let twins: Vec<String> = ["host", "ebpf", "sdk", "plugins", "tests", "xtask"]
        .iter()
        .flat_map(|folder| sources(folder))
        .map(|(file, _)| file)
        .filter(|file| root().join(file.trim_end_matches(".rs")).is_dir())
        .map(|file| format!("{file}: a room's door is its mod.rs"))
        .collect();
    check(&twins);
}
