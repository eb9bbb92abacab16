//! What sources say, file by file or object by object: which version of each is in use, and
//! what is wrong with the rest.
//!
//! A file whose new version cannot be used keeps its last good one; a file that never
//! had a good one contributes nothing. Neither stops the others. What is in force stays
//! until somebody plainly removes it: by deleting a file from a folder that is there, or an
//! object from its source.
//! A newcomer that does not fit steps back, whatever its name. Pure: texts and a compiler
//! come in, a choice comes out.

mod file;
mod placed;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
};

use tidegate_policy::{
    Document, Ids, Input, Origin, Problem, Severity, Source, compiled::Compiled,
};
use tidegate_sources::{
    Delta, News,
    folder::{FolderSource, Origins, Scan, TextId, folder_of},
};

use self::file::{File, Version, whole_file};
use super::{bindings::KeptBinding, plugins::Candidate};

/// All document files.
#[derive(Debug, Default)]
pub struct Documents {
    files: BTreeMap<Origin, File>,
    /// Files, folders and sources that are not where they were and were not removed, and
    /// why what they said stays.
    held: BTreeMap<Origin, String>,
    /// What looks like a document and is not read, and why.
    ignored: BTreeMap<Origin, String>,
    /// Folders that could be listed.
    listed: BTreeSet<Origin>,
    /// Files and folders that may have been in force, and of which nothing has been in force
    /// since. Filled by what each source says first if the past is lost, and by last good
    /// texts this version cannot read.
    doubtful: BTreeSet<Origin>,
    /// Those of them that an earlier run knew of: what is in force took them into account.
    carried: BTreeSet<Origin>,
    /// Nothing is known of an earlier run.
    past_is_lost: bool,
    /// Sources that have spoken.
    heard: BTreeSet<Source>,
    /// The documents in use, as of the last time they were put together: what is in force, what
    /// changed, newcomers.
    together: Input,
}

/// On a node that remembers nothing, so many files at odds with others are asked which others.
const CONTESTED: usize = 32;

/// What an earlier run left behind.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Last good texts.
    pub texts: BTreeMap<Origin, Arc<str>>,
    /// Folders they came from.
    pub origins: Origins,
    /// There was no earlier run, or its state is lost.
    pub lost: bool,
    /// Files and folders that may have been in force before its state was lost, and that it
    /// could not use.
    pub doubtful: BTreeSet<Origin>,
    /// Numbers given so far.
    pub ids: Ids,
    /// Plugins that were published, by file.
    pub plugins: BTreeMap<PathBuf, Candidate>,
    /// What bindings accepted last.
    pub bindings: Vec<KeptBinding>,
}

/// Which version of a file is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// What is on disk.
    Newest,
    /// An earlier version, as the one on disk is broken.
    LastGood,
    /// None.
    Nothing,
}

/// A file to keep or to forget in the state folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// This text is in use now.
    Save(Origin, Arc<str>),
    /// The file is gone.
    Forget(Origin),
}

/// A file for readers.
#[derive(Debug)]
pub struct FileView<'a> {
    /// Which it is.
    pub origin: &'a Origin,
    /// Version in use.
    pub choice: Choice,
    /// What it should say is not known: it cannot be read, or was emptied.
    pub absent: bool,
    /// What is wrong with the newest version, warnings included.
    pub problems: Vec<&'a Problem>,
}

impl Documents {
    /// Documents with the last good texts of an earlier run, which stand in for files
    /// that turn out to be broken.
    pub fn new(past: &Past) -> Self {
        let mut documents = Self {
            past_is_lost: past.lost,
            doubtful: past.doubtful.clone(),
            carried: past.doubtful.clone(),
            ..Self::default()
        };
        for (origin, text) in past.texts.clone() {
            let good = Version::read(&origin, &text).ok();
            // An older version took this text and this one does not.
            match good {
                Some(_) => _ = documents.doubtful.remove(&origin),
                None => _ = documents.doubtful.insert(origin.clone()),
            }
            documents.carried.remove(&origin);
            documents.files.insert(origin, File::of(good));
        }
        documents
    }

