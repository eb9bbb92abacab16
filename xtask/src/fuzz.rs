//! `fuzz`: coverage-guided fuzzing of the pure rooms with libFuzzer, on stable Rust.
//! Crashing inputs stay under `target/fuzz/crashes`; what was found to reach new code
//! stays under `target/fuzz/corpus` and is where the next run starts.

use std::{fs, path::Path, process::Command};

use anyhow::Context;

use crate::{
    process::{cargo, run, say},
    workspace,
};

/// Instrumentation libFuzzer reads: edge counters, their addresses, and compared values.
const COVERAGE: &str = "-Cpasses=sancov-module \
     -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares \
     -Ccodegen-units=1";

/// Naming the target keeps the instrumentation away from build scripts and macros.
const TARGET: &str = env!("XTASK_HOST");

/// How inputs are found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Search {
    /// Others each time: what somebody lets run for a while to find something.
    Exploring,
    /// The same each time: whether a change passes says something of the change.
    Repeatable,
}

/// Fuzzes every target whose name contains `filter`, each for `seconds`.
///
/// # Errors
///
/// If the targets cannot be built, or an input made one fail.
pub(crate) fn run_targets(
    filter: Option<&str>,
    seconds: u32,
    search: Search,
) -> anyhow::Result<u64> {
    let folder = workspace::root().join("tests/fuzz");
    let built = workspace::target().join("fuzz");
    run(cargo()
        .args(["build", "--quiet", "--target", TARGET, "--manifest-path"])
        .arg(folder.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&built)
        .env("RUSTFLAGS", COVERAGE))?;
    let mut targets = 0;
    for name in names(&folder.join("src/bin"))? {
        if filter.is_none_or(|filter| name.contains(filter)) {
            say(&format!("fuzzing {name} for {seconds} s"));
            fuzz(&folder, &built, &name, seconds, search)?;
            targets += 1;
        }
    }
    Ok(targets)
}

fn fuzz(
    folder: &Path,
    built: &Path,
    name: &str,
    seconds: u32,
    search: Search,
) -> anyhow::Result<()> {
    // Zero is libFuzzer's word for a seed of its own choice.
    let seed = match search {
        Search::Exploring => 0,
        Search::Repeatable => 1,
    };
    let corpus = built.join("corpus").join(name);
    let crashes = built.join("crashes").join(name);
    for dir in [&corpus, &crashes] {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    run(Command::new(built.join(TARGET).join("debug").join(name))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-seed={seed}"))
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .args(["-timeout=10", "-rss_limit_mb=2048", "-verbosity=0"])
        .arg(&corpus)
        .arg(folder.join("seeds").join(name)))
    .with_context(|| format!("an input made {name} fail; it is in {}", crashes.display()))
}

/// Target names, sorted.
fn names(bins: &Path) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(bins).with_context(|| format!("cannot read {}", bins.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}
