//! Commands that ask a running agent. They hold no logic: everything they do, a
//! script can do through the local API (`admin`); `--output json` prints its answer.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use tidegate_api::client::{Client, ClientError};
use tidegate_control::view::View;

use super::{endpoint, explain, fqdn, identity, observe, plugin, policy, service, status};

/// Commands that ask a running agent.
#[derive(Debug, Subcommand)]
pub(super) enum ClientCommand {
    /// How the node is: generation, proxy, problems in files, tables, drops
    Status,
    /// Flows as they are decided, with the rule that decided them
    Observe(observe::Observe),
    /// Endpoints: what policy applies to
    #[command(subcommand)]
    Endpoint(ListVerb),
    /// Security identities and their labels
    #[command(subcommand)]
    Identity(ListVerb),
    /// Services and their backends
    #[command(subcommand)]
    Service(ListVerb),
    /// Policies in use and what they select
    #[command(subcommand)]
    Policy(ListVerb),
    /// Plugins: their state and cost; and what their authors need
    #[command(subcommand)]
    Plugin(plugin::Verb),
    /// Names learned through the DNS proxy
    #[command(subcommand)]
    Fqdn(ListVerb),
    /// Why a connection is, or would be, allowed or dropped: asked of the kernel's own tables
    Explain(explain::Explain),
}

/// What can be done with a noun.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(super) enum ListVerb {
    /// List them
    List,
}

/// Options of every command that asks a running agent.
#[derive(Clone, Debug, Args)]
pub(super) struct ClientOptions {
    /// Socket of the agent
    #[arg(
        long,
        global = true,
        env = "TIDEGATE_SOCKET",
        default_value = "/run/tidegate/agent.sock",
        value_name = "PATH"
    )]
    pub(super) socket: PathBuf,
    /// Table for people, JSON for programs
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(super) output: Output,
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

/// Runs a command against the agent's socket and prints the answer.
pub(super) async fn run(command: ClientCommand, options: ClientOptions) -> Result<(), ClientError> {
    let client = Client::new(options.socket);
    let output = options.output;
    match command {
        ClientCommand::Observe(args) => observe::run(args, &client, output).await,
        ClientCommand::Explain(args) => explain::run(args, &client, output).await,
        ClientCommand::Fqdn(ListVerb::List) => fqdn::list(&client, output).await,
        ClientCommand::Status => show(&client, output, |v| v, status::render).await,
        ClientCommand::Endpoint(ListVerb::List) => {
            show(&client, output, |v| &*v.endpoints, endpoint::render).await
        }
        ClientCommand::Identity(ListVerb::List) => {
            show(&client, output, |v| &v.identities, identity::render).await
        }
        ClientCommand::Service(ListVerb::List) => {
            show(&client, output, |v| &*v.services, service::render).await
        }
        ClientCommand::Policy(ListVerb::List) => {
            show(&client, output, |v| &*v.policies, policy::render).await
        }
        ClientCommand::Plugin(plugin::Verb::List { bindings: false }) => {
            show(&client, output, |v| &v.plugins, plugin::render).await
        }
        ClientCommand::Plugin(plugin::Verb::List { bindings: true }) => {
            show(&client, output, |v| &v.bindings, plugin::render_bindings).await
        }
        // Asks no agent: `Cli::run` has seen to it.
        ClientCommand::Plugin(plugin::Verb::Author(_)) => Ok(()),
    }
}

/// Prints one part of the view.
async fn show<T: serde::Serialize>(
    client: &Client,
    output: Output,
    part: fn(&View) -> &T,
    render: fn(&View) -> String,
) -> Result<(), ClientError> {
    let view: View = client.get("/v1/status").await?;
    match output {
        Output::Json => print_json(part(&view)),
        Output::Table => print_text(&render(&view)),
    }
}

pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), ClientError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| ClientError::Answer(format!("could not be printed: {e}")))?;
    print_text(&format!("{text}\n"))
}

/// A reader that went away (`| head`) is a normal end.
pub(super) fn print_text(text: &str) -> Result<(), ClientError> {
    use std::io::Write as _;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(ClientError::Output),
    }
}
