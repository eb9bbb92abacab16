//! `tidegate run` and `tidegate cleanup`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use crate::{
    agent,
    config::{self, LogFormat},
    observe::log,
};

/// Arguments of `tidegate run`.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// Configuration file.
    #[arg(short, long, default_value = "/etc/tidegate/tidegate.yaml")]
    config: PathBuf,
    /// Remove programs, tables, routes and the proxy when it ends. Without this they
    /// stay, and traffic goes on as decided while no agent runs.
    #[arg(long)]
    teardown: bool,
}

impl Run {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = config::load(&self.config)?;
        log::start(config.log.format == LogFormat::Json, &config.log.level)?;
        let after = if self.teardown {
            agent::After::Remove
        } else {
            agent::After::Keep
        };
        agent::run(config, after)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `tidegate cleanup`.
#[derive(Debug, Args)]
pub(super) struct Cleanup {
    /// Configuration file.
    #[arg(short, long, default_value = "/etc/tidegate/tidegate.yaml")]
    config: PathBuf,
}

impl Cleanup {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = config::load(&self.config)?;
        log::start(config.log.format == LogFormat::Json, &config.log.level)?;
        agent::cleanup(&config)?;
        Ok(ExitCode::SUCCESS)
    }
}
