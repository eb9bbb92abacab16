//! Noun and verb commands; everything they do, a script can do through the local
//! API. One file per noun. No logic here: arguments in, a room called, text out.

mod ask;
mod author;
mod config;
mod endpoint;
mod explain;
mod fqdn;
mod identity;
mod observe;
mod plugin;
mod policy;
mod run;
#[cfg(test)]
mod schema;
mod service;
mod shell;
mod status;
mod table;
mod version;
mod when;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nix::sys::signal::{SigHandler, Signal, signal};

/// A WASM-plugin-extensible datapath host: policy, load balancing and L7 filtering
/// for the workloads of a Linux node.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    options: ask::ClientOptions,
}

// Parsed once: its size does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent in the foreground.
    Run(run::Run),
    /// Remove everything the agent left behind: programs, tables, routes, the proxy.
    Cleanup(run::Cleanup),
    /// Look at a configuration file without running anything.
    #[command(subcommand)]
    Config(config::Command),
    /// What this binary is, and what it wants of this node's kernel.
    Version(version::Version),
    /// Print a completion script for a shell.
    Completion(shell::Completion),
    /// Write the manual pages into a folder.
    Man(shell::Man),
    /// The proxy process; the agent runs it.
    #[command(hide = true)]
    Proxy(tidegate_proxy::ProxyArgs),
    /// Compiles one plugin, confined; the agent runs it.
    #[command(hide = true)]
    CompilePlugin,
    #[command(flatten)]
    Ask(ask::ClientCommand),
}

/// The exit code for a failure: 2 if the question itself was wrong, as for arguments that
/// cannot be parsed, else 1.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref() {
        Some(tidegate_api::client::ClientError::Refused { status, .. })
            if status.is_client_error() =>
        {
            ExitCode::from(2)
        }
        _ => ExitCode::FAILURE,
    }
}

impl Cli {
    /// Does what was asked. The exit code is 0, or 1 where a command answers "no".
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let talks = matches!(
            self.command,
            Command::Ask(ask::ClientCommand::Plugin(plugin::Verb::Author(_)))
        );
        let prints = matches!(
            self.command,
            Command::Ask(_) | Command::Version(_) | Command::Completion(_)
        );
        if prints && !talks {
            end_with_the_reader();
        }
        match self.command {
            Command::Run(args) => args.run(),
            Command::Cleanup(args) => args.run(),
            Command::Config(command) => command.run(self.options.output),
            Command::Version(args) => Ok(version::run(&args, self.options.output)?),
            Command::Completion(args) => args.run(),
            Command::Man(args) => args.run(),
            Command::Proxy(args) => {
                let memory = args.plugin_memory_bytes;
                tidegate_proxy::run(&args, || {
                    tidegate_proxy::plugins::CatalogLoader::new(memory)
                })?;
                Ok(ExitCode::SUCCESS)
            }
            Command::CompilePlugin => {
                tidegate_plugin_host::compile::run()?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Ask(ask::ClientCommand::Plugin(plugin::Verb::Author(command))) => {
                command.run(self.options.output)
            }
            Command::Ask(command) => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(ask::run(command, self.options))?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// From now on a command whose reader has gone (`… | head`) ends quietly, as people expect
/// of a filter: Rust programs start with SIGPIPE ignored, and printing would panic. Not
/// for what still has to talk with a process of its own.
fn end_with_the_reader() {
    // SAFETY: the default action runs no code of ours.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}
