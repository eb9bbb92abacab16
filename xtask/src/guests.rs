//! Guests written as text: what they do, no compiler of a language would produce.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::{fresh::is_fresh, workspace};

/// Where they are, relative to the workspace, and where their components go, relative
/// to `target/artifacts`.
const SOURCES: &str = "tests/guests";
const OUTPUT: &str = "guests";
/// The contract they are written for.
const CONTRACT: &str = "wit/filter@0.1.0";
const WORLD: &str = "http-filter";

/// Builds every `.wat` guest that changed.
pub(crate) fn build_all() -> anyhow::Result<()> {
    let contract = workspace::root().join(CONTRACT);
    for entry in fs::read_dir(workspace::root().join(SOURCES))? {
        let source = entry?.path();
        if source
            .extension()
            .is_none_or(|extension| extension != "wat")
        {
            continue;
        }
        let output = output(&source)?;
        if is_fresh(&output, &[source.clone(), contract.clone()]) {
            continue;
        }
        let component = component(&source, &contract)
            .with_context(|| format!("cannot build {}", source.display()))?;
        fs::write(&output, component)
            .with_context(|| format!("cannot write {}", output.display()))?;
    }
    Ok(())
}

fn output(source: &Path) -> anyhow::Result<PathBuf> {
    let folder = workspace::artifacts().join(OUTPUT);
    fs::create_dir_all(&folder)?;
    let name = source.file_stem().context("a file without a name")?;
    Ok(folder.join(name).with_extension("wasm"))
}

fn component(source: &Path, contract: &Path) -> anyhow::Result<Vec<u8>> {
    let mut module = wat::parse_file(source)?;
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(contract)?;
    let world = resolve.select_world(&[package], Some(WORLD))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false)?;
    ComponentEncoder::default()
        .module(&module)?
        .validate(true)
        .encode()
}
