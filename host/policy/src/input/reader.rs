//! A cursor over the YAML tree: typed reading that knows its path, reports what is
//! wrong where it is, and goes on to find the next problem.

use std::cell::RefCell;

use crate::{
    origin::{At, ObjectKey, Origin},
    problem::{Problem, Severity},
    yaml::{Node, Value},
};

/// Longest value shown in a message, in characters.
const SHOWN: usize = 60;

/// Collects the problems of one document.
pub(crate) struct Findings<'a> {
    origin: &'a Origin,
    document: RefCell<Option<ObjectKey>>,
    list: RefCell<Vec<Problem>>,
}

impl<'a> Findings<'a> {
    pub(crate) fn new(origin: &'a Origin) -> Self {
        Findings {
            origin,
            document: RefCell::new(None),
            list: RefCell::default(),
        }
    }

    fn name_document(&self, key: ObjectKey) {
        *self.document.borrow_mut() = Some(key);
    }

    /// Errors and warnings, apart.
    pub(crate) fn take(self) -> (Vec<Problem>, Vec<Problem>) {
        let key = self.document.into_inner();
        let mut all = self.list.into_inner();
        for problem in &mut all {
            problem.document.clone_from(&key);
        }
        all.into_iter().partition(|p| p.severity == Severity::Error)
    }
}

/// The known word that somebody may have meant who wrote `word`, if one is near.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let distance =
        |other: &str| strsim::damerau_levenshtein(&word.to_lowercase(), &other.to_lowercase());
    let all = known.iter().map(|other| (distance(other), *other));
    let near = all
        .min()
        .filter(|(distance, other)| *distance <= 2.max(other.len() / 3));
    near.map(|(_, other)| other)
}

/// What would be right instead of `word`: the nearest of the known ones, and all of them.
pub(crate) fn or_one_of(word: &str, known: &[&str]) -> String {
    let all = format!("one of: {}", known.join(", "));
    match nearest(word, known) {
        Some(other) => format!("did you mean `{other}`? {all}"),
        None => all,
    }
}

/// What was read, or `None` if something of it could not be. Reads everything in any case,
/// so that people are told all that is wrong at once.
pub(crate) fn all<T>(read: impl IntoIterator<Item = Option<T>>) -> Option<Vec<T>> {
    let read: Vec<Option<T>> = read.into_iter().collect();
    read.into_iter().collect()
}

/// A field that may be left out: what it says, `otherwise` if it is not there, `None` if it
/// cannot be read.
pub(crate) fn optional<'a, T>(
    field: Option<&Cursor<'a>>,
    otherwise: T,
    read: impl Fn(&Cursor<'a>) -> Option<T>,
) -> Option<T> {
    field.map_or(Some(otherwise), read)
}

/// A place in a document.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    node: &'a Node,
    path: String,
    findings: &'a Findings<'a>,
}

impl<'a> Cursor<'a> {
    pub(crate) fn root(node: &'a Node, findings: &'a Findings<'a>) -> Self {
        Cursor {
            node,
            path: String::new(),
            findings,
        }
    }

