//! `demo` and `bench`: programs of the `tests` crate, because they use its lab.

use crate::{
    build::{self, Profile},
    process::{cargo, run},
    setup,
};

/// Builds, then tells the story.
pub(crate) fn demo(keep: bool, stop: bool) -> anyhow::Result<()> {
    setup::lab()?;
    let binary = build::all(Profile::Dev)?;
    let mut command = cargo();
    command
        .args([
            "run",
            "--quiet",
            "--package",
            "tidegate-tests",
            "--bin",
            "demo",
            "--",
        ])
        .args(keep.then_some("--keep"))
        .args(stop.then_some("--stop"))
        .env("TIDEGATE_BIN", binary);
    run(&mut command)
}

/// Builds optimised, then measures.
pub(crate) fn bench(filter: Option<&str>) -> anyhow::Result<()> {
    setup::lab()?;
    let binary = build::all(Profile::Release)?;
    let mut command = cargo();
    command
        .args([
            "run",
            "--quiet",
            "--release",
            "--package",
            "tidegate-tests",
            "--bin",
            "bench",
            "--",
        ])
        .args(filter)
        .env("TIDEGATE_BIN", binary);
    run(&mut command)
}
