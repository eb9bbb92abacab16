//! Which way the arrows point: the room rules of ARCHITECTURE.md that a program can
//! check, read from manifests and paths in the source.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A room of `host/src`, and the rooms its code may name besides itself.
const ROOMS: [(&str, &[&str]); 10] = [
    // The one place that connects everything.
    (
        "agent",
        &[
            "admin",
            "config",
            "control",
            "datapath",
            "lifecycle",
            "observe",
            "plugin_host",
            "proxy",
        ],
    ),
    // Asks the local API and prints; starts the agent and the helper processes.
    (
        "cli",
        &[
            "agent",
            "config",
            "control",
            "observe",
            "plugin_host",
            "proxy",
        ],
    ),
    // Snapshots only.
    ("admin", &["control", "observe"]),
    (
        "control",
        &[
            "config",
            "datapath",
            "lifecycle",
            "observe",
            "plugin_host",
            "proxy",
        ],
    ),
    // The listeners it hands to the kernel are described in the proxy's contract.
    ("datapath", &["observe", "lifecycle", "proxy"]),
    ("proxy", &["lifecycle", "observe", "plugin_host"]),
    // The contract's types describe a plugin version to both processes; a helper process
    // gives up system calls as it begins.
    ("plugin_host", &["lifecycle", "observe", "proxy"]),
    // One record type from kernel and proxy; names come with the readers' view.
    ("observe", &["control", "proxy"]),
    ("lifecycle", &[]),
    ("config", &[]),
];

/// A crate that wraps a hard edge, and the only place that may name it.
const EDGES: [(&str, &str); 3] = [
    ("aya::", "host/src/datapath"),
    ("wasmtime::", "host/src/plugin_host"),
    ("rtnetlink::", "host/src/datapath"),
];

/// Crates and the dependencies, of those that matter, that they must not have, with why.
const FORBIDDEN: [(&str, &[&str], &str); 7] = [
    (
        "re2",
        &["libc", "tidegate", "tidegate-policy", "tidegate-sdk"],
        "a dialect knows nobody who writes it",
    ),
    (
        "host/policy",
        &[
            "tokio", "aya", "wasmtime", "libc", "nix", "tracing", "tidegate",
        ],
        "policy is pure",
    ),
    (
        "host/wire",
        &[
            "tokio", "aya", "wasmtime", "libc", "nix", "tracing", "tidegate",
        ],
        "parsers are pure",
    ),
    (
        "ebpf/decide",
        &["aya", "aya-ebpf", "libc", "tidegate"],
        "decisions are pure",
    ),
    (
        "ebpf/shared",
        &["libc", "serde", "tidegate"],
        "data both sides read depends on nothing",
    ),
    (
        "sdk",
        &["tidegate", "tidegate-policy", "wasmtime"],
        "the SDK never depends on the host",
    ),
    (
        "tests",
        &["tidegate", "wasmtime"],
        "tests know what a user has",
    ),
];

/// What pure code does not touch: IO, clock, threads.
const IMPURE: [&str; 5] = [
    "std::fs",
    "std::net::Tcp",
    "std::time::SystemTime",
    "std::time::Instant",
    "std::thread",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
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
            let name = path
                .strip_prefix(root())
                .expect("below the root")
                .display()
                .to_string();
            found.push((name, fs::read_to_string(&path).expect("a source file")));
        }
    }
    found.sort();
    found
}

/// First segments after `crate::` in a text, through one level of braces, comments
/// left out.
fn named_rooms(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .fold(String::new(), |code, line| code + line + "\n");
    let mut rooms = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        // `$crate::` and `some_crate::` are something else.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + found.len()..];
        match rest.strip_prefix('{') {
            Some(list) => rooms.extend(list_heads(list)),
            None => rooms.extend([head(rest)]),
        }
    }
    rooms
}

/// The first name of each item of a brace list.
fn list_heads(list: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let (mut depth, mut start) = (0, true);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            c if start && c.is_alphabetic() => {
                heads.push(head(&list[at..]));
                start = false;
            }
            _ => {}
        }
    }
    heads
}

