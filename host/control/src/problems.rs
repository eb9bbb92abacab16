//! Everything wrong with what was written, with the moment it was first seen.

use std::collections::BTreeMap;

use tidegate_policy::{Origin, Problem, Severity};

use super::{
    documents::{Choice, Documents},
    secrets::{Kind, Trouble},
    view::ProblemView,
};

/// Where a folder is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedAt {
    /// The configuration file.
    pub file: String,
    /// Line, from 1; 0 if it does not say so, and the default counts.
    pub line: u32,
    /// Column, likewise.
    pub column: u32,
    /// The key.
    pub key: &'static str,
}

/// Problems by where they come from; each source replaces its own.
#[derive(Debug, Default)]
pub struct Problems {
    documents: Vec<ProblemView>,
    folders: Vec<ProblemView>,
    bindings: Vec<ProblemView>,
    secrets: Vec<ProblemView>,
    unknown: Option<ProblemView>,
    generation: Option<ProblemView>,
}

impl Problems {
    /// Problems of document files; `more` are those found with all files together.
    pub fn documents(&mut self, documents: &Documents, more: &[Problem], now_s: u64) {
        let mut found = Vec::new();
        for file in documents.files() {
            found.extend(file.problems.iter().map(|problem| ProblemView {
                unready: file.absent && problem.severity == Severity::Error,
                ..of_document(problem, file.choice == Choice::LastGood, now_s)
            }));
        }
        found.extend(
            more.iter()
                .map(|problem| of_document(problem, false, now_s)),
        );
        replace(&mut self.documents, found);
    }

    /// Files and folders that are not where they were and were not removed, and entries
    /// that are not read. `plugins`: why their folder cannot be listed.
    /// `named`: where it is written which folders there are.
    pub fn folders(
        &mut self,
        documents: &Documents,
        plugins: Option<&String>,
        named: &BTreeMap<Origin, NamedAt>,
        now_s: u64,
    ) {
        let held = documents.held().iter();
        let held = held.map(|(origin, why)| (origin.clone(), why));
        // Plugins are not documents, but their folder is one of ours.
        let plugins = plugins.map(|why| (Origin::from("plugins"), why));
        let held = held.chain(plugins).map(|(origin, why)| ProblemView {
            last_good: true,
            unready: true,
            ..match named.get(&origin) {
                Some(at) => ProblemView {
                    line: at.line,
                    column: at.column,
                    ..whole(&at.file, format!("{}: {why}", at.key), now_s)
                },
                None => whole(&origin.to_string(), why.clone(), now_s),
            }
        });
        let ignored = documents.ignored().iter();
        let ignored = ignored.map(|(origin, why)| ProblemView {
            severity: severity(Severity::Warning).to_owned(),
            ..whole(&origin.to_string(), why.clone(), now_s)
        });
        replace(&mut self.folders, held.chain(ignored).collect());
    }

    /// What bindings were refused; true where what was accepted last goes on.
    pub fn bindings(&mut self, refusals: &[(Problem, bool)], now_s: u64) {
        let found = refusals.iter();
        let found = found.map(|(problem, last_good)| of_document(problem, *last_good, now_s));
        replace(&mut self.bindings, found.collect());
    }

    /// What is wrong with certificates and keys.
    pub(crate) fn secrets(&mut self, troubles: &[Trouble], now_s: u64) {
        let found = troubles.iter().map(|trouble| ProblemView {
            severity: match trouble.kind {
                Kind::Concern => severity(Severity::Warning),
                Kind::LastGood | Kind::Refused => severity(Severity::Error),
            }
            .to_owned(),
            last_good: trouble.kind == Kind::LastGood,
            ..whole(&trouble.place, trouble.message.clone(), now_s)
        });
        replace(&mut self.secrets, found.collect());
    }

    /// What may have been in force and is not known any more, and what is done about it.
    pub fn unknown(&mut self, message: Option<String>, now_s: u64) {
        replace_one(&mut self.unknown, message, now_s);
    }

    /// Why the newest generation is not in force, if it is not.
    pub fn generation(&mut self, message: Option<String>, now_s: u64) {
        replace_one(&mut self.generation, message, now_s);
    }

    /// All of them, errors first.
    pub fn view(&self) -> Vec<ProblemView> {
        let mut all: Vec<_> = [
            &self.folders,
            &self.documents,
            &self.bindings,
            &self.secrets,
        ]
        .into_iter()
        .flatten()
        .chain(&self.unknown)
        .chain(&self.generation)
        .cloned()
        .collect();
        all.sort_by(|a, b| {
            (&a.severity, &a.file, a.line, a.column).cmp(&(&b.severity, &b.file, b.line, b.column))
        });
        all
    }
}

