//! The one door for all work on Tidegate. Reading order: [`workspace`] (where
//! things are), [`process`] (how commands are run), [`setup`] (what the machine
//! must have), [`bpf`] and [`wasm`] (what the host embeds), [`guests`] (what it is
//! tested with), [`build`], then one file per command.

mod bpf;
mod build;
mod check;
mod fresh;
mod fuzz;
mod guests;
mod lab;
mod process;
mod setup;
mod test;
mod wasm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, checks, tests and shows Tidegate.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install what the other commands need, and say what was done.
    Setup,
    /// Build the kernel programs, the plugins, and the `tidegate` binary that holds them.
    Build {
        /// Optimised, as for benches and packages.
        #[arg(long)]
        release: bool,
    },
    /// Formatting, lints, documentation, and the rules about which room may name which.
    Check,
    /// Every test there is; the last line says `N passed, N failed`.
    Test {
        /// Run only tests whose name contains this.
        filter: Option<String>,
    },
    /// A small world with real servers, real traffic and a real node, told as a story.
    Demo {
        /// Leave the lab up; `cargo xtask demo --stop` removes it.
        #[arg(long, conflicts_with = "stop")]
        keep: bool,
        /// Remove a lab that was left up.
        #[arg(long)]
        stop: bool,
    },
    /// Coverage-guided fuzzing of the pure rooms.
    Fuzz {
        /// Fuzz only targets whose name contains this.
        filter: Option<String>,
        /// How long, per target.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Measure, each figure as a ratio to its baseline in the same run.
    Bench {
        /// Run only benches whose name contains this.
        filter: Option<String>,
    },
}

fn main() -> ExitCode {
    match dispatch(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Setup => setup::everything().map(drop),
        Command::Build { release } => build::all(build::Profile::new(release)).map(drop),
        Command::Check => check::all(),
        Command::Test { filter } => test::all(filter.as_deref()),
        Command::Demo { keep, stop } => lab::demo(keep, stop),
        Command::Fuzz { filter, seconds } => {
            fuzz::run_targets(filter.as_deref(), seconds, fuzz::Search::Exploring).map(drop)
        }
        Command::Bench { filter } => lab::bench(filter.as_deref()),
    }
}
