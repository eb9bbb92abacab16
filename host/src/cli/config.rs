//! `tidegate config check|effective|schema`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use crate::config;

/// What to do with the file.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say whether it can be used; names file, line, key and a way out if not.
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
            Self::Check(file) => {
                config::load(&file.config)?;
                println!("{}: ok", file.config.display());
            }
            Self::Effective(file) => {
                print!("{}", serde_saphyr::to_string(&config::load(&file.config)?)?);
            }
            Self::Schema => println!("{:#}", config::schema()),
        }
        Ok(ExitCode::SUCCESS)
    }
}
