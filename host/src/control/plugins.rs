//! Plugins: which version of each is in use, and why the newest is not.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tidegate_policy::compiled::{Compiled, L7Protocol};

use super::{
    event::{Examination, Request},
    folder::PluginStamp,
    view::PluginView,
};
use crate::proxy::contract::{PluginInfo, World};

/// A plugin version that passed examination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// What the proxy must know of it.
    pub info: PluginInfo,
    /// Compiled code.
    pub artifact: PathBuf,
}

/// All plugins.
#[derive(Debug, Default)]
pub struct Plugins {
    built_in: BTreeMap<String, Candidate>,
    files: BTreeMap<PathBuf, File>,
}

/// A plugin file and what came of it.
#[derive(Debug, Default)]
struct File {
    /// Version on disk; `None` when the file is gone.
    stamp: Option<PluginStamp>,
    /// That version is still being examined.
    pending: bool,
    /// Version to publish.
    candidate: Option<Candidate>,
    /// Version of the last published generation.
    published: Option<Candidate>,
    /// Why the version on disk is not in use.
    reason: Option<String>,
}

impl Plugins {
    /// The built-in plugins, and what an earlier run published from which file: it
    /// stands in for a file that turns out to be broken.
    pub fn new(built_in: Vec<Candidate>, published: BTreeMap<PathBuf, Candidate>) -> Self {
        let files = published.into_iter().map(|(path, candidate)| {
            let file = File {
                candidate: Some(candidate.clone()),
                published: Some(candidate),
                ..File::default()
            };
            (path, file)
        });
        Self {
            built_in: built_in.into_iter().map(|c| (c.name.clone(), c)).collect(),
            files: files.collect(),
        }
    }

    /// Takes in which files there are; asks for the examination of new versions.
    pub fn update(&mut self, stamps: &BTreeMap<PathBuf, PluginStamp>) -> Vec<Request> {
        for (path, file) in &mut self.files {
            if !stamps.contains_key(path) {
                file.stamp = None;
                file.pending = false;
                file.candidate = None;
                file.reason = None;
            }
        }
        let mut requests = Vec::new();
        for (path, stamp) in stamps {
            let file = self.files.entry(path.clone()).or_default();
            if file.stamp != Some(*stamp) {
                file.stamp = Some(*stamp);
                file.pending = true;
                requests.push(Request::Examine(path.clone(), *stamp));
            }
        }
        requests
    }

    /// Takes in the outcome of an examination. An outcome for a version that is not
    /// on disk any more is of no interest.
    pub fn examined(&mut self, examination: Examination) {
        let Examination {
            path,
            stamp,
            outcome,
        } = examination;
        let outcome = outcome.and_then(|candidate| match self.owner(&candidate.name) {
            Some(owner) if owner != path => Err(format!(
                "the name `{}` is taken by {}",
                candidate.name,
                owner.display()
            )),
            _ => Ok(candidate),
        });
        let Some(file) = self
            .files
            .get_mut(&path)
            .filter(|file| file.stamp == Some(stamp))
        else {
            return;
        };
        file.pending = false;
        match outcome {
            Ok(candidate) => {
                file.candidate = Some(candidate);
                file.reason = None;
            }
            Err(reason) => file.reason = Some(reason),
        }
    }

    /// Is some version still being examined.
    pub fn pending(&self) -> bool {
        self.files.values().any(|file| file.pending)
    }

