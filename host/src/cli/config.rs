//! `tidegate config check|effective|schema`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use super::status;
use crate::{agent, config};

/// What to do with the file.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say whether it and the files in its folders can be used, plugins included; names
    /// file, line, key and a way out if not. Nothing is changed, and no agent is needed.
    Check(File),
    /// Print it with every default filled in.
    Effective(File),
    /// Print the JSON Schema of the file, for editors.
    Schema,
}

/// The file.
#[derive(Debug, Args)]
pub(super) struct File {
    /// Configuration file.
    #[arg(short, long, default_value = "/etc/tidegate/tidegate.yaml")]
    config: PathBuf,
}

impl Command {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Check(file) => return check(&file),
            Self::Effective(file) => {
                print!("{}", serde_saphyr::to_string(&config::load(&file.config)?)?);
            }
            Self::Schema => println!("{:#}", config::schema()),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn check(file: &File) -> anyhow::Result<ExitCode> {
    let view = agent::check(&config::load(&file.config)?)?;
    for what in status::wrong(&view) {
        println!("{what}");
    }
    let refused = view.plugins.iter().any(|plugin| plugin.reason.is_some());
    if refused || view.problems.iter().any(|p| p.severity == "error") {
        return Ok(ExitCode::FAILURE);
    }
    println!(
        "{}: ok (endpoints {}, policies {}, services {}, plugins {})",
        file.config.display(),
        view.endpoints.len(),
        view.policies.len(),
        view.services.len(),
        view.plugins.len(),
    );
    Ok(ExitCode::SUCCESS)
}
