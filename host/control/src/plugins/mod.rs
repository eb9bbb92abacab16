//! Plugins: which version of each is in use, and why the newest is not.

mod examination;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tidegate_policy::compiled::{Compiled, L7Protocol, plugin_uses};
use tidegate_signatures::Trust;
use tidegate_sources::folder::PluginStamp;

pub use self::examination::{Candidate, Examination, Request};

/// All plugins.
#[derive(Debug, Default)]
pub struct Plugins {
    built_in: BTreeMap<String, Candidate>,
    /// Those that were asked for and are not there yet.
    awaited: BTreeSet<String>,
    files: BTreeMap<PathBuf, File>,
}

/// A plugin file and what came of it.
#[derive(Debug, Default)]
struct File {
    /// Version on disk; `None` when the file is gone.
    stamp: Option<PluginStamp>,
    /// It came from a folder that is not watched any more, and was not removed there.
    elsewhere: bool,
    /// That version is still being examined.
    pending: bool,
    /// Version to publish.
    candidate: Option<Candidate>,
    /// Version of the last published generation.
    published: Option<Candidate>,
    /// Passed, but another file has its name; it takes its place when that is free.
    waits: Option<Candidate>,
    /// When it is examined again, and how long it was waited for, if that failed.
    retry: Option<(Instant, Duration)>,
    /// Why the version on disk is not in use.
    reason: Option<String>,
}

impl File {
    /// Is its name that of what it has in the published generation?
    fn is_in_force(&self) -> bool {
        let name = |of: &Option<Candidate>| of.as_ref().map(|candidate| candidate.name.clone());
        self.published.is_some() && name(&self.published) == name(&self.candidate)
    }
}

fn taken(name: &str, owner: &Path) -> String {
    let owner = printable(owner);
    format!("the name `{name}` is taken by {owner}; it is used when that is removed")
}

/// Pauses before a file is examined again that could not be: first and longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(600));

impl Plugins {
    /// The built-in plugins, and what an earlier run published from which file: it
    /// stands in for a file that turns out to be broken, unless nobody whom the node believes
    /// signed it and somebody has to.
    pub fn new(
        built_in: Vec<Candidate>,
        published: BTreeMap<PathBuf, Candidate>,
        trust: &Trust,
    ) -> Self {
        let published = published.into_iter();
        let taken = published.filter(|(_, before)| trust.still_takes(before.signer.as_ref()));
        let files = taken.map(|(path, candidate)| {
            let file = File {
                candidate: Some(candidate.clone()),
                published: Some(candidate),
                ..File::default()
            };
            (path, file)
        });
        Self {
            built_in: built_in.into_iter().map(|c| (c.name.clone(), c)).collect(),
            awaited: BTreeSet::new(),
            files: files.collect(),
        }
    }

    /// A rule needs this plugin of the program's own.
    pub fn need(&mut self, name: &str) -> Option<Request> {
        let there = self.built_in.contains_key(name);
        let asked = !there && self.awaited.insert(name.to_owned());
        asked.then(|| Request::BuiltIn(name.to_owned()))
    }

    /// It was compiled, or could not be: then it is asked for again with the next change.
    pub fn has_come(&mut self, name: &str, candidate: Option<Candidate>) {
        self.awaited.remove(name);
        let candidate = candidate.map(|candidate| (name.to_owned(), candidate));
        self.built_in.extend(candidate);
    }

