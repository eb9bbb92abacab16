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
        // The map of a room names its private files, which this build shows.
        .env(
            "RUSTDOCFLAGS",
            "-D warnings -A rustdoc::private_intra_doc_links",
        ))?;
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