    pub(crate) fn node(&self) -> &'a Node {
        self.node
    }

    /// Where the value stands.
    pub(crate) fn at(&self) -> At {
        At {
            path: self.path.clone(),
            line: self.node.line,
            column: self.node.column,
        }
    }

    /// From now on, problems belong to the document with this key.
    pub(crate) fn name_document(&self, key: ObjectKey) {
        self.findings.name_document(key);
    }

    /// Reports an error here.
    pub(crate) fn error(&self, message: impl Into<String>, hint: &str) {
        self.report(Severity::Error, message.into(), hint);
    }

    /// Reports a warning here.
    pub(crate) fn warn(&self, message: impl Into<String>, hint: &str) {
        self.report(Severity::Warning, message.into(), hint);
    }

    fn report(&self, severity: Severity, message: String, hint: &str) {
        let value = match self.node.value {
            Value::Null => None,
            _ => self.node.scalar(),
        };
        self.findings.list.borrow_mut().push(Problem {
            origin: Some(self.findings.origin.clone()),
            document: None,
            line: self.node.line,
            column: self.node.column,
            field: self.path.clone(),
            value: value.map(|value| value.chars().take(SHOWN).collect()),
            message,
            hint: (!hint.is_empty()).then(|| hint.to_owned()),
            severity,
        });
    }

    fn expected(&self, what: &str) {
        self.error(format!("expected {what}, found {}", self.node.kind()), "");
    }

    /// The fields of a mapping. Keys not in `known` are reported, with the nearest
    /// known one as a suggestion.
    pub(crate) fn fields(&self, known: &[&str]) -> Option<Fields<'a>> {
        let entries = self.entries()?;
        for (key, cursor) in &entries {
            if !known.contains(&key.as_str()) {
                cursor.unknown(key, known);
            }
        }
        Some(Fields {
            entries,
            parent: self.clone(),
        })
    }

    fn unknown(&self, key: &str, known: &[&str]) {
        let hint = match nearest(key, known) {
            Some(other) => format!("did you mean `{other}`?"),
            None => format!("known here: {}", known.join(", ")),
        };
        self.error("no such field", &hint);
    }

    /// All entries of a mapping with free keys, in the order of the file.
    pub(crate) fn entries(&self) -> Option<Vec<(String, Cursor<'a>)>> {
        let Value::Map(entries) = &self.node.value else {
            self.expected("a mapping");
            return None;
        };
        let named = entries.iter().filter_map(|(key, node)| {
            let Some(name) = key.scalar() else {
                self.error("keys must be plain words", "");
                return None;
            };
            let path = match self.path.as_str() {
                "" => name.clone(),
                parent => format!("{parent}.{name}"),
            };
            let cursor = Cursor {
                node,
                path,
                findings: self.findings,
            };
            Some((name, cursor))
        });
        Some(named.collect())
    }

    /// The items of a list.
    pub(crate) fn items(&self) -> Option<Vec<Cursor<'a>>> {
        let Value::List(items) = &self.node.value else {
            self.expected("a list");
            return None;
        };
        let cursors = items.iter().enumerate().map(|(index, node)| Cursor {
            node,
            path: format!("{}[{index}]", self.path),
            findings: self.findings,
        });
        Some(cursors.collect())
    }

    /// A string. Numbers and booleans are refused: whoever wrote `port: 80` where the
    /// format wants a string shall hear about the quotes.
    pub(crate) fn text(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
                let shown = self.node.scalar().unwrap_or_default();
                let hint = format!("write it in quotes: \"{shown}\"");
                self.error(
                    format!("expected a string, found {}", self.node.kind()),
                    &hint,
                );
                None
            }
            _ => {
                self.expected("a string");
                None
            }
        }
    }

    /// A string that is not empty.
    pub(crate) fn word(&self) -> Option<&'a str> {
        let text = self.text()?;
        if text.is_empty() {
            self.error("must not be empty", "");
            return None;
        }
        Some(text)
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        match self.node.value {
            Value::Bool(value) => Some(value),
            _ => {
                self.error(
                    format!("expected true or false, found {}", self.node.kind()),
                    "",
                );
                None
            }
        }
    }

    /// A whole number within the bounds.
    pub(crate) fn number(&self, first: u32, last: u32) -> Option<u32> {
        if let Value::Int(value) = self.node.value
            && let Ok(value) = u32::try_from(value)
            && (first..=last).contains(&value)
        {
            return Some(value);
        }
        self.error(format!("expected a number from {first} to {last}"), "");
        None
    }

    /// A port number from 1.
    pub(crate) fn port(&self) -> Option<u16> {
        self.number(1, u16::MAX.into())
            .and_then(|port| u16::try_from(port).ok())
    }

    /// Anything that reads from a string with `parse`; `what` names it for people.
    pub(crate) fn parsed<T>(&self, what: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let parsed = parse(self.text()?);
        if parsed.is_none() {
            self.error(format!("not {what}"), "");
        }
        parsed
    }

    /// One of the words.
    pub(crate) fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.error("no such value", &or_one_of(text, &all));
        }
        found.map(|(_, value)| *value)
    }
}

/// The fields of a mapping.
pub(crate) struct Fields<'a> {
    entries: Vec<(String, Cursor<'a>)>,
    parent: Cursor<'a>,
}

impl<'a> Fields<'a> {
    /// The field, unless it is absent or null (which mean the same).
    pub(crate) fn get(&self, key: &str) -> Option<&Cursor<'a>> {
        self.entries
            .iter()
            .find(|(name, cursor)| name == key && cursor.node.value != Value::Null)
            .map(|(_, cursor)| cursor)
    }

    /// The field; its absence is an error.
    pub(crate) fn required(&self, key: &str) -> Option<&Cursor<'a>> {
        let found = self.get(key);
        if found.is_none() {
            self.parent.error(format!("`{key}` is missing"), "");
        }
        found
    }

    /// Items of a list field; `None` if the field is absent or no list.
    pub(crate) fn items(&self, key: &str) -> Option<Vec<Cursor<'a>>> {
        self.get(key)?.items()
    }

    /// Reports every field of `keys` that is there as something not done yet.
    pub(crate) fn unsupported(&self, keys: &[(&str, &str)]) {
        for (key, hint) in keys {
            if let Some(cursor) = self.get(key) {
                cursor.error("not supported yet", hint);
            }
        }
    }
}
