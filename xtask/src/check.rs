//! `check`: what a reviewer would ask for before reading.

use crate::{
    build,
    process::{cargo, run, say},
    workspace,
};

/// Formatting, lints, documentation, architecture; the first failure ends it.
pub(crate) fn all() -> anyhow::Result<()> {
    say("formatting");
    for manifest in workspace::manifests() {
        run(cargo()
            .args(["fmt", "--all", "--check", "--manifest-path"])
            .arg(manifest))?;
    }
    build::artifacts()?;
    say("lints");
    run(cargo().args([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    say("documentation");
    run(cargo()
        .args([
            "doc",
            "--quiet",
            "--workspace",
            "--no-deps",
            "--document-private-items",
        ])
        .env("RUSTDOCFLAGS", "-D warnings"))?;
    say("architecture");
    run(cargo().args([
        "test",
        "--quiet",
        "--package",
        "tidegate-tests",
        "--test",
        "architecture",
    ]))?;
    say("all good");
    Ok(())
}
