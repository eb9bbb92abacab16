//! One document file: the version on disk, the one in force, and which of them is used.

use std::{collections::HashMap, sync::Arc};

use tidegate_policy::{
    Document, ObjectKey, Origin, Problem, Severity, objects::Body, origin::At, parse_file,
    read_file,
};
use tidegate_sources::{
    Content,
    folder::{LABELS, folder_of},
};

use super::{Choice, placed::Placed};

/// A text and what it says.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) text: Arc<str>,
    pub(super) documents: Arc<[Document]>,
}

#[derive(Debug)]
pub(super) struct File {
    /// The text that was read last, whatever came of it.
    seen: Option<Arc<str>>,
    /// What is on disk, if it can be read as documents.
    pub(super) newest: Option<Version>,
    /// Of a text with mistakes, the documents that have none. They do not count.
    pub(super) aside: Arc<[Document]>,
    /// What was part of the last published generation.
    pub(super) good: Option<Version>,
    /// Problems of the newest version, found by itself.
    pub(super) own: Vec<Problem>,
    /// The newest version is not a statement at all: it cannot be read, or says nothing
    /// where something was said.
    pub(super) absent: bool,
    /// Problems found when it was put together with the others.
    pub(super) together: Vec<Problem>,
    pub(super) choice: Choice,
    /// Its documents in shadow are left out: what is enforced comes first.
    pub(super) without_shadow: bool,
    /// Its newest version stepped back for what other files say, not for itself.
    pub(super) at_odds: bool,
    /// Its newest version counts as if it were in force: what is at odds with it steps back.
    pub(super) firm: bool,
    /// What of it was last put together with the others.
    pub(super) placed: Option<Placed>,
}

impl Version {
    pub(super) fn read(origin: &Origin, text: &Arc<str>) -> Result<Self, Vec<Problem>> {
        let documents = parse_file(origin, text)?.into();
        Ok(Self {
            text: text.clone(),
            documents,
        })
    }

    /// The same, with the documents of other versions where those say exactly the same: what
    /// is the same document has not changed.
    fn sharing<'v>(mut self, others: impl Iterator<Item = &'v Version>) -> Self {
        let others = others.flat_map(|version| version.documents.iter());
        let known: HashMap<(ObjectKey, At), &Document> = others
            .map(|document| {
                (
                    (document.meta().key(), document.meta().at.clone()),
                    document,
                )
            })
            .collect();
        let documents = self.documents.iter().map(|document| {
            let key = (document.meta().key(), document.meta().at.clone());
            match known.get(&key) {
                Some(same) if *same == document => (*same).clone(),
                _ => document.clone(),
            }
        });
        self.documents = documents.collect();
        self
    }
}

impl File {
    pub(super) fn of(good: Option<Version>) -> Self {
        Self {
            seen: None,
            newest: None,
            aside: Arc::default(),
            good,
            own: Vec::new(),
            absent: false,
            together: Vec::new(),
            choice: Choice::Nothing,
            without_shadow: false,
            placed: None,
            at_odds: false,
            firm: false,
        }
    }

    pub(super) fn update(&mut self, origin: &Origin, text: &Content) {
        let text = match text {
            Ok(text) => text,
            Err(message) => {
                self.seen = None;
                return self.break_with(vec![whole_file(origin, message)], true);
            }
        };
        if self.seen.as_ref() == Some(text) {
            return;
        }
        self.seen = Some(text.clone());
        let had_documents = self
            .good
            .as_ref()
            .is_some_and(|good| !good.documents.is_empty());
        let (documents, mistakes) = read_file(origin, text);
        if !mistakes.is_empty() {
            self.break_with(mistakes, false);
            self.aside = documents.into();
            return;
        }
        let version = Version {
            text: text.clone(),
            documents: documents.into(),
        };
        match version {
            // Editors truncate before they write, and what is commented out for an hour
            // is forgotten: more likely that than somebody's wish to lift every rule in it.
            version if version.documents.is_empty() && had_documents => {
                let message = "the file says nothing any more (it is empty, or all comment); \
                               delete it to remove what it said";
                self.break_with(vec![whole_file(origin, message)], true);
            }
            version => {
                self.own = match *version.documents {
                    [] => vec![says_nothing(origin)],
                    _ => misfiled(origin, &version.documents),
                };
                let others = self.newest.iter().chain(&self.good);
                self.newest = Some(version.sharing(others));
                self.aside = Arc::default();
                self.absent = false;
            }
        }
    }

    pub(super) fn break_with(&mut self, problems: Vec<Problem>, absent: bool) {
        self.newest = None;
        self.aside = Arc::default();
        self.own = problems;
        self.absent = absent;
    }

    /// Is what is on disk something else than what is published.
    pub(super) fn changed(&self) -> bool {
        match (&self.newest, &self.good) {
            _ if self.firm => false,
            (Some(newest), Some(good)) => self.choice == Choice::Newest && newest.text != good.text,
            (Some(_), None) => self.choice == Choice::Newest,
            (None, _) => false,
        }
    }

    pub(super) fn first_choice(&self) -> Choice {
        match (&self.newest, &self.good) {
            (Some(_), _) => Choice::Newest,
            (None, Some(_)) => Choice::LastGood,
            (None, None) => Choice::Nothing,
        }
    }

    pub(super) fn second_choice(&self) -> Choice {
        if self.changed() && self.good.is_some() {
            Choice::LastGood
        } else {
            Choice::Nothing
        }
    }

    /// Documents on disk that are not in use.
    pub(super) fn set_aside(&self) -> &[Document] {
        match &self.newest {
            Some(newest) if self.choice != Choice::Newest => &newest.documents,
            Some(_) => &[],
            None => &self.aside,
        }
    }

    /// The documents in use.
    pub(super) fn documents(&self) -> impl Iterator<Item = &Document> + Clone {
        let chosen = self.chosen().into_iter();
        let all = chosen.flat_map(|version| version.documents.iter());
        all.filter(|document| !(self.without_shadow && document.meta().is_shadow()))
    }

    pub(super) fn chosen(&self) -> Option<&Version> {
        match self.choice {
            Choice::Newest => self.newest.as_ref(),
            Choice::LastGood => self.good.as_ref(),
            Choice::Nothing => None,
        }
    }
}

pub(super) fn whole_file(origin: &Origin, message: &str) -> Problem {
    Problem {
        origin: Some(origin.clone()),
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

/// Documents in another folder than that of their kind. They count all the same; but what a
/// file may have said that cannot be read is judged by its folder.
fn misfiled(origin: &Origin, documents: &[Document]) -> Vec<Problem> {
    let folder = folder_of(origin.name());
    if !LABELS.contains(&folder) {
        return Vec::new();
    }
    let misfiled = documents.iter().filter_map(|document| {
        let meta = document.meta();
        let right = match document.body {
            Body::Endpoint(_) => "endpoints",
            Body::Service(_) => "services",
            Body::Policy(_) | Body::DenyList(_) | Body::PluginBinding(_) => "policies",
        };
        (folder != right).then(|| Problem {
            value: Some(meta.kind.to_owned()),
            severity: Severity::Warning,
            ..meta.problem(
                &meta.kind_at,
                "this kind belongs into another folder".to_owned(),
                &format!("move it to {right}/"),
            )
        })
    });
    misfiled.collect()
}

fn says_nothing(origin: &Origin) -> Problem {
    Problem {
        severity: Severity::Warning,
        ..whole_file(origin, "the file says nothing: it is empty, or all comment")
    }
}
