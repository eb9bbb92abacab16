//! The start of the proxy process.

use std::{io, os::fd::OwnedFd};

use anyhow::Context as _;
use clap::Args;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::socket::{Backlog, listen},
    unistd::{Gid, Uid},
};

use super::{
    control::{Control, Loader},
    heap,
    places::Resources,
    privileges,
};

/// Agents that may wait to be heard.
const AGENTS: i32 = 8;

/// Arguments of `tidegate proxy`, which the agent runs. The socket to listen on for
/// agents is standard input.
#[derive(Clone, Debug, Args)]
pub struct ProxyArgs {
    /// User to become.
    #[arg(long)]
    pub uid: u32,
    /// Group to become.
    #[arg(long)]
    pub gid: u32,
    /// Connections each CPU serves at once, if there are descriptors for so many.
    #[arg(long, default_value_t = 8_192)]
    pub connections_per_cpu: u32,
    /// Memory of each CPU for bytes on their way, MiB.
    #[arg(long, default_value_t = 64)]
    pub memory_per_cpu_mib: u32,
    /// Longest header list of HTTP/2 either way, bytes as RFC 9113 counts.
    #[arg(long, default_value_t = 65_536)]
    pub http2_header_list_bytes: u32,
    /// Memory of all dropped-in plugins together.
    #[arg(long, default_value_t = tidegate_plugin_host::USUAL_MEMORY)]
    pub plugin_memory_bytes: u64,
    /// Write the log as JSON.
    #[arg(long)]
    pub log_json: bool,
    /// What to log, as in `log.level` of the configuration.
    #[arg(long, default_value = "info")]
    pub log_level: String,
}

/// Runs the proxy until an agent asks it to end. `loader` runs without privileges.
///
/// # Errors
///
/// If it cannot give up its powers, or the socket fails.
pub fn run<L: Loader>(
    args: &ProxyArgs,
    loader: impl FnOnce() -> anyhow::Result<L>,
) -> anyhow::Result<()> {
    let (uid, gid) = (Uid::from_raw(args.uid), Gid::from_raw(args.gid));
    let listening = listening_socket().context("standard input is no listening socket")?;
    heap::configure();
    let descriptors = privileges::drop_all_but_network(uid, gid)?;
    tidegate_lifecycle::log::start(args.log_json, &args.log_level)?;
    let resources = Resources {
        descriptors,
        connections_per_cpu: args.connections_per_cpu,
        memory_per_cpu_mib: args.memory_per_cpu_mib,
        header_list: args.http2_header_list_bytes,
    };
    let control = Control::new(loader()?, resources);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime
        .block_on(control.run(listening))
        .context("the socket for agents failed")
}

/// The socket at standard input, under another number, so that nothing that reads
/// standard input ever meets it.
fn listening_socket() -> io::Result<OwnedFd> {
    let socket = nix::unistd::dup(io::stdin())?;
    fcntl(&socket, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    // From now on agents that connect see this process behind it (`SO_PEERCRED`), and not
    // the one that made it.
    listen(&socket, Backlog::new(AGENTS)?)?;
    Ok(socket)
}
