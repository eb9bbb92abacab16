//! `tidegate plugin list [--bindings]`, and what authors do.

use clap::Subcommand;
use tidegate_control::view::View;

use super::table::Table;

/// What can be done with plugins.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List them
    List {
        /// A row for each place where one is used, with what became of its configuration
        #[arg(long)]
        bindings: bool,
    },
    #[command(flatten)]
    Author(super::author::Command),
}

pub(super) fn render_bindings(view: &View) -> String {
    let header = [
        "BINDING",
        "PLUGIN",
        "VERSION",
        "STATE",
        "CALLS",
        "FAILURES",
        "HELD BACK",
        "FILE",
        "REASON",
    ];
    let mut table = Table::new(&header);
    for b in &view.bindings {
        table.row([
            b.binding.clone(),
            b.plugin.clone(),
            b.version.clone(),
            b.state.to_string(),
            b.calls.to_string(),
            b.failures.to_string(),
            b.held_back.to_string(),
            b.file.clone(),
            b.reason.clone().unwrap_or_default(),
        ]);
    }
    table.or_if_empty("No plugin is used.")
}

pub(super) fn render(view: &View) -> String {
    let header = [
        "NAME",
        "VERSION",
        "WORLD",
        "STATE",
        "CALLS",
        "FAILURES",
        "US/CALL",
        "DIGEST",
        "SIGNED BY",
        "SOURCE",
        "REASON",
    ];
    let mut table = Table::new(&header);
    for p in &view.plugins {
        let stats = view.proxy.stats.plugins.get(&p.name);
        let calls = stats.map_or(0, |s| s.calls);
        let failures = stats.map_or(0, |s| s.traps + s.deadlines + s.out_of_memory);
        let mean = stats.and_then(|s| {
            let ns = s.durations.sum_ns.checked_div(s.durations.count())?;
            Some(format!("{}.{}", ns / 1_000, ns / 100 % 10))
        });
        table.row([
            p.name.clone(),
            p.version.clone(),
            p.world.clone(),
            p.state.to_string(),
            calls.to_string(),
            failures.to_string(),
            mean.unwrap_or_default(),
            p.digest.chars().take("sha256:".len() + 12).collect(),
            p.signed_by.clone().unwrap_or_default(),
            p.source.clone(),
            p.reason.clone().unwrap_or_default(),
        ]);
    }
    table.or_if_empty("No plugins.")
}
