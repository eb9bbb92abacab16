//! `cargo xtask bench`: measures, and prints what `docs/benchmarks.md` shows.

use std::{env, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use tidegate_tests::bench::{connect, guests, http, kernel, neighbours, row::Row, scale, swap};

fn main() -> Result<()> {
    let filter = env::args().nth(1).unwrap_or_default();
    if filter == connect::CHILD {
        return connect::child();
    }
    let benches: [(&str, fn() -> Result<()>); 8] = [
        ("kernel", || {
            table("Packet programs (BPF_PROG_TEST_RUN)", &kernel::run()?)
        }),
        ("connect", || table("Service addresses", &connect::run()?)),
        ("plugin", plugin_calls),
        ("http", || {
            table("HTTP/1.1 through the proxy", &http::run()?)
        }),
        ("swap", swaps),
        ("neighbours", || {
            table("Neighbours in the proxy", &neighbours::run()?)
        }),
        ("guests", || {
            table("Tenants beside a stranger's plugin", &guests::run()?)
        }),
        ("scale", || {
            table("One change, by the size of the node", &scale::run()?)
        }),
    ];
    let mut measured = 0;
    for (name, bench) in benches {
        if name.contains(&filter) {
            bench()?;
            measured += 1;
        }
    }
    if measured == 0 {
        let names = benches.map(|(name, _)| name).join(", ");
        bail!("no bench is called {filter:?}; there are: {names}");
    }
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the last step of a bench")]
fn table(title: &str, rows: &[Row]) -> Result<()> {
    println!("\n### {title}\n");
    println!("| what | measured | baseline | ratio (median) | spread of rounds |");
    println!("| --- | ---: | ---: | ---: | --- |");
    for r in rows {
        println!(
            "| {} | {} | {} ({}) | {:.2} | {:.2}–{:.2} |",
            r.name,
            figure(r.value, r.unit),
            figure(r.baseline_value, r.unit),
            r.baseline,
            r.ratio,
            r.spread.0,
            r.spread.1
        );
    }
    Ok(())
}

fn figure(value: f64, unit: &str) -> String {
    let digits = if value >= 100.0 { 0 } else { 1 };
    format!("{value:.digits$} {unit}")
}

/// Measured inside the host, by an example of its crate.
fn plugin_calls() -> Result<()> {
    println!("\n### A plugin call: the built-in HTTP matcher against the same code, native\n");
    let bench = env::var_os("TIDEGATE_PLUGIN_BENCH").context("run this by `cargo xtask bench`")?;
    let binary = env::var_os("TIDEGATE_BIN").context("run this by `cargo xtask bench`")?;
    let status = Command::new(bench).arg(binary).status()?;
    ensure!(status.success(), "the plugin bench ended with {status}");
    Ok(())
}

fn swaps() -> Result<()> {
    let s = swap::run()?;
    println!("\n### Replacing a plugin under load (one keep-alive connection)\n");
    println!("| what | measured |");
    println!("| --- | ---: |");
    println!(
        "| file complete → first answer of a version never seen | {:.0} ms |",
        s.cold_ms
    );
    println!(
        "| … of a version compiled before: median (worst) | {:.0} ({:.0}) ms |",
        s.cached_ms, s.cached_worst_ms
    );
    println!(
        "| requests meanwhile / failed | {} / {} |",
        s.requests, s.failed
    );
    println!("| slowest request | {:.1} ms |", s.slowest_request_ms);
    Ok(())
}