    /// What a scan of a source's folders means, in the light of what is in force.
    pub fn delta(&self, folders: &mut FolderSource, scan: &Scan) -> Delta {
        let source = folders.source().clone();
        let origin = |name: &str| Origin::new(source.clone(), name);
        let in_force = |name: &str| {
            let origin = origin(name);
            let good = |file: &File| file.good.is_some();
            self.doubtful.contains(&origin) || self.files.get(&origin).is_some_and(good)
        };
        let said = |name: &str| {
            let file = self.files.get(&origin(name)).into_iter();
            let versions = file.flat_map(|file| file.good.iter().chain(&file.newest));
            // What says nothing is the same everywhere.
            let versions = versions.filter(|version| !version.documents.is_empty());
            versions.map(|version| TextId::of(&version.text)).collect()
        };
        folders.delta(scan, self.known(&source), in_force, said)
    }

    /// What a source's news mean, in the light of what is known of it.
    pub fn news(&self, source: Source, news: News) -> Delta {
        news.delta(source.clone(), self.known(&source))
    }

    /// What is known of a source, by its names in it.
    fn known<'d>(&'d self, source: &'d Source) -> impl Iterator<Item = &'d str> + Clone {
        let of_source = self.files.keys().filter(move |o| o.source() == source);
        of_source.map(Origin::name)
    }

    /// Takes in what changed of what a source says. Returns what is gone, and under which
    /// name the same is there now, if it is.
    pub fn update(&mut self, delta: &Delta) -> Vec<(Origin, Option<Origin>)> {
        let source = &delta.source;
        let origin = |name: &String| Origin::new(source.clone(), name);
        // Asked for what was removed alone; of several that say the same, the first.
        let mut changed: HashMap<&str, &String> = HashMap::new();
        if !delta.removed.is_empty() {
            let texts = delta.changed.iter().rev();
            changed.extend(texts.filter_map(|(name, text)| Some((&**text.as_ref().ok()?, name))));
        }
        let mut gone = Vec::new();
        for removed in delta.removed.iter().map(origin) {
            let mut file = self.files.remove(&removed);
            if let Some(file) = &mut file {
                file.leave(&removed, &mut self.together);
            }
            let said = file.and_then(|file| file.newest.or(file.good));
            let now = said.and_then(|said| changed.get(&*said.text));
            gone.push((removed, now.map(|name| origin(name))));
        }
        for (name, content) in &delta.changed {
            let origin = origin(name);
            let file = self.files.entry(origin.clone());
            let file = file.or_insert_with(|| File::of(None));
            file.update(&origin, content);
        }
        let of_others = |origin: &Origin| origin.source() != source;
        self.held.retain(|held, _| of_others(held));
        let held = delta.held.iter();
        self.held
            .extend(held.map(|(name, why)| (origin(name), why.clone())));
        self.ignored.retain(|ignored, _| of_others(ignored));
        let ignored = delta.ignored.iter();
        self.ignored
            .extend(ignored.map(|(name, why)| (origin(name), why.clone())));
        self.listed.retain(of_others);
        self.listed.extend(delta.listed.iter().map(origin));
        if self.heard.insert(source.clone()) && self.past_is_lost {
            let own = self.files.keys().filter(|own| !of_others(own));
            self.doubtful.extend(own.cloned());
            self.doubtful.extend(delta.held.keys().map(origin));
        }
        self.doubtful.retain(|origin| match self.files.get(origin) {
            Some(file) => file.good.is_none(),
            None => self.held.contains_key(origin) || !self.heard.contains(origin.source()),
        });
        gone
    }

    /// What looks like a document and is not read, and why.
    pub fn ignored(&self) -> &BTreeMap<Origin, String> {
        &self.ignored
    }

    /// Files and folders that are not where they were and were not removed: why what they
    /// said stays, and the way out.
    pub fn held(&self) -> &BTreeMap<Origin, String> {
        &self.held
    }

    /// Files and folders that may have been in force and of which nothing usable is left.
    /// On a node whose kernel still enforces what an earlier run published, `enforced`,
    /// also what says nothing now and may have said something to that run, if nothing is
    /// known of it; elsewhere that means nothing.
    pub fn unknown(&self, enforced: bool) -> BTreeSet<&Origin> {
        let unknown = self.doubtful.iter().filter(|origin| {
            let file = self.files.get(origin);
            // What is enforced took into account what was not known to the run that made it.
            file.is_none_or(|file| file.newest.is_none())
                && !(enforced && self.carried.contains(*origin))
        });
        match enforced && self.past_is_lost {
            true => unknown.chain(self.silent()).collect(),
            false => unknown.collect(),
        }
    }

