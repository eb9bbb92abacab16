//! `tidegate run` and `tidegate cleanup`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use tidegate_config::LogFormat;
use tidegate_lifecycle::log;

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
        let config = tidegate_config::load(&self.config)?;
        log::start(config.log.format == LogFormat::Json, &config.log.level)?;
        let after = if self.teardown {
            tidegate_agent::After::Remove
        } else {
            tidegate_agent::After::Keep
        };
        tidegate_agent::run(config, after)?;
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
        let config = tidegate_config::load(&self.config)?;
        log::start(config.log.format == LogFormat::Json, &config.log.level)?;
        tidegate_agent::cleanup(&config)?;
        Ok(ExitCode::SUCCESS)
    }
}
