//! Everything wrong with what was written, with the moment it was first seen.

use std::collections::BTreeMap;

use tidegate_policy::{Problem, Severity};

use super::{
    documents::{Choice, Documents},
    folder::Scan,
    view::ProblemView,
};

/// Problems by where they come from; each source replaces its own.
#[derive(Debug, Default)]
pub struct Problems {
    documents: Vec<ProblemView>,
    folders: Vec<ProblemView>,
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

    /// Folders of which nothing can be said, `vanished`, and entries that are not read.
    pub fn folders(&mut self, vanished: &BTreeMap<String, String>, scan: &Scan, now_s: u64) {
        let mut vanished = vanished.clone();
        // Plugins are not documents, but their folder is one of ours.
        if let Some(why) = scan.unreadable.get("plugins") {
            vanished.insert("plugins".to_owned(), why.clone());
        }
        let vanished = vanished.into_iter().map(|(folder, message)| ProblemView {
            last_good: true,
            unready: true,
            ..whole(&folder, message, now_s)
        });
        let ignored = scan.ignored.iter().map(|(name, why)| ProblemView {
            severity: severity(Severity::Warning).to_owned(),
            ..whole(name, why.clone(), now_s)
        });
        replace(&mut self.folders, vanished.chain(ignored).collect());
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
        let mut all: Vec<_> = [&self.folders, &self.documents]
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
        match held.iter().find(same) {
            Some(old) => problem.since_s = old.since_s,
            None if problem.severity == "error" => tracing::error!(
                file = problem.file,
                line = problem.line,
                last_good = problem.last_good,
                "{}",
                problem.message
            ),
            None => tracing::warn!(
                file = problem.file,
                line = problem.line,
                "{}",
                problem.message
            ),
        }
    }
    *held = found;
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
    // The view has the place in fields of its own.
    let text = problem.to_string();
    let place = format!("{}:{}:{}: ", problem.file, problem.line, problem.column);
    ProblemView {
        file: problem.file.clone(),
        severity: severity(problem.severity).to_owned(),
        line: problem.line,
        column: problem.column,
        message: text.strip_prefix(&place).unwrap_or(&text).to_owned(),
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
