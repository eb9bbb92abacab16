//! `demo` and `bench`: programs of the `tests` crate, because they use its lab.

use std::process::Command;

use crate::{
    build::{self, Profile},
    process::{cargo, run},
    setup, workspace,
};

/// Example of the host crate that measures plugin calls.
const PLUGIN_BENCH: &str = "bench_plugin";

/// Builds, then tells the story.
pub(crate) fn demo(keep: bool, stop: bool) -> anyhow::Result<()> {
    setup::lab()?;
    let binary = build::all(Profile::Dev)?;
    let mut command = lab_program("demo", Profile::Dev)?;
    command
        .args(keep.then_some("--keep"))
        .args(stop.then_some("--stop"))
        .env("TIDEGATE_BIN", binary);
    run(&mut command)
}

/// Builds optimised, then measures.
pub(crate) fn bench(filter: Option<&str>) -> anyhow::Result<()> {
    setup::bench()?;
    build::artifacts()?;
    // In one build: an example has other features of its dependencies than a binary
    // alone, and all of them would be compiled twice.
    let wanted = ["--bin", "tidegate", "--example", PLUGIN_BENCH];
    run(cargo()
        .args(["build", "--release", "--package", "tidegate"])
        .args(wanted))?;
    let binary = workspace::target().join("release/tidegate");
    let plugin_bench = workspace::target()
        .join("release/examples")
        .join(PLUGIN_BENCH);
    let mut command = lab_program("bench", Profile::Release)?;
    command
        .args(filter)
        .env("TIDEGATE_BIN", binary)
        .env("TIDEGATE_PLUGIN_BENCH", plugin_bench);
    run(&mut command)
}

/// A program of the `tests` crate, built together with the ones it starts.
fn lab_program(name: &str, profile: Profile) -> anyhow::Result<Command> {
    run(cargo()
        .args(["build", "--quiet", "--package", "tidegate-tests", "--bins"])
        .args(profile.arguments()))?;
    let folder = workspace::target().join(profile.folder());
    Ok(Command::new(folder.join(name)))
}
