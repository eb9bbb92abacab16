//! Hands the paths of the build outputs that the binary carries inside to
//! `include_bytes!`: the kernel object and the built-in plugins.

use std::{env, fs, io, path::PathBuf};

/// Environment variable for the compiler, and file in `target/artifacts`.
const ARTIFACTS: [(&str, &str); 3] = [
    ("TIDEGATE_BPF_OBJECT", "tidegate.bpf.o"),
    ("TIDEGATE_HTTP_PLUGIN", "http.wasm"),
    ("TIDEGATE_DNS_PLUGIN", "dns.wasm"),
];

fn main() -> io::Result<()> {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it for build scripts");
    let workspace = PathBuf::from(manifest);
    let workspace = workspace.parent().expect("host/ is in the workspace");
    let folder = workspace.join("target/artifacts");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it for build scripts"));
    for (variable, file) in ARTIFACTS {
        let mut path = folder.join(file);
        println!("cargo::rerun-if-changed={}", path.display());
        if !path.is_file() {
            println!(
                "cargo::warning={file} is missing, the binary will not start: build it with `cargo xtask build`"
            );
            path = out.join(file);
            fs::write(&path, [])?;
        }
        println!("cargo::rustc-env={variable}={}", path.display());
    }
    Ok(())
}