    /// Files that may have been in force and are left out, as they are at odds with others of
    /// which the same is true: nothing tells whose turn it is. `enforced` as above.
    pub fn contested(&self, enforced: bool) -> BTreeSet<&Origin> {
        let doubtful = self.doubtful.iter();
        let contested = doubtful.filter(|origin| {
            let file = self.files.get(origin);
            file.is_some_and(|file| file.at_odds && file.choice == Choice::Nothing)
                && !(enforced && self.carried.contains(*origin))
        });
        contested.collect()
    }

    /// Is nothing known of an earlier run?
    pub fn past_is_lost(&self) -> bool {
        self.past_is_lost
    }

    /// Does any source but the operator's folders say something, or did it?
    pub fn has_other_sources(&self) -> bool {
        let mut origins = self.files.keys();
        origins.any(|origin| *origin.source() != Source::folders())
    }

    /// What the next run has to know of: see [`Past::doubtful`].
    pub fn doubtful(&self) -> BTreeSet<Origin> {
        let all = self.unknown(false).into_iter().chain(self.contested(false));
        all.cloned().collect()
    }

    /// Files that say nothing, and folders of policies or endpoints without a file, or all
    /// of a source's folders where it need not have each.
    fn silent(&self) -> impl Iterator<Item = &Origin> {
        let says_nothing = |file: &File| {
            let newest = file.newest.as_ref();
            file.good.is_none() && newest.is_some_and(|version| version.documents.is_empty())
        };
        let files = self.files.iter();
        let files = files.filter(move |(_, file)| says_nothing(file));
        let empty = self.listed.iter().filter(|folder| {
            let mut known = self.known(folder.source());
            match folder.name() {
                "" => known.next().is_none(),
                name @ ("policies" | "endpoints") if *folder.source() == Source::folders() => {
                    !known.any(|known| folder_of(known) == name)
                }
                _ => false,
            }
        });
        files.map(|(origin, _)| origin).chain(empty)
    }

    /// Files in force before that had to be left out, as nothing of them fits any more.
    pub fn left_out(&self) -> impl Iterator<Item = &Origin> {
        let files = self.files.iter();
        files
            .filter(|(_, file)| file.good.is_some() && file.choice == Choice::Nothing)
            .map(|(origin, _)| origin)
    }

    /// Chooses a version per file so that all of them compile together, and compiles.
    ///
    /// `compile` is called with the documents in use until it succeeds: those in force
    /// first, then what changed, then newcomers; a conflict is the later one's. Of the
    /// files its problems name, those that changed step back. If it names others, or none
    /// (it is all too much), the changes are tried without each other, and those that do
    /// not fit with what is in force step back. A file that is part of the published
    /// generation is dropped only if `may_drop`: leaving out rules that are in force
    /// could let through what they refuse. An error means that problems remain for
    /// which no file may give way: the generation is refused.
    ///
    /// `refuse` looks at each document that is not in force yet; a problem makes its file
    /// step back.
    pub fn settle(
        &mut self,
        may_drop: bool,
        refuse: impl Fn(&Document) -> Option<Problem>,
        mut compile: impl FnMut(&Input) -> Result<Compiled, Vec<Problem>>,
    ) -> Result<Compiled, Vec<Problem>> {
        self.begin(&refuse);
        let settled = self.settle_in_order(may_drop, &mut compile);
        let mut contested = self.take_contested(|_| true);
        if settled.is_err() || contested.is_empty() {
            return settled;
        }
        // Nothing is remembered, and names must not decide whose rules count. Who would step
        // back if these had been in force steps back too, as far as less is let through
        // without it.
        let first: Vec<Origin> = contested.keys().take(CONTESTED).cloned().collect();
        for name in &first {
            self.begin(&refuse);
            for (other, file) in &mut self.files {
                match other == name {
                    true => file.firm = true,
                    false if contested.contains_key(other) => file.choice = Choice::Nothing,
                    false => {}
                }
            }
            if self.settle_in_order(may_drop, &mut compile).is_ok() {
                for (name, problems) in self.take_contested(Document::only_lets_in) {
                    contested.entry(name).or_insert(problems);
                }
            }
        }
        self.begin(&refuse);
        for (name, problems) in contested {
            if let Some(file) = self.files.get_mut(&name) {
                file.choice = Choice::Nothing;
                file.at_odds = true;
                file.together = problems;
            }
        }
        self.settle_in_order(may_drop, &mut compile)
    }