fn head(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// Fails with every violation at once.
fn check(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn rooms_name_only_the_rooms_they_may() {
    let mut violations = Vec::new();
    for (room, allowed) in ROOMS {
        for (file, text) in sources("host/src")
            .iter()
            .filter(|(file, _)| in_room(file, room))
            // A room's tests may look at it from outside: the API through its client.
            .filter(|(file, _)| !file.ends_with("/tests.rs") && !file.contains("/tests/"))
        {
            for named in named_rooms(text) {
                let is_room = ROOMS.iter().any(|(other, _)| *other == named);
                if is_room && named != room && !allowed.contains(&named.as_str()) {
                    violations.push(format!("{file}: {room} names {named}"));
                }
            }
        }
    }
    check(&violations);
}

/// `host/src/ROOM.rs` or below `host/src/ROOM/`.
fn in_room(file: &str, room: &str) -> bool {
    let rest = file.strip_prefix("host/src/").unwrap_or_default();
    rest.split('/')
        .next()
        .is_some_and(|first| first.trim_end_matches(".rs") == room)
}

#[test]
fn hard_edges_stay_in_their_room() {
    let mut violations = Vec::new();
    for (file, text) in sources("host") {
        for (edge, room) in EDGES {
            let uses = text.match_indices(edge).any(|(at, _)| {
                let before = &text[..at];
                !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                    && !before
                        .rsplit('\n')
                        .next()
                        .unwrap_or_default()
                        .contains("//")
            });
            if uses && !file.starts_with(room) {
                violations.push(format!("{file}: only {room} may name {edge}"));
            }
        }
    }
    check(&violations);
}

#[test]
fn pure_code_touches_no_io_clock_or_thread() {
    let mut violations = Vec::new();
    for folder in [
        "host/policy/src",
        "host/wire/src",
        "re2/src",
        "ebpf/decide/src",
        "ebpf/shared/src",
    ] {
        for (file, text) in sources(folder) {
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
fn manifests_keep_the_arrows() {
    let mut violations = Vec::new();
    for (folder, forbidden, why) in FORBIDDEN {
        let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a manifest");
        let dependencies = text.split("[dependencies]").nth(1).unwrap_or_default();
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        for line in dependencies.lines() {
            let name = head_of_dependency(line);
            if forbidden.contains(&name) {
                violations.push(format!("{folder}/Cargo.toml: {name}: {why}"));
            }
        }
    }
    for folder in ["plugins/http", "plugins/dns", "examples/bot-filter"] {
        let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a manifest");
        for line in text.lines().filter(|line| line.starts_with("tidegate")) {
            let name = head_of_dependency(line);
            // The dialect of expressions is for anybody, and shared with the policy compiler.
            if name != "tidegate-sdk" && name != "tidegate-re2" {
                violations.push(format!(
                    "{folder}/Cargo.toml: {name}: plugins know the SDK alone"
                ));
            }
        }
    }
    check(&violations);
}

/// `name` of `name = …` and of `name.workspace = true`.
fn head_of_dependency(line: &str) -> &str {
    line.split(['=', '.', ' ']).next().unwrap_or_default()
}

#[test]
fn the_contract_knows_no_rust() {
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

#[test]
fn paths_in_code_are_read_through_braces_and_comments() {
    for (text, expected) in [
        ("use crate::policy::Rule;", vec!["policy"]),
        (
            "use crate::{\n    control::view::View,\n    observe::{record::A, store::B},\n};",
            vec!["control", "observe"],
        ),
        (
            "// use crate::cli;\nlet x = crate::proxy::run();",
            vec!["proxy"],
        ),
        ("$crate::layout!(x)", vec![]),
    ] {
        let expected: BTreeSet<String> = expected.into_iter().map(str::to_owned).collect();
        assert_eq!(named_rooms(text), expected, "{text}");
    }
}
