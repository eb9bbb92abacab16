//! `tidegate completion SHELL` and `tidegate man FOLDER`: what a package installs besides
//! the binary, made from the commands themselves.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

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
        let mut command = visible(&Cli::command()).disable_help_subcommand(true);
        command.build();
        write_pages(&command, &self.folder)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What holds for every command, behind what is particular to one (man-pages(7)).
const EVERY_PAGE: &str = r#".SH "EXIT STATUS"
.TP
.B 0
It was done; a question was answered, whatever the answer.
.TP
.B 1
It failed; for tidegate config check also: something is wrong.
.TP
.B 2
The command line is wrong, or it asks for what there is not.
.SH ENVIRONMENT
.TP
.B TIDEGATE_SOCKET
Socket of the agent, where \-\-socket does not say.
.TP
.B RUST_LOG
What is logged, where it is set: it comes before log.level of the configuration.
.SH "SEE ALSO"
.BR tidegate (1)
"#;

fn write_pages(command: &Command, folder: &Path) -> std::io::Result<()> {
    for below in command.get_subcommands() {
        write_pages(below, folder)?;
    }
    let page = clap_mangen::Man::new(command.clone());
    let mut text = Vec::new();
    page.render(&mut text)?;
    text.extend(EVERY_PAGE.as_bytes());
    std::fs::write(folder.join(page.get_filename()), text)
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
        for name in [
            "tidegate.1",
            "tidegate-observe.1",
            "tidegate-config-check.1",
        ] {
            for section in ["EXIT STATUS", "ENVIRONMENT", "TIDEGATE_SOCKET"] {
                assert!(page(name).contains(section), "no {section} in {name}");
            }
        }
        assert!(
            page("tidegate.1").contains("tidegate\\-man(1)"),
            "{}",
            page("tidegate.1")
        );
    }
}
