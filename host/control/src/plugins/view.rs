//! Plugins as readers see them.

use std::collections::BTreeSet;

use tidegate_policy::compiled::Compiled;

use super::{Candidate, Plugins, named, printable, stem};
use crate::{standing::PluginState, view::PluginView};

impl Plugins {
    /// What readers see.
    pub fn view(&self, compiled: &Compiled) -> Vec<PluginView> {
        let named = named(compiled);
        let built_in = self
            .built_in
            .values()
            .map(|c| row(Some(c), "built-in", &named, None));
        let awaited = self.awaited.iter().map(|name| PluginView {
            name: name.clone(),
            state: PluginState::Compiling,
            ..row(
                None,
                "built-in",
                &named,
                Some(
                    "compiled for the first time; what its rules let pass is refused so long"
                        .into(),
                ),
            )
        });
        let files = self.files.iter().map(|(path, file)| {
            let source = printable(path);
            let in_use = file.candidate.as_ref();
            let mut row = row(in_use, &source, &named, file.reason.clone());
            if in_use.is_none() {
                row.name = file
                    .published
                    .as_ref()
                    .map_or_else(|| stem(path), |before| before.name.clone());
                row.state = match (&file.stamp, file.pending || file.retry.is_some()) {
                    (None, _) => PluginState::Removed,
                    (Some(_), true) => PluginState::Compiling,
                    (Some(_), false) => PluginState::Refused,
                };
            }
            row
        });
        built_in.chain(awaited).chain(files).collect()
    }
}

fn row(
    version: Option<&Candidate>,
    source: &str,
    named: &BTreeSet<&str>,
    reason: Option<String>,
) -> PluginView {
    let name = version.map(|v| v.name.clone()).unwrap_or_default();
    PluginView {
        state: match named.contains(name.as_str()) {
            true => PluginState::Active,
            false => PluginState::Idle,
        },
        name,
        version: version.map(|v| v.info.version.clone()).unwrap_or_default(),
        world: version
            .map(|v| v.info.world.name().to_owned())
            .unwrap_or_default(),
        digest: version.map(|v| v.info.digest.clone()).unwrap_or_default(),
        source: source.to_owned(),
        signed_by: version.and_then(|v| Some(v.signer.as_ref()?.name.clone())),
        reason,
        capabilities: version
            .map(|v| v.info.capabilities.clone())
            .unwrap_or_default(),
    }
}
