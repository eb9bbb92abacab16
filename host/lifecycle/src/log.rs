//! The agent's own log, on stderr: a story a person can follow, or JSON for programs.

use anyhow::Context as _;
use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging, as JSON or as text. `RUST_LOG` overrides `level`, a filter
/// directive such as `info,tidegate_control=debug`.
pub fn start(json: bool, level: &str) -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(wanted) => EnvFilter::try_new(&wanted).with_context(|| format!("RUST_LOG={wanted}"))?,
        Err(_) => EnvFilter::try_new(level).with_context(|| format!("log level {level}"))?,
    };
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // The proxy outlives whoever reads its log: a closed pipe is not worth a panic.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_target(false).try_init()
    }
    .map_err(|error| anyhow::anyhow!("start logging: {error}"))
}
