//! A plugin of a crate: rustc makes a core module that carries its WIT types in a custom
//! section, `wit-component` wraps it. No WASI is involved.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, bail};
use wit_component::ComponentEncoder;

use crate::Toolchain;

/// Target triple of plugins.
pub const PLUGIN_TARGET: &str = "wasm32-unknown-unknown";

/// One component to build.
#[derive(Clone, Copy, Debug)]
pub struct Plugin<'a> {
    /// Folder of the crate.
    pub source: &'a Path,
    /// Where cargo keeps what it makes.
    pub target_dir: &'a Path,
    /// What rustc optimises for, as `opt-level` has it.
    pub opt_level: &'a str,
    /// Cargo features to switch on.
    pub features: &'a [&'a str],
}

impl Plugin<'_> {
    /// The command that makes the core module.
    pub fn command(&self, toolchain: &Toolchain) -> Command {
        let mut command = toolchain.build(PLUGIN_TARGET);
        command
            .current_dir(self.source)
            .args(["--quiet", "--lib", "--target-dir"])
            .arg(self.target_dir)
            .args(["--features", &self.features.join(",")])
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", self.opt_level)
            .env("CARGO_PROFILE_RELEASE_LTO", "true")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
            .env("CARGO_PROFILE_RELEASE_STRIP", "true")
            .env("CARGO_PROFILE_RELEASE_PANIC", "abort");
        command
    }

    /// The component of the module that [`Self::command`] made, checked.
    ///
    /// # Errors
    ///
    /// If there is none, or it is not made with the SDK.
    pub fn component(&self) -> anyhow::Result<Vec<u8>> {
        ComponentEncoder::default()
            .module(&self.module()?)
            .and_then(|encoder| encoder.validate(true).encode())
            .with_context(|| {
                format!(
                    "cannot turn what {} makes into a component",
                    self.source.display()
                )
            })
    }

    /// The module that [`Self::command`] made, as it is.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn module(&self) -> anyhow::Result<Vec<u8>> {
        let name = self.package()?.replace('-', "_");
        let release = self.target_dir.join(PLUGIN_TARGET).join("release");
        let module = release.join(format!("{name}.wasm"));
        fs::read(&module).with_context(|| {
            format!(
                "cargo made no {}; the crate needs `[lib] crate-type = [\"cdylib\"]`",
                module.display()
            )
        })
    }

    /// The package's name: the first `name = "…"` of its manifest.
    ///
    /// # Errors
    ///
    /// If there is no manifest, or no name in it.
    pub fn package(&self) -> anyhow::Result<String> {
        let manifest = self.source.join("Cargo.toml");
        let text = fs::read_to_string(&manifest)
            .with_context(|| format!("cannot read {}", manifest.display()))?;
        let name = text
            .lines()
            .find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
        match name {
            Some(name) => Ok(name.to_owned()),
            None => bail!("{} has no package name", manifest.display()),
        }
    }
}