/// Replaces problems, keeps the moment of those that stay, logs those that are new.
fn replace(held: &mut Vec<ProblemView>, mut found: Vec<ProblemView>) {
    for problem in &mut found {
        let same = |old: &&ProblemView| {
            (&old.file, old.line, old.column, &old.message, old.last_good)
                == (
                    &problem.file,
                    problem.line,
                    problem.column,
                    &problem.message,
                    problem.last_good,
                )
        };
        let (file, line) = place(problem);
        match held.iter().find(same) {
            Some(old) => problem.since_s = old.since_s,
            None if problem.severity == "error" => tracing::error!(
                file,
                line,
                last_good = problem.last_good,
                "{}",
                problem.message
            ),
            None => tracing::warn!(file, line, "{}", problem.message),
        }
    }
    for problem in ended(held, &found) {
        let (file, line) = place(problem);
        tracing::info!(file, line, "mended: {}", problem.message);
    }
    *held = found;
}

/// File and line, as far as there are any: a log line has no field that says nothing.
fn place(problem: &ProblemView) -> (Option<&str>, Option<u32>) {
    let file = Some(&*problem.file).filter(|file| !file.is_empty());
    (file, Some(problem.line).filter(|line| *line != 0))
}

/// Problems that are there no more; one that only moved to another line still is.
fn ended<'a>(
    held: &'a [ProblemView],
    found: &'a [ProblemView],
) -> impl Iterator<Item = &'a ProblemView> {
    let is = |a: &ProblemView, b: &ProblemView| (&a.file, &a.message) == (&b.file, &b.message);
    held.iter()
        .filter(move |old| !found.iter().any(|new| is(old, new)))
}

/// As [`replace`], for a problem there is at most one of; it keeps `/readyz` at 503.
fn replace_one(held: &mut Option<ProblemView>, message: Option<String>, now_s: u64) {
    let mut all: Vec<_> = held.take().into_iter().collect();
    let found = message.map(|message| ProblemView {
        unready: true,
        ..whole("", message, now_s)
    });
    replace(&mut all, found.into_iter().collect());
    *held = all.pop();
}

fn of_document(problem: &Problem, last_good: bool, now_s: u64) -> ProblemView {
    ProblemView {
        file: problem
            .origin
            .as_ref()
            .map(Origin::to_string)
            .unwrap_or_default(),
        severity: severity(problem.severity).to_owned(),
        line: problem.line,
        column: problem.column,
        // The view has the place and the severity in fields of its own.
        message: problem.said().to_string(),
        last_good: last_good && problem.severity == Severity::Error,
        unready: false,
        since_s: now_s,
    }
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

fn whole(file: &str, message: String, now_s: u64) -> ProblemView {
    ProblemView {
        file: file.to_owned(),
        severity: "error".to_owned(),
        line: 0,
        column: 0,
        message,
        last_good: false,
        unready: false,
        since_s: now_s,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_ends_when_it_is_found_no_more() {
        let at = |file: &str, line, message: &str| ProblemView {
            line,
            ..whole(file, message.to_owned(), 0)
        };
        let held = [at("a", 1, "x"), at("a", 2, "y"), at("b", 1, "x")];
        let found = [at("a", 7, "x"), at("b", 1, "z")];
        let ended: Vec<_> = ended(&held, &found).collect();
        assert_eq!(ended, [&held[1], &held[2]]);
    }

    #[test]
    fn a_log_line_names_no_place_where_there_is_none() {
        let problem = whole("policies", "gone".to_owned(), 0);
        assert_eq!(place(&problem), (Some("policies"), None));
        assert_eq!(place(&whole("", "all".to_owned(), 0)), (None, None));
        let problem = ProblemView { line: 3, ..problem };
        assert_eq!(place(&problem), (Some("policies"), Some(3)));
    }

    #[test]
    fn how_much_it_matters_is_said_once() {
        let problem = Problem {
            origin: Some("a.yaml".into()),
            document: None,
            line: 3,
            column: 5,
            field: "spec".into(),
            value: None,
            message: "odd".into(),
            hint: None,
            severity: Severity::Warning,
        };
        let view = of_document(&problem, false, 0);
        assert_eq!((&*view.severity, &*view.message), ("warning", "spec: odd"));
    }
}