    /// Contested files of whose documents that is true, and what is said of them.
    fn take_contested(&self, is: fn(&Document) -> bool) -> BTreeMap<Origin, Vec<Problem>> {
        let contested = self.contested(false).into_iter();
        let files = contested.filter_map(|name| Some((name, self.files.get(name)?)));
        let files = files.filter(|(_, file)| {
            let mut documents = file
                .newest
                .iter()
                .flat_map(|newest| newest.documents.iter());
            documents.all(is)
        });
        files
            .map(|(name, file)| (name.clone(), file.together.clone()))
            .collect()
    }

    /// Chooses what is on disk, where nothing is wrong with it by itself.
    fn begin(&mut self, refuse: &impl Fn(&Document) -> Option<Problem>) {
        for file in self.files.values_mut() {
            file.together.clear();
            file.without_shadow = false;
            file.at_odds = false;
            file.firm = false;
            file.choice = file.first_choice();
            if file.changed() {
                let newest = file.newest.iter();
                let documents = newest.flat_map(|version| version.documents.iter());
                file.together = documents.filter_map(refuse).collect();
                if !file.together.is_empty() {
                    file.choice = file.second_choice();
                }
            }
        }
    }

    fn settle_in_order(
        &mut self,
        may_drop: bool,
        compile: &mut impl FnMut(&Input) -> Result<Compiled, Vec<Problem>>,
    ) -> Result<Compiled, Vec<Problem>> {
        loop {
            let problems = match compile(self.put_together()) {
                Ok(compiled) => return Ok(compiled),
                Err(problems) => problems,
            };
            if self.step_back(&problems, File::changed) || self.leave_out_shadow(&problems) {
                continue;
            }
            let changed = self.changed();
            if !changed.is_empty() {
                self.set_back(&changed);
                if compile(self.put_together()).is_ok() {
                    self.admit(&changed, compile);
                }
                continue;
            }
            if !(may_drop && self.step_back(&problems, |_| true)) {
                return Err(problems);
            }
        }
    }

    /// The documents in use, brought up to date file by file.
    fn put_together(&mut self) -> &Input {
        for (origin, file) in &mut self.files {
            file.take_place(origin, &mut self.together);
        }
        &self.together
    }

    /// The documents in use, as they were put together last. A copy costs nothing.
    pub fn together(&self) -> &Input {
        &self.together
    }

    /// Does a document of these files, in any version, fulfil this?
    pub fn some_of(&self, delta: &Delta, is: impl Fn(&Document) -> bool) -> bool {
        let names = delta.changed.keys();
        let files = names.filter_map(|name| {
            let origin = Origin::new(delta.source.clone(), name);
            self.files.get(&origin)
        });
        let mut versions = files.flat_map(|file| file.newest.iter().chain(&file.good));
        versions.any(|version| version.documents.iter().any(&is))
    }

    /// Leaves documents in shadow out where they stand in the way of what is enforced, also
    /// those in force: in the files that problems name, or in all, if they name none (it is
    /// all too much). Nothing that is enforced is weakened by it. Was there any?
    fn leave_out_shadow(&mut self, problems: &[Problem]) -> bool {
        let errors = || problems.iter().filter(|p| p.severity == Severity::Error);
        let of_no_file = errors().all(|problem| problem.origin.is_none());
        let mut left_out = false;
        for (name, file) in &mut self.files {
            let why = errors().find(|problem| of_no_file || problem.origin.as_ref() == Some(name));
            let is_shadow = |document: &Document| document.meta().is_shadow();
            if let Some(why) = why.filter(|_| file.documents().any(is_shadow)) {
                file.without_shadow = true;
                let message = format!(
                    "its documents in shadow are left out, as what is enforced comes first: {why}"
                );
                file.together.push(whole_file(name, &message));
                left_out = true;
            }
        }
        left_out
    }