    /// Is a plugin of the program's own on its way?
    pub fn awaits(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// Takes in which files there are, and which are in use and in a folder that is not
    /// watched any more, `elsewhere`; asks for the examination of new versions.
    pub fn update(
        &mut self,
        stamps: &BTreeMap<PathBuf, PluginStamp>,
        elsewhere: &BTreeSet<PathBuf>,
    ) -> Vec<Request> {
        self.rename(stamps);
        for (path, file) in &mut self.files {
            file.elsewhere =
                elsewhere.contains(path) && !stamps.contains_key(path) && file.candidate.is_some();
            if file.elsewhere {
                file.reason = Some(
                    "`folders.plugins` in tidegate.yaml names another folder now; it stays in \
                     use: move its file there, or delete it to remove the plugin"
                        .to_owned(),
                );
            } else if !stamps.contains_key(path) {
                file.stamp = None;
                file.pending = false;
                file.candidate = None;
                file.waits = None;
                file.retry = None;
                file.reason = None;
            }
        }
        self.give_names();
        let mut requests = Vec::new();
        for (path, stamp) in stamps {
            let file = self.files.entry(path.clone()).or_default();
            if file.stamp != Some(*stamp) {
                file.stamp = Some(*stamp);
                file.pending = true;
                file.waits = None;
                file.retry = None;
                requests.push(Request::Examine(path.clone(), *stamp));
            }
        }
        requests
    }

    /// A file that only has another name now is in use as before.
    fn rename(&mut self, stamps: &BTreeMap<PathBuf, PluginStamp>) {
        for (path, stamp) in stamps {
            if self.files.contains_key(path) {
                continue;
            }
            let mut gone = self
                .files
                .iter()
                .filter(|(old, _)| !stamps.contains_key(*old));
            let former = gone.find(|(_, file)| {
                let before = file.stamp.as_ref();
                before.is_some_and(|before| before.is_same_module(stamp))
            });
            let former = former.map(|(old, _)| old.clone());
            if let Some(mut file) = former.and_then(|old| self.files.remove(&old)) {
                // The outcome will come under the former name.
                file.stamp = file.stamp.filter(|_| !file.pending);
                self.files.insert(path.clone(), file);
            }
        }
    }

    /// Takes in the outcome of an examination. An outcome for a version that is not
    /// on disk any more is of no interest.
    pub fn examined(&mut self, examination: Examination) {
        let Examination {
            path,
            stamp,
            outcome,
        } = examination;
        let Some(file) = self
            .files
            .get_mut(&path)
            .filter(|file| file.stamp == Some(stamp))
        else {
            return;
        };
        file.pending = false;
        file.retry = None;
        match outcome {
            Ok(candidate) => {
                // A file that changed its name gives up the one it had.
                if file
                    .candidate
                    .as_ref()
                    .is_some_and(|c| c.name != candidate.name)
                {
                    file.candidate = None;
                }
                file.waits = Some(candidate);
                file.reason = None;
            }
            Err(reason) => file.reason = Some(reason),
        }
        self.give_names();
    }

    /// Examination failed for a reason that is not the file's: it is asked for again,
    /// later each time.
    pub fn not_examined(&mut self, path: &Path, stamp: PluginStamp, reason: &str, now: Instant) {
        let file = self.files.get_mut(path);
        let Some(file) = file.filter(|file| file.stamp == Some(stamp)) else {
            return;
        };
        let pause = file.retry.map_or(RETRY.0, |(_, before)| before * 2);
        let pause = pause.min(RETRY.1);
        file.pending = false;
        file.retry = Some((now + pause, pause));
        file.reason = Some(format!("{reason}; tried again every {} s", pause.as_secs()));
    }

    /// Files whose time to be examined again has come.
    pub fn due(&mut self, now: Instant) -> Vec<Request> {
        let mut requests = Vec::new();
        for (path, file) in &mut self.files {
            if let (Some((due, _)), Some(stamp), false) = (file.retry, file.stamp, file.pending)
                && due <= now
            {
                file.pending = true;
                requests.push(Request::Examine(path.clone(), stamp));
            }
        }
        requests
    }

    /// Lets candidates have their names: who is in force with one keeps it, of the others
    /// the first by its path has it, in whatever order they were examined; the rest wait,
    /// and the next gets it at once when it is given up.
    fn give_names(&mut self) {
        let waiting: Vec<PathBuf> = self
            .files
            .iter()
            .filter(|(_, file)| file.waits.is_some())
            .map(|(path, _)| path.clone())
            .collect();
        for path in waiting {
            let wanted = self.files.get(&path).and_then(|file| file.waits.as_ref());
            let Some(name) = wanted.map(|candidate| candidate.name.clone()) else {
                continue;
            };
            let owner = self.owner(&name).filter(|owner| *owner != path);
            let owner = owner.filter(|owner| match self.files.get_mut(owner) {
                // What is in the watched folder is meant.
                Some(file) if file.elsewhere => {
                    *file = File::default();
                    false
                }
                Some(file) if *owner > path && !file.is_in_force() => {
                    file.waits = file.candidate.take();
                    file.reason = Some(taken(&name, &path));
                    false
                }
                _ => true,
            });
            let Some(file) = self.files.get_mut(&path) else {
                continue;
            };
            match owner {
                None => {
                    file.candidate = file.waits.take();
                    file.reason = None;
                }
                Some(owner) => file.reason = Some(taken(&name, &owner)),
            }
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

    /// Is this version among what is published?
    pub fn has(&self, digest: &str) -> bool {
        let mut all = self.candidates();
        all.any(|candidate| candidate.info.digest == digest)
    }

    /// Plugins a rule may name, and what they read. One whose file was removed counts
    /// as long as it is part of the published generation: the rules that name it stay
    /// in force, with their fail mode.
    pub fn known(&self) -> BTreeMap<String, L7Protocol> {
        let removed = self
            .files
            .values()
            .filter_map(|file| file.published.as_ref());
        let sure = removed
            .chain(self.candidates())
            .map(|candidate| (candidate.name.clone(), candidate.info.world.protocol()));
        // One that is still being examined counts by its file's name: the rules that name
        // it are in force, with their fail mode, rather than missing.
        let pending = self.files.iter().filter(|(_, file)| file.pending);
        let mut known: BTreeMap<_, _> = pending
            .map(|(path, _)| (stem(path), L7Protocol::Http))
            .collect();
        known.extend(sure);
        known
    }

    /// Plugins whose file was removed while rules name them.
    pub fn removed(&self) -> impl Iterator<Item = &str> {
        let gone = |file: &&File| file.stamp.is_none() && file.candidate.is_none();
        let gone = self.files.values().filter(gone);
        let gone = gone.filter_map(|file| file.published.as_ref());
        let names = gone.map(|candidate| candidate.name.as_str());
        names.filter(|name| self.candidates().all(|other| other.name != *name))
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

    fn owner(&self, name: &str) -> Option<PathBuf> {
        if self.built_in.contains_key(name) {
            return Some("the built-in plugin".into());
        }
        let owner = self.files.iter().find(|(_, file)| {
            (file.stamp.is_some() || file.elsewhere)
                && file
                    .candidate
                    .as_ref()
                    .is_some_and(|candidate| candidate.name == name)
        });
        owner.map(|(path, _)| path.clone())
    }
}

/// Names of the plugins that some rule uses.
fn named(compiled: &Compiled) -> BTreeSet<&str> {
    plugin_uses(&compiled.l7)
        .map(|used| used.plugin.as_str())
        .collect()
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .map(|stem| printable(Path::new(stem)))
        .unwrap_or_default()
}

/// A file's name as people may see it: whatever is in it, a terminal does not obey it.
pub fn printable(path: &Path) -> String {
    let name = path.to_string_lossy();
    let escape = |c: char| -> String {
        if c.is_control() {
            c.escape_default().collect()
        } else {
            c.to_string()
        }
    };
    name.chars().map(escape).collect()
}
