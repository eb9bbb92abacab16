//! Which crates of the repository are plugins, and what each is built for.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tidegate_toolchain::Toolchain;

use crate::{
    fresh::is_fresh,
    process::{run, say},
    workspace,
};

/// For plugins of this binary: called for every message of a node, compiled once.
const SPEED: &str = "3";
/// For plugins dropped in: copied, hashed and compiled while somebody waits. And for the
/// one that knows a thousand kinds of messages, of which a connection uses ten.
const SIZE: &str = "s";
const MANY_KINDS: &str = "kafka";

/// One component to build.
pub(crate) struct Plugin {
    /// Folder of the crate, relative to the workspace.
    pub(crate) source: PathBuf,
    /// What rustc optimises for.
    pub(crate) opt_level: &'static str,
    /// Cargo features to switch on.
    pub(crate) features: &'static [&'static str],
    /// What it is made for.
    pub(crate) host: Host,
    /// Where what is made goes, relative to `target/artifacts`.
    pub(crate) output: PathBuf,
}

/// Whose contract a plugin is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// Ours: a component.
    Tidegate,
    /// That of Envoy and Istio: a module as the compiler makes it.
    Envoy,
}

/// Every plugin of the repository: built-ins to the top of `target/artifacts`, where
/// the host embeds them; examples, misbehaving guests and filters made for Envoy to folders of
/// their own.
pub(crate) fn plugins() -> anyhow::Result<Vec<Plugin>> {
    let mut plugins = Vec::new();
    for (folder, below, opt_level, host) in [
        ("plugins", "", SPEED, Host::Tidegate),
        ("examples", "examples", SIZE, Host::Tidegate),
        ("tests/guests", "guests", SIZE, Host::Tidegate),
        ("tests/filters", "filters", SIZE, Host::Envoy),
    ] {
        for (name, source) in crates_in(folder)? {
            plugins.push(Plugin {
                source,
                opt_level: if name == MANY_KINDS { SIZE } else { opt_level },
                features: &[],
                host,
                output: Path::new(below).join(format!("{name}.wasm")),
            });
        }
    }
    let bot_filter = Path::new("examples/bot-filter");
    if workspace::root().join(bot_filter).is_dir() {
        plugins.push(Plugin {
            source: bot_filter.to_owned(),
            opt_level: SIZE,
            features: &["v2"],
            host: Host::Tidegate,
            output: PathBuf::from("examples/bot-filter-v2.wasm"),
        });
    }
    Ok(plugins)
}

/// Builds every plugin whose sources changed.
pub(crate) fn build_all(toolchain: &Toolchain) -> anyhow::Result<()> {
    plugins()?
        .iter()
        .try_for_each(|plugin| build_plugin(toolchain, plugin))
}

/// Builds one plugin, unless its component is newer than all it is made of.
pub(crate) fn build_plugin(toolchain: &Toolchain, plugin: &Plugin) -> anyhow::Result<()> {
    let root = workspace::root();
    let output = workspace::artifacts().join(&plugin.output);
    let source = root.join(&plugin.source);
    let mut inputs = ["sdk", "wit", "Cargo.lock", "toolchain", "xtask/src/wasm.rs"]
        .map(|input| root.join(input))
        .to_vec();
    inputs.push(source.clone());
    if is_fresh(&output, &inputs) {
        return Ok(());
    }
    say(&format!("building {}", plugin.output.display()));
    let host = plugin.host;
    let plugin = tidegate_toolchain::Plugin {
        source: &source,
        target_dir: &workspace::target().join("wasm"),
        opt_level: plugin.opt_level,
        features: plugin.features,
    };
    run(&mut plugin.command(toolchain))?;
    let made = match host {
        Host::Tidegate => plugin.component()?,
        Host::Envoy => plugin.module()?,
    };
    if let Some(dir) = output.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(&output, made).with_context(|| format!("cannot write {}", output.display()))
}

/// Crates directly below a folder of the workspace, by folder name, sorted.
fn crates_in(folder: &str) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let root = workspace::root();
    let dir = root.join(folder);
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut crates = Vec::new();
    for entry in fs::read_dir(&dir)? {
        let entry = entry?;
        if entry.path().join("Cargo.toml").is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            crates.push((name.clone(), Path::new(folder).join(name)));
        }
    }
    crates.sort();
    Ok(crates)
}
