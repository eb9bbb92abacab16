//! `test`: every test there is, and one line of counts at the end.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::Context;

use crate::{
    build, check, fuzz,
    process::{cargo, describe, run, say},
    setup,
};

/// Seconds per fuzz target: enough to run what earlier runs found, and a little more.
const FUZZ_SECONDS: u32 = 5;

/// Where the property tests start: the same inputs each time, so that whether a change passes
/// says something of the change. `cargo test` by itself explores.
const SEED: (&str, &str) = ("PROPTEST_RNG_SEED", "1");

/// Outcome of test binaries, summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// Runs all tests whose name contains `filter`.
///
/// # Errors
///
/// If something could not be built, or a test failed.
pub(crate) fn all(filter: Option<&str>) -> anyhow::Result<()> {
    setup::lab()?;
    build::artifacts()?;
    // The binary under test comes out of the same build as the tests. Built by itself
    // first, it would have other features of its dependencies, and all of them would be
    // compiled twice.
    run(cargo().args(["test", "--workspace", "--quiet", "--no-run"]))?;
    let mut command = cargo();
    command
        .args(["test", "--workspace", "--no-fail-fast", "--quiet", "--"])
        .args(filter)
        .env(SEED.0, SEED.1)
        .stdout(Stdio::piped());
    say(&describe(&command));
    let (mut counts, success) = counted(&mut command)?;
    if filter.is_none() {
        match fuzz::run_targets(None, FUZZ_SECONDS, fuzz::Search::Repeatable) {
            Ok(targets) => counts.passed += targets,
            Err(error) => {
                say(&format!("{error:#}"));
                counts.failed += 1;
            }
        }
    }
    // A developer asks for these when the change is ready: `cargo xtask check`.
    if filter.is_none() && std::env::var_os("CI").is_some() {
        match check::all() {
            Ok(()) => counts.passed += 1,
            Err(error) => {
                say(&format!("{error:#}"));
                counts.failed += 1;
            }
        }
    }
    println!("{} passed, {} failed", counts.passed, counts.failed);
    anyhow::ensure!(success && counts.failed == 0, "not every test passed");
    // On a developer's machine a test may be set aside for a while; here it may not.
    anyhow::ensure!(
        counts.ignored == 0 || std::env::var_os("CI").is_none(),
        "{} tests were skipped, which CI does not accept",
        counts.ignored
    );
    Ok(())
}

/// Runs a command, shows its output as it comes, and sums up the result lines.
fn counted(command: &mut Command) -> anyhow::Result<(Counts, bool)> {
    let mut child = command.spawn().context("cannot start cargo")?;
    let stdout = child
        .stdout
        .take()
        .context("cargo has no standard output")?;
    let mut counts = Counts::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        counts.add(&line);
        println!("{line}");
    }
    Ok((counts, child.wait()?.success()))
}

impl Counts {
    /// Takes in one line; only libtest's result lines count.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        let number_before = |word: &str| {
            let (before, _) = result.split_once(word)?;
            before.rsplit(' ').next()?.parse::<u64>().ok()
        };
        self.passed += number_before(" passed").unwrap_or(0);
        self.failed += number_before(" failed").unwrap_or(0);
        self.ignored += number_before(" ignored").unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn result_lines_are_summed_and_others_ignored() {
        let mut counts = Counts::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",
            "test result: FAILED. 12 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
            "5 passed, 5 failed",
        ] {
            counts.add(line);
        }
        assert_eq!(
            counts,
            Counts {
                passed: 15,
                failed: 2,
                ignored: 1,
            }
        );
    }
}
