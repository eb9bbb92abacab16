//! A component of a project's crate.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tidegate_toolchain::{PLUGIN_TARGET, Plugin, Toolchain};

/// For plugins dropped in: copied, hashed and compiled while somebody waits.
const OPT_LEVEL: &str = "s";

/// A component that was built.
#[derive(Debug)]
pub struct Built {
    /// The file.
    pub file: PathBuf,
    /// Its size, bytes.
    pub size: usize,
    /// Which Rust made it.
    pub toolchain: String,
}

/// The component that [`build`] makes of the crate in `folder`.
///
/// # Errors
///
/// If there is no crate.
pub fn component_of(folder: &Path) -> anyhow::Result<PathBuf> {
    let plugin = Plugin {
        source: folder,
        target_dir: folder,
        opt_level: OPT_LEVEL,
        features: &[],
    };
    Ok(folder.join(format!("{}.wasm", plugin.package()?)))
}

/// Builds the crate in `folder`; the component lies there, named after the package, or is
/// `output`.
///
/// # Errors
///
/// If there is no compiler for it, naming the command that gets one; what the compiler says;
/// or if the module is none of a filter.
pub fn build(folder: &Path, output: Option<&Path>) -> anyhow::Result<Built> {
    let target_dir = folder.join("target");
    let target_dir = std::path::absolute(&target_dir).context("cannot name the folder")?;
    let plugin = Plugin {
        source: folder,
        target_dir: &target_dir,
        opt_level: OPT_LEVEL,
        features: &[],
    };
    let package = plugin.package().with_context(|| {
        format!(
            "{} holds no crate; `tidegate plugin new NAME` makes one",
            folder.display()
        )
    })?;
    let toolchain = Toolchain::find_wasm().with_context(|| {
        format!(
            "no Rust compiler for {PLUGIN_TARGET}; with rustup (https://rustup.rs): \
             `rustup target add {PLUGIN_TARGET}`"
        )
    })?;
    let mut command = plugin.command(&toolchain);
    let status = command.status().context("cannot start cargo")?;
    anyhow::ensure!(status.success(), "cargo could not build `{package}`");
    let component = plugin.component()?;
    let file = match output {
        Some(output) => output.to_owned(),
        None => folder.join(format!("{package}.wasm")),
    };
    fs::write(&file, &component).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(Built {
        file,
        size: component.len(),
        toolchain: toolchain.origin,
    })
}
