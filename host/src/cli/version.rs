//! `tidegate version`: what this binary is, and what it wants of the node.

use std::process::ExitCode;

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_agent::kernel_features;
use tidegate_api::client::ClientError;
use tidegate_contract::PROTOCOL_VERSION;
use tidegate_ebpf_shared::LAYOUT_VERSION;

use super::{
    ask::{Output, print_json, print_text},
    table::Table,
};

/// Arguments of `version`.
#[derive(Debug, Args)]
pub(super) struct Version {}

/// Facts that do not depend on where or when it was built.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facts {
    version: String,
    /// Of the kernel's tables: another one starts with empty tables.
    table_layout: u32,
    /// Of the interface plugins are written for.
    plugin_contract: String,
    /// Of what agent and proxy say to each other.
    proxy_protocol: u32,
    /// What it wants of this node's kernel.
    kernel: Vec<Feature>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Feature {
    name: String,
    present: bool,
    needed_for: String,
}

pub(super) fn run(_: &Version, output: Output) -> Result<ExitCode, ClientError> {
    let kernel = kernel_features().into_iter().map(|feature| Feature {
        name: feature.name.to_owned(),
        present: feature.present,
        needed_for: feature.needed_for.to_owned(),
    });
    let facts = Facts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        table_layout: LAYOUT_VERSION,
        plugin_contract: tidegate_plugin_host::CONTRACT_VERSIONS.join(", "),
        proxy_protocol: PROTOCOL_VERSION,
        kernel: kernel.collect(),
    };
    match output {
        Output::Json => print_json(&facts)?,
        Output::Table => print_text(&render(&facts))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn render(facts: &Facts) -> String {
    let mut table = Table::new(&["KERNEL FEATURE", "HERE", "NEEDED FOR"]);
    for feature in &facts.kernel {
        let here = if feature.present { "yes" } else { "no" };
        table.row([
            feature.name.clone(),
            here.to_owned(),
            feature.needed_for.clone(),
        ]);
    }
    format!(
        "tidegate {}\ntable layout {}, plugin contract {}, proxy protocol {}\n\n{}",
        facts.version,
        facts.table_layout,
        facts.plugin_contract,
        facts.proxy_protocol,
        table.text()
    )
}
