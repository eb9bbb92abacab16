//! Everything wrong with what was written, with the moment it was first seen.

use std::collections::BTreeMap;

use tidegate_policy::{Problem, Severity};

use super::{
    documents::{Choice, Documents},
    view::ProblemView,
};

/// Problems by where they come from; each source replaces its own.
#[derive(Debug, Default)]
pub struct Problems {
    documents: Vec<ProblemView>,
    folders: Vec<ProblemView>,
    generation: Option<ProblemView>,
}

impl Problems {
    /// Problems of document files; `more` are those found with all files together.
    pub fn documents(&mut self, documents: &Documents, more: &[Problem], now_s: u64) {
        let mut found = Vec::new();
        for (_, choice, problems) in documents.files() {
            found.extend(
                problems.map(|problem| of_document(problem, choice == Choice::LastGood, now_s)),
            );
        }
        found.extend(
            more.iter()
                .map(|problem| of_document(problem, false, now_s)),
        );
        replace(&mut self.documents, found);
    }

    /// Folders that could not be listed.
    pub fn folders(&mut self, unreadable: &BTreeMap<String, String>, now_s: u64) {
        let found = unreadable
            .iter()
            .map(|(folder, message)| whole(folder, format!("cannot list {message}"), now_s));
        replace(&mut self.folders, found.collect());
    }

    /// Why the newest generation is not in force, if it is not.
    pub fn generation(&mut self, message: Option<String>, now_s: u64) {
        let mut held: Vec<_> = self.generation.take().into_iter().collect();
        replace(
            &mut held,
            message
                .map(|message| whole("", message, now_s))
                .into_iter()
                .collect(),
        );
        self.generation = held.pop();
    }

    /// All of them, errors first.
    pub fn view(&self) -> Vec<ProblemView> {
        let mut all: Vec<_> = [&self.folders, &self.documents]
            .into_iter()
            .flatten()
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
        since_s: now_s,
    }
}
