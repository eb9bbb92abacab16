//! `build`: what the host embeds, then the host.

use std::path::PathBuf;

use crate::{
    bpf, guests,
    process::{cargo, run, say},
    setup, wasm, workspace,
};

/// How the host is compiled.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    /// Quick to build, with debug assertions.
    Dev,
    /// Optimised.
    Release,
}

impl Profile {
    /// From the command line's `--release`.
    pub(crate) fn new(release: bool) -> Self {
        if release { Self::Release } else { Self::Dev }
    }

    /// What cargo wants to hear.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Dev => &[],
            Self::Release => &["--release"],
        }
    }

    /// Its folder below `target`.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// Builds what the host embeds: kernel programs and plugins.
pub(crate) fn artifacts() -> anyhow::Result<()> {
    let builders = setup::builders()?;
    bpf::build(&builders)?;
    guests::build_all()?;
    wasm::build_all(&builders.wasm)
}

/// Builds everything; the answer is the path of the binary.
pub(crate) fn all(profile: Profile) -> anyhow::Result<PathBuf> {
    artifacts()?;
    let mut command = cargo();
    command
        .args(["build", "--package", "tidegate", "--bin", "tidegate"])
        .args(profile.arguments());
    run(&mut command)?;
    let binary = workspace::target().join(profile.folder()).join("tidegate");
    say(&format!("built {}", binary.display()));
    Ok(binary)
}
