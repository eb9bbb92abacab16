//! Hands the paths of the build outputs that the binary carries inside to
//! `include_bytes!`: the kernel object and the built-in plugins.

use std::{env, path::PathBuf, process::ExitCode};

/// Environment variable for the compiler, and file in `target/artifacts`.
const ARTIFACTS: [(&str, &str); 4] = [
    ("TIDEGATE_BPF_OBJECT", "tidegate.bpf.o"),
    ("TIDEGATE_HTTP_PLUGIN", "http.wasm"),
    ("TIDEGATE_DNS_PLUGIN", "dns.wasm"),
    ("TIDEGATE_KAFKA_PLUGIN", "kafka.wasm"),
];

fn main() -> ExitCode {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let folder = here.join("../../target/artifacts");
    for (variable, file) in ARTIFACTS {
        let path = folder.join(file);
        println!("cargo::rerun-if-changed={}", path.display());
        if !path.is_file() {
            println!(
                "cargo::error=target/artifacts/{file} is missing: the kernel programs and the built-in plugins are built for other targets; run `cargo xtask build` once, which makes them"
            );
            return ExitCode::FAILURE;
        }
        println!("cargo::rustc-env={variable}={}", path.display());
    }
    ExitCode::SUCCESS
}