    /// What to publish: versions by name.
    pub fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        let files = self
            .files
            .values()
            .filter_map(|file| file.candidate.as_ref());
        self.built_in.values().chain(files)
    }

    /// Plugins a rule may name, and what they read. One whose file was removed counts
    /// as long as it is part of the published generation: the rules that name it stay
    /// in force, with their fail mode.
    pub fn known(&self) -> BTreeMap<String, L7Protocol> {
        let removed = self
            .files
            .values()
            .filter_map(|file| file.published.as_ref());
        removed
            .chain(self.candidates())
            .map(|candidate| (candidate.name.clone(), reads(candidate.info.world)))
            .collect()
    }

    /// The proxy refused a version: the one before stays in use.
    pub fn refused(&mut self, name: &str, reason: &str) {
        for file in self.files.values_mut() {
            if file
                .candidate
                .as_ref()
                .is_some_and(|candidate| candidate.name == name)
            {
                file.candidate = file
                    .published
                    .clone()
                    .filter(|before| Some(before) != file.candidate.as_ref());
                file.reason = Some(reason.to_owned());
            }
        }
    }

    /// A generation with these candidates is published. `compiled` tells which removed
    /// plugins are still named by a rule.
    pub fn commit(&mut self, compiled: &Compiled) {
        let named = named(compiled);
        for file in self.files.values_mut() {
            let gone = file.candidate.is_none();
            let wanted = file
                .published
                .as_ref()
                .is_some_and(|before| named.contains(before.name.as_str()));
            if !(gone && wanted) {
                file.published = file.candidate.clone();
            }
        }
        self.files
            .retain(|_, file| file.stamp.is_some() || file.published.is_some());
    }

    /// What is published from which file, to be kept for the next run.
    pub fn published(&self) -> BTreeMap<PathBuf, Candidate> {
        let published = self
            .files
            .iter()
            .filter_map(|(path, file)| Some((path.clone(), file.published.clone()?)));
        published.collect()
    }

    /// What readers see.
    pub fn view(&self, compiled: &Compiled) -> Vec<PluginView> {
        let named = named(compiled);
        let built_in = self
            .built_in
            .values()
            .map(|c| row(Some(c), "built-in", &named, None));
        let files = self.files.iter().map(|(path, file)| {
            let source = path.display().to_string();
            let in_use = file.candidate.as_ref();
            let mut row = row(in_use, &source, &named, file.reason.clone());
            if in_use.is_none() {
                row.name = file
                    .published
                    .as_ref()
                    .map_or_else(|| stem(path), |before| before.name.clone());
                row.state = match (&file.stamp, file.pending) {
                    (None, _) => "removed",
                    (Some(_), true) => "compiling",
                    (Some(_), false) => "refused",
                }
                .to_owned();
            }
            row
        });
        built_in.chain(files).collect()
    }

    fn owner(&self, name: &str) -> Option<PathBuf> {
        if self.built_in.contains_key(name) {
            return Some("the built-in plugin".into());
        }
        let owner = self.files.iter().find(|(_, file)| {
            file.stamp.is_some()
                && file
                    .candidate
                    .as_ref()
                    .is_some_and(|candidate| candidate.name == name)
        });
        owner.map(|(path, _)| path.clone())
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
        state: if named.contains(name.as_str()) {
            "active"
        } else {
            "idle"
        }
        .to_owned(),
        name,
        version: version.map(|v| v.info.version.clone()).unwrap_or_default(),
        world: version
            .map(|v| world(v.info.world).to_owned())
            .unwrap_or_default(),
        digest: version.map(|v| v.info.digest.clone()).unwrap_or_default(),
        source: source.to_owned(),
        reason,
        capabilities: version
            .map(|v| v.info.capabilities.clone())
            .unwrap_or_default(),
    }
}

/// Names of the plugins that some rule uses.
fn named(compiled: &Compiled) -> BTreeSet<&str> {
    let chains = compiled.l7.values().flat_map(|set| &set.chain);
    chains.map(|used| used.plugin.as_str()).collect()
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn reads(world: World) -> L7Protocol {
    match world {
        World::HttpFilter => L7Protocol::Http,
        World::DnsFilter => L7Protocol::Dns,
    }
}

fn world(world: World) -> &'static str {
    match world {
        World::HttpFilter => "http-filter",
        World::DnsFilter => "dns-filter",
    }
}
