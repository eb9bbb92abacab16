//! `tidegate config check|effective|schema`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand, builder::PossibleValuesParser};
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_config::{ConfigError, Looked};
use tidegate_control::{
    standing::EndpointState,
    view::{Note, PluginView, ProblemView, View},
};
use tidegate_policy::KINDS;

use super::{ask::Output, end_with_the_reader, status};

/// What to do with the file.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say whether it and the files in its folders can be used, plugins included; names
    /// file, line, key and a way out if not. Nothing is changed, and no agent is needed.
    /// Exit code: 0 if all can be used (warnings do not count), 1 if not.
    Check(File),
    /// Print it with every default filled in: as YAML, or with `-o json` as JSON.
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
                print!(
                    "{}",
                    effective(&tidegate_config::load(&file.config)?, output)?
                );
            }
            Self::Schema { kind } => {
                end_with_the_reader();
                // Other kinds are no possible values.
                let of_kind = kind.and_then(|kind| tidegate_policy::schema(&kind));
                println!("{:#}", of_kind.unwrap_or_else(tidegate_config::schema));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The whole configuration; in either form it is a configuration file again.
fn effective(config: &tidegate_config::Config, output: Output) -> anyhow::Result<String> {
    Ok(match output {
        Output::Table => serde_saphyr::to_string(config)?,
        Output::Json => serde_json::to_string_pretty(config)? + "\n",
    })
}

/// The configuration file itself cannot be used.
fn of_the_file(file: &File, error: &ConfigError) -> Vec<ProblemView> {
    let whole = || ProblemView {
        file: file.config.display().to_string(),
        severity: "error".to_owned(),
        ..ProblemView::default()
    };
    // No file has so many lines.
    let place = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    match error {
        ConfigError::Invalid(complaints) => {
            let problem = |complaint: &tidegate_config::Complaint| ProblemView {
                line: place(complaint.line),
                column: place(complaint.column),
                message: complaint.said(),
                ..whole()
            };
            complaints.iter().map(problem).collect()
        }
        ConfigError::Unreadable { source, .. } => vec![ProblemView {
            message: format!("{error}: {source}"),
            ..whole()
        }],
    }
}

/// What `config check` found.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Checked {
    /// Can everything be used? Warnings do not count.
    ok: bool,
    /// What is wrong, and what does nothing.
    problems: Vec<ProblemView>,
    /// What of this node may stand in the way.
    notes: Vec<Note>,
    /// The plugins, with the reason if one cannot be used.
    plugins: Vec<PluginView>,
    /// Endpoints declared.
    endpoints: usize,
    /// Policies in use.
    policies: usize,
    /// Service ports.
    services: usize,
}

fn check(file: &File, output: Output) -> anyhow::Result<ExitCode> {
    let Looked { config, error } = tidegate_config::look(&file.config);
    let of_the_file: Vec<ProblemView> = error
        .iter()
        .flat_map(|error| of_the_file(file, error))
        .collect();
    // A mistake there hides nothing of what is in the folders, if it is known which they are.
    let is_known = error.as_ref().is_none_or(ConfigError::spares_folders);
    let view = match (config.filter(|_| is_known), error) {
        (Some(config), _) => View::clone(&*tidegate_agent::check(&config)?),
        (None, Some(error)) if output == Output::Table => return Err(error.into()),
        (None, _) => View::default(),
    };
    let view = View {
        problems: of_the_file.into_iter().chain(view.problems).collect(),
        ..view
    };
    end_with_the_reader();
    let refused = view.plugins.iter().any(|plugin| plugin.reason.is_some());
    let ok = !refused && view.problems.iter().all(|p| p.severity != "error");
    match output {
        Output::Json => println!(
            "{:#}",
            serde_json::to_value(Checked {
                ok,
                problems: view.problems.clone(),
                notes: view.datapath.notes.clone(),
                plugins: view.plugins.clone(),
                endpoints: view.endpoints.len(),
                policies: view.policies.len(),
                services: view.services.len(),
            })?
        ),
        Output::Table => {
            for what in status::wrong(&view) {
                println!("{what}");
            }
            // Of this node as it is now; the files may be meant for another one.
            for note in &view.datapath.notes {
                println!("note: {note}");
            }
            for endpoint in view
                .endpoints
                .iter()
                .filter(|e| e.state != EndpointState::Ready)
            {
                println!("note: endpoint {}: {}", endpoint.name, endpoint.state);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_configuration_is_one_in_either_form() {
        let folder = std::path::Path::new("/etc/tidegate");
        let text = "node: {outsideDevices: [eth0], cgroup: none}\nlimits: {flows: 7}\n";
        let config = tidegate_config::parse("t", text, folder).expect("valid");
        for output in [Output::Table, Output::Json] {
            let printed = effective(&config, output).expect("printed");
            let again = tidegate_config::parse("t", &printed, folder).expect(&printed);
            assert_eq!(again, config, "{printed}");
            let is_json = serde_json::from_str::<serde_json::Value>(&printed).is_ok();
            assert_eq!(is_json, output == Output::Json, "{printed}");
        }
    }
}
