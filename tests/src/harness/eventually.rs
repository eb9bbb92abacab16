//! Waiting for something to become true, with an end.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use anyhow::bail;

/// How long [`eventually`] waits. Generous: a busy machine is no failure.
const PATIENCE: Duration = Duration::from_secs(15);

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Repeats `attempt` until it succeeds; its last error is the answer after 15 s.
///
/// # Errors
///
/// The last error of `attempt`, with what was awaited.
pub fn eventually<T>(what: &str, attempt: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    within(PATIENCE, what, attempt)
}

/// As [`eventually`], with a limit of one's own.
///
/// # Errors
///
/// The last error of `attempt`, with what was awaited.
pub fn within<T>(
    limit: Duration,
    what: impl Display,
    mut attempt: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= limit => {
                bail!("not within {limit:?}: {what}: {error:#}")
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
