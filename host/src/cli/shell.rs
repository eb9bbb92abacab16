//! `tidegate completion SHELL` and `tidegate man FOLDER`: what a package installs besides
//! the binary, made from the commands themselves.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;

/// Arguments of `completion`.
#[derive(Debug, Args)]
pub(super) struct Completion {
    /// Shell to complete for
    shell: Shell,
}

impl Completion {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut text = Vec::new();
        clap_complete::generate(
            self.shell,
            &mut visible(&Cli::command()),
            "tidegate",
            &mut text,
        );
        std::io::stdout().lock().write_all(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(super) struct Man {
    /// Folder for the pages, one for each command
    folder: PathBuf,
}

impl Man {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        std::fs::create_dir_all(&self.folder)?;
        clap_mangen::generate_to(visible(&Cli::command()), &self.folder)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The command without those that the agent runs itself: completion scripts would offer
/// them, hidden or not. Clap wants names that live as long as the process, which ends with
/// the answer.
fn visible(command: &Command) -> Command {
    let mut copy = Command::new(&*command.get_name().to_owned().leak())
        .args(command.get_arguments().cloned())
        .subcommands(
            command
                .get_subcommands()
                .filter(|below| !below.is_hide_set())
                .map(visible),
        )
        .subcommand_required(command.is_subcommand_required_set());
    if let Some(about) = command.get_about() {
        copy = copy.about(about.clone());
    }
    if let Some(about) = command.get_long_about() {
        copy = copy.long_about(about.clone());
    }
    if let Some(version) = command.get_version() {
        copy = copy.version(&*version.to_owned().leak());
    }
    copy
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn what_the_agent_runs_itself_is_not_offered() {
        for shell in Shell::value_variants() {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut visible(&Cli::command()), "tidegate", &mut text);
            let text = String::from_utf8(text).expect("text");
            for word in ["explain", "observe", "verdict"] {
                assert!(text.contains(word), "{shell}: no {word}");
            }
            for hidden in ["compile-plugin", "proxy"] {
                let found = text.lines().find(|line| {
                    let mut words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
                    words.any(|word| word == hidden)
                });
                // Help texts speak of the proxy; no command of that name is offered.
                let found =
                    found.filter(|line| hidden != "proxy" || line.contains("subcmd__proxy"));
                assert_eq!(found, None, "{shell}");
            }
        }
    }

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().expect("folder");
        let man = Man {
            folder: folder.path().join("man1"),
        };
        man.run().expect("pages");
        let page = |name: &str| {
            std::fs::read_to_string(folder.path().join("man1").join(name)).unwrap_or_default()
        };
        assert!(page("tidegate.1").contains("datapath host"));
        assert!(page("tidegate-explain.1").contains("Who connects"));
        assert!(page("tidegate-config-check.1").contains("Exit code"));
        assert_eq!(page("tidegate-proxy.1"), "");
    }
}
