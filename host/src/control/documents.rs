//! Document files: which version of each is in use, and what is wrong with the rest.
//!
//! A file whose new version cannot be used keeps its last good one; a file that never
//! had a good one contributes nothing. Neither stops the others. Pure: texts and a
//! compiler come in, a choice comes out.

use std::{collections::BTreeMap, sync::Arc};

use tidegate_policy::{Document, Problem, Severity, compiled::Compiled, parse_file};

/// All document files.
#[derive(Debug, Default)]
pub struct Documents {
    files: BTreeMap<String, File>,
}

/// A text and what it says.
#[derive(Clone, Debug)]
struct Version {
    text: Arc<str>,
    documents: Arc<[Document]>,
}

#[derive(Debug)]
struct File {
    /// What is on disk, if it can be read as documents.
    newest: Option<Version>,
    /// What was part of the last published generation.
    good: Option<Version>,
    /// Problems of the newest version, found by itself.
    own: Vec<Problem>,
    /// Problems found when it was put together with the others.
    together: Vec<Problem>,
    choice: Choice,
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
    Save(String, Arc<str>),
    /// The file is gone.
    Forget(String),
}

impl Documents {
    /// Documents with the last good texts of an earlier run, which stand in for files
    /// that turn out to be broken.
    pub fn new(last_good: BTreeMap<String, Arc<str>>) -> Self {
        let files = last_good.into_iter().filter_map(|(name, text)| {
            // Text that an older version took and this one does not is no help.
            let good = Version::read(&name, &text).ok()?;
            Some((name, File::of(Some(good))))
        });
        Self {
            files: files.collect(),
        }
    }

    /// Takes in what the folders hold now. Returns names of files that are gone.
    pub fn update(&mut self, texts: &BTreeMap<String, Result<Arc<str>, String>>) -> Vec<String> {
        let gone: Vec<String> = self
            .files
            .keys()
            .filter(|name| !texts.contains_key(*name))
            .cloned()
            .collect();
        self.files.retain(|name, _| texts.contains_key(name));
        for (name, text) in texts {
            self.files
                .entry(name.clone())
                .or_insert_with(|| File::of(None))
                .update(name, text);
        }
        gone
    }

    /// Chooses a version per file so that all of them compile together, and compiles.
    ///
    /// `compile` is called with the documents in use, until it succeeds. Of the files
    /// its problems name, those that changed step back, so that the newcomer gives way
    /// and not the file it collides with. A file that is part of the published
    /// generation is dropped only if `may_drop`: leaving out rules that are in force
    /// could let through what they refuse. An error means that problems remain for
    /// which no file may give way: the generation is refused.
    pub fn settle(
        &mut self,
        may_drop: bool,
        mut compile: impl FnMut(Vec<Document>) -> Result<Compiled, Vec<Problem>>,
    ) -> Result<Compiled, Vec<Problem>> {
        for file in self.files.values_mut() {
            file.together.clear();
            file.choice = file.first_choice();
        }
        loop {
            let problems = match compile(self.in_use().cloned().collect()) {
                Ok(compiled) => return Ok(compiled),
                Err(problems) => problems,
            };
            let stepped = self.step_back(&problems, File::changed)
                || (may_drop && self.step_back(&problems, |_| true));
            if !stepped {
                return Err(problems);
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
        keep
    }

    /// Documents of the chosen versions.
    pub fn in_use(&self) -> impl Iterator<Item = &Document> {
        self.files
            .values()
            .flat_map(|file| file.chosen())
            .flat_map(|version| version.documents.iter())
    }

    /// Files with the version in use and the problems of the newest one.
    pub fn files(&self) -> impl Iterator<Item = (&str, Choice, impl Iterator<Item = &Problem>)> {
        self.files.iter().map(|(name, file)| {
            let warnings = file
                .newest
                .iter()
                .flat_map(|version| version.documents.iter());
            let warnings = warnings.flat_map(|document| &document.warnings);
            let problems = file.own.iter().chain(&file.together).chain(warnings);
            (name.as_str(), file.choice, problems)
        })
    }

    /// Lets every file that an error names, and that `may`, step back once. False if none did.
    fn step_back(&mut self, problems: &[Problem], may: fn(&File) -> bool) -> bool {
        let mut named: BTreeMap<&str, Vec<Problem>> = BTreeMap::new();
        for problem in problems.iter().filter(|p| p.severity == Severity::Error) {
            named
                .entry(&problem.file)
                .or_default()
                .push(problem.clone());
        }
        let mut stepped = false;
        for (name, found) in named {
            let Some(file) = self.files.get_mut(name) else {
                continue;
            };
            if file.choice != Choice::Nothing && may(file) {
                file.choice = file.second_choice();
                file.together.extend(found);
                stepped = true;
            }
        }
        stepped
    }
}

impl Version {
    fn read(name: &str, text: &Arc<str>) -> Result<Self, Vec<Problem>> {
        let documents = parse_file(name, text)?.into();
        Ok(Self {
            text: text.clone(),
            documents,
        })
    }
}

impl File {
    fn of(good: Option<Version>) -> Self {
        Self {
            newest: None,
            good,
            own: Vec::new(),
            together: Vec::new(),
            choice: Choice::Nothing,
        }
    }

    fn update(&mut self, name: &str, text: &Result<Arc<str>, String>) {
        let text = match text {
            Ok(text) => text,
            Err(message) => return self.break_with(vec![whole_file(name, message)]),
        };
        if self
            .newest
            .as_ref()
            .is_some_and(|newest| newest.text == *text)
        {
            return;
        }
        // Editors truncate before they write; an empty file is more likely that than
        // somebody's wish to lift every rule in it.
        if text.trim().is_empty()
            && self
                .good
                .as_ref()
                .is_some_and(|good| !good.documents.is_empty())
        {
            let message = "the file is empty; remove it to remove what it said";
            return self.break_with(vec![whole_file(name, message)]);
        }
        match Version::read(name, text) {
            Ok(version) => {
                self.newest = Some(version);
                self.own.clear();
            }
            Err(problems) => self.break_with(problems),
        }
    }

    fn break_with(&mut self, problems: Vec<Problem>) {
        self.newest = None;
        self.own = problems;
    }

    /// Is what is on disk something else than what is published.
    fn changed(&self) -> bool {
        match (&self.newest, &self.good) {
            (Some(newest), Some(good)) => self.choice == Choice::Newest && newest.text != good.text,
            (Some(_), None) => self.choice == Choice::Newest,
            (None, _) => false,
        }
    }

    fn first_choice(&self) -> Choice {
        match (&self.newest, &self.good) {
            (Some(_), _) => Choice::Newest,
            (None, Some(_)) => Choice::LastGood,
            (None, None) => Choice::Nothing,
        }
    }

    fn second_choice(&self) -> Choice {
        if self.changed() && self.good.is_some() {
            Choice::LastGood
        } else {
            Choice::Nothing
        }
    }

    fn chosen(&self) -> Option<&Version> {
        match self.choice {
            Choice::Newest => self.newest.as_ref(),
            Choice::LastGood => self.good.as_ref(),
            Choice::Nothing => None,
        }
    }
}

fn whole_file(name: &str, message: &str) -> Problem {
    Problem {
        file: name.to_owned(),
        document: None,
        line: 1,
        column: 1,
        field: String::new(),
        value: None,
        message: message.to_owned(),
        hint: None,
        severity: Severity::Error,
    }
}