    /// Lets in those of `names` that fit with what is in use; all of them have stepped back.
    fn admit(
        &mut self,
        names: &[Origin],
        compile: &mut impl FnMut(&Input) -> Result<Compiled, Vec<Problem>>,
    ) {
        for name in names {
            if let Some(file) = self.files.get_mut(name) {
                file.at_odds = false;
                file.choice = Choice::Newest;
            }
        }
        let Err(problems) = compile(self.put_together()) else {
            return;
        };
        self.set_back(names);
        match names {
            [] => {}
            [name] => {
                let first = problems.first().map(ToString::to_string);
                let message = format!(
                    "it does not fit with what is in force, which stays as it is: {}",
                    first.unwrap_or_default()
                );
                if let Some(file) = self.files.get_mut(name) {
                    file.together.push(whole_file(name, &message));
                }
            }
            many => {
                let (left, right) = many.split_at(many.len() / 2);
                self.admit(left, compile);
                self.admit(right, compile);
            }
        }
    }

    /// Files whose newest version is in use and not in force, changed ones first.
    fn changed(&self) -> Vec<Origin> {
        let mut changed: Vec<(bool, &Origin)> = self
            .files
            .iter()
            .filter(|(_, file)| file.changed())
            .map(|(name, file)| (file.good.is_none(), name))
            .collect();
        changed.sort();
        changed.into_iter().map(|(_, name)| name.clone()).collect()
    }

    fn set_back(&mut self, names: &[Origin]) {
        for name in names {
            if let Some(file) = self.files.get_mut(name) {
                file.at_odds = true;
                file.choice = match file.good {
                    Some(_) => Choice::LastGood,
                    None => Choice::Nothing,
                };
            }
        }
    }

    /// Makes the chosen versions the last good ones: they are published.
    pub fn commit(&mut self) -> Vec<Keep> {
        let mut keep = Vec::new();
        for (name, file) in &mut self.files {
            if file.choice == Choice::Newest && file.changed() {
                file.good = file.newest.clone();
                keep.extend(
                    file.good
                        .iter()
                        .map(|good| Keep::Save(name.clone(), good.text.clone())),
                );
            }
        }
        let files = &self.files;
        let in_force = |origin: &Origin| files.get(origin).is_some_and(|f| f.good.is_some());
        self.doubtful.retain(|origin| !in_force(origin));
        // From now on what is in force takes into account all that is not known.
        self.carried.clone_from(&self.doubtful);
        keep
    }

    /// Documents that are, or may come to be, in use.
    pub fn candidates(&self) -> impl Iterator<Item = &Document> {
        let versions = self
            .files
            .values()
            .flat_map(|file| [&file.newest, &file.good]);
        versions
            .flatten()
            .flat_map(|version| version.documents.iter())
    }

    /// Documents of the chosen versions: what is in force, what changed, newcomers.
    pub fn in_use(&self) -> impl Iterator<Item = &Document> + Clone {
        let mut files: Vec<&File> = self.files.values().collect();
        // Stable: files of one rank stay in the order of their names.
        files.sort_by_key(|file| (file.changed(), file.good.is_none()));
        files.into_iter().flat_map(File::documents)
    }

    /// Documents on disk that are not in use: of files that stepped back, and the sound ones of
    /// those with mistakes.
    pub fn set_aside(&self) -> impl Iterator<Item = &Document> {
        self.files.values().flat_map(File::set_aside)
    }

    /// Files with the version in use and the problems of the newest one.
    pub fn files(&self) -> impl Iterator<Item = FileView<'_>> {
        self.files.iter().map(|(name, file)| {
            let newest = file.newest.iter();
            let warnings = newest
                .flat_map(|version| version.documents.iter())
                .chain(&*file.aside)
                .flat_map(|document| &document.warnings);
            FileView {
                origin: name,
                choice: file.choice,
                absent: file.absent,
                problems: file
                    .own
                    .iter()
                    .chain(&file.together)
                    .chain(warnings)
                    .collect(),
            }
        })
    }

    /// Lets every file that an error names, and that `may`, step back once. False if none did.
    fn step_back(&mut self, problems: &[Problem], may: fn(&File) -> bool) -> bool {
        let mut named: BTreeMap<&Origin, Vec<Problem>> = BTreeMap::new();
        for problem in problems.iter().filter(|p| p.severity == Severity::Error) {
            if let Some(origin) = &problem.origin {
                named.entry(origin).or_default().push(problem.clone());
            }
        }
        let mut stepped = false;
        for (name, found) in named {
            let Some(file) = self.files.get_mut(name) else {
                continue;
            };
            if file.choice != Choice::Nothing && may(file) {
                file.choice = file.second_choice();
                file.at_odds = true;
                file.together.extend(found);
                stepped = true;
            }
        }
        stepped
    }
}
