//! Compilers for the two foreign targets, and components made of what they make. The
//! machine's own Rust seldom has them, so each is looked for in the places where it may
//! be, what needs no download first.
//!
//! Used by this repository's build and by `tidegate plugin build`.

mod plugin;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

pub use plugin::{PLUGIN_TARGET, Plugin};

/// A pair of cargo and rustc that can build for one foreign target.
#[derive(Clone, Debug)]
pub struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    library: Library,
    /// Linker to name; none to leave the choice to rustc.
    linker: Option<PathBuf>,
    /// Where it was found, for people.
    pub origin: String,
}

/// How a toolchain comes by the target's standard library.
#[derive(Clone, Copy, Debug)]
enum Library {
    Prebuilt,
    /// These crates, built from the sources beside the compiler.
    FromSource(&'static str),
}

/// What a compiler offers for a target; `None` if it will not do.
type Probe = fn(rustc: &Path) -> Option<Library>;

impl Toolchain {
    /// A toolchain for `bpfel-unknown-none`, if the machine has one.
    pub fn find_bpf() -> Option<Self> {
        distribution(|rustc| prebuilt(rustc, "bpfel-unknown-none"))
            .or_else(|| rustup("nightly", |rustc| from_source(rustc, "core")))
    }

    /// A toolchain for [`PLUGIN_TARGET`], if the machine has one.
    pub fn find_wasm() -> Option<Self> {
        let source: Probe = |rustc| from_source(rustc, "std,panic_abort");
        active(|rustc| prebuilt(rustc, PLUGIN_TARGET))
            .or_else(|| rustup("stable", |rustc| prebuilt(rustc, PLUGIN_TARGET)))
            .or_else(|| distribution(source)?.with_wasm_linker())
            .or_else(|| rustup("nightly", source))
    }

    /// Distribution compilers come without the linker that rustup ships.
    fn with_wasm_linker(mut self) -> Option<Self> {
        self.linker = ["wasm-ld-22", "wasm-ld"]
            .iter()
            .find_map(|name| on_path(name));
        self.linker.is_some().then_some(self)
    }

    /// `cargo build --release` for `target`, free of what the calling cargo exported.
    pub fn build(&self, target: &str) -> Command {
        let mut command = Command::new(&self.cargo);
        command
            .args(["build", "--release", "--target", target])
            .env("RUSTC", &self.rustc)
            // Both targets use unstable features of the compiler; they are allowed
            // for these builds alone.
            .env("RUSTC_BOOTSTRAP", "1");
        for inherited in INHERITED {
            command.env_remove(inherited);
        }
        if let Library::FromSource(crates) = self.library {
            command.arg(format!("-Zbuild-std={crates}"));
        }
        if let Some(linker) = &self.linker {
            let target = target.to_uppercase().replace('-', "_");
            command.env(format!("CARGO_TARGET_{target}_LINKER"), linker);
        }
        command
    }
}

/// Variables of the calling cargo that would change a foreign build.
const INHERITED: [&str; 5] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "LD_LIBRARY_PATH",
    "RUSTUP_TOOLCHAIN",
];

/// What `cargo` and `rustc` mean here.
fn active(probe: Probe) -> Option<Toolchain> {
    let bin = sysroot(Path::new("rustc"))?.join("bin");
    // The programs themselves, not rustup's, which may mean others in another folder.
    let program = |name| Some(bin.join(name)).filter(|file| file.is_file());
    let (cargo, rustc) = (program("cargo")?, program("rustc")?);
    accept(probe, cargo, rustc, "the Rust on this PATH")
}

/// The distribution's compiler (Debian's `rustc-web` and the like).
fn distribution(probe: Probe) -> Option<Toolchain> {
    let bin = Path::new("/usr/bin");
    let (cargo, rustc) = (bin.join("cargo"), bin.join("rustc"));
    if !cargo.is_file() {
        return None;
    }
    accept(probe, cargo, rustc, "the distribution's Rust in /usr/bin")
}

fn rustup(channel: &str, probe: Probe) -> Option<Toolchain> {
    let which = |tool| {
        let mut command = Command::new("rustup");
        command.args(["which", "--toolchain", channel, tool]);
        output_of(&mut command).map(PathBuf::from)
    };
    let origin = format!("rustup's {channel} toolchain");
    accept(probe, which("cargo")?, which("rustc")?, &origin)
}

fn accept(probe: Probe, cargo: PathBuf, rustc: PathBuf, origin: &str) -> Option<Toolchain> {
    let library = probe(&rustc)?;
    Some(Toolchain {
        cargo,
        rustc,
        library,
        linker: None,
        origin: origin.to_owned(),
    })
}

fn prebuilt(rustc: &Path, target: &str) -> Option<Library> {
    let libraries = sysroot(rustc)?.join("lib/rustlib").join(target).join("lib");
    libraries.is_dir().then_some(Library::Prebuilt)
}

fn from_source(rustc: &Path, crates: &'static str) -> Option<Library> {
    let sources = sysroot(rustc)?.join("lib/rustlib/src/rust/library/Cargo.lock");
    sources.is_file().then_some(Library::FromSource(crates))
}

fn sysroot(rustc: &Path) -> Option<PathBuf> {
    output_of(Command::new(rustc).args(["--print", "sysroot"])).map(PathBuf::from)
}

/// Standard output of a command that succeeds, or nothing.
pub fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// First file of this name on `PATH`.
pub fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
