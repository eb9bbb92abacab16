//! `tidegate plugin list`

use super::table::Table;
use crate::control::view::View;

pub(super) fn render(view: &View) -> String {
    let header = [
        "NAME", "VERSION", "WORLD", "STATE", "CALLS", "FAILURES", "US/CALL", "DIGEST", "SOURCE",
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
            p.state.clone(),
            calls.to_string(),
            failures.to_string(),
            mean.unwrap_or_default(),
            p.digest.chars().take("sha256:".len() + 12).collect(),
            p.source.clone(),
            p.reason.clone().unwrap_or_default(),
        ]);
    }
    table.or_if_empty("No plugins.")
}
