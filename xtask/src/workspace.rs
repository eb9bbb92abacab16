//! Where things are. Every path the other files use is named here.

use std::path::PathBuf;

/// The folder of the root `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    let mut manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.pop();
    manifest
}

/// The manifests of this workspace and of the two that are built for another target or
/// with other flags.
pub(crate) fn manifests() -> [PathBuf; 3] {
    ["", "ebpf/programs", "tests/fuzz"].map(|folder| root().join(folder).join("Cargo.toml"))
}

/// Everything that is built, and nothing else, goes here.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// What `host/build.rs` embeds, and what tests and the demo load: always under the
/// workspace's own `target`, so that a build script finds it without being told.
pub(crate) fn artifacts() -> PathBuf {
    root().join("target/artifacts")
}

/// Tools that were built because the machine had none.
pub(crate) fn tools() -> PathBuf {
    root().join("target/tools")
}
