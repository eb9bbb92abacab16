//! `tidegate config check|effective|schema`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand, builder::PossibleValuesParser};
use tidegate_policy::KINDS;

use super::{ask::Output, end_with_the_reader, status};
use crate::{agent, config};

/// What to do with the file.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say whether it and the files in its folders can be used, plugins included; names
    /// file, line, key and a way out if not. Nothing is changed, and no agent is needed.
    /// Exit code: 0 if all can be used (warnings do not count), 1 if not.
    Check(File),
    /// Print it with every default filled in.
    Effective(File),
    /// Print the JSON Schema of the file, or of a kind of document, for editors.
    Schema {
        /// Kind of the document; without it, the configuration file's own.
        #[arg(value_parser = PossibleValuesParser::new(KINDS))]
        kind: Option<String>,
    },
}

/// The file.
#[derive(Debug, Args)]
pub(super) struct File {
    /// Configuration file.
    #[arg(short, long, default_value = "/etc/tidegate/tidegate.yaml")]
    config: PathBuf,
}

impl Command {
    pub(super) fn run(self, output: Output) -> anyhow::Result<ExitCode> {
        match self {
            Self::Check(file) => return check(&file, output),
            Self::Effective(file) => {
                end_with_the_reader();
                print!("{}", serde_saphyr::to_string(&config::load(&file.config)?)?);
            }
            Self::Schema { kind } => {
                end_with_the_reader();
                // Other kinds are no possible values.
                let of_kind = kind.and_then(|kind| tidegate_policy::schema(&kind));
                println!("{:#}", of_kind.unwrap_or_else(config::schema));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn check(file: &File, output: Output) -> anyhow::Result<ExitCode> {
    let view = agent::check(&config::load(&file.config)?)?;
    end_with_the_reader();
    let refused = view.plugins.iter().any(|plugin| plugin.reason.is_some());
    let ok = !refused && view.problems.iter().all(|p| p.severity != "error");
    match output {
        Output::Json => println!(
            "{:#}",
            serde_json::json!({
                "ok": ok,
                "problems": view.problems,
                "plugins": view.plugins,
                "endpoints": view.endpoints.len(),
                "policies": view.policies.len(),
                "services": view.services.len(),
            })
        ),
        Output::Table => {
            for what in status::wrong(&view) {
                println!("{what}");
            }
            if ok {
                println!(
                    "{}: ok (endpoints {}, policies {}, services {}, plugins {})",
                    file.config.display(),
                    view.endpoints.len(),
                    view.policies.len(),
                    view.services.len(),
                    view.plugins.len(),
                );
            }
        }
    }
    Ok(if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
