//! Builds `ebpf/programs` into `target/artifacts/tidegate.bpf.o`.

use std::{fs, path::PathBuf};

use anyhow::Context;

use crate::{
    fresh::is_fresh,
    process::{run, say},
    setup::{Builders, prepend_path},
    workspace,
};

/// Target triple of the kernel programs.
const TARGET: &str = "bpfel-unknown-none";

/// The object, built again only if a source changed.
pub(crate) fn build(builders: &Builders) -> anyhow::Result<PathBuf> {
    let root = workspace::root();
    let object = workspace::artifacts().join("tidegate.bpf.o");
    let inputs = ["ebpf", "xtask/src/bpf.rs", "Cargo.toml"].map(|input| root.join(input));
    if is_fresh(&object, &inputs) {
        return Ok(object);
    }
    say("building the kernel programs");
    let target_dir = workspace::target().join("bpf");
    let mut command = builders.bpf.build(TARGET);
    command
        .current_dir(root.join("ebpf/programs"))
        .arg("--quiet")
        .arg("--target-dir")
        .arg(&target_dir)
        .env("PATH", prepend_path(&builders.linker_dir)?);
    run(&mut command)?;
    let built = target_dir.join(TARGET).join("release/tidegate");
    fs::create_dir_all(workspace::artifacts())?;
    fs::copy(&built, &object).with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(object)
}
