//! Arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser as _;
use tidegate::cli::{self, Cli};

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            // One readable chain; what was tried first, its cause after it.
            eprintln!("tidegate: {error:#}");
            cli::exit_code(&error)
        }
    }
}
