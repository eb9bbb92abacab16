//! Errors a person can act on: where, which key, what was written, what would be right.

use std::{fmt, path::PathBuf};

use serde_path_to_error::Segment;
use serde_saphyr::{Error as YamlError, Location};

use super::Place;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is not a valid configuration.
    #[error("{}", lines(.0))]
    Invalid(Vec<Complaint>),
}

/// One complaint about one place.
#[derive(Debug)]
pub struct Complaint {
    /// The file, as the caller named it.
    pub file: String,
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// Path of the key, e.g. `node.outsideDevices[0]`; empty for the file as a whole.
    field: String,
    message: String,
    hint: Option<String>,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            self.file,
            self.line,
            self.column,
            self.said()
        )
    }
}

impl Complaint {
    /// What is wrong, without the place: `field: message; hint`.
    pub fn said(&self) -> String {
        let field = match self.field.as_str() {
            "" => String::new(),
            field => format!("{field}: "),
        };
        let hint = self.hint.iter().map(|hint| format!("; {hint}"));
        format!("{field}{}{}", self.message, hint.collect::<String>())
    }
}

/// A line for each.
fn lines(complaints: &[Complaint]) -> String {
    let lines: Vec<String> = complaints.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

impl Complaint {
    /// The same, with a place that was noted before.
    pub(super) fn at(
        at: Place,
        file: &str,
        field: &str,
        value: impl fmt::Display,
        message: &str,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            line: at.line.into(),
            column: at.column.into(),
            ..Self::value(file, Location::UNKNOWN, field, value, message, hint)
        }
    }

    /// A value that has the right type and still makes no sense.
    pub(super) fn value(
        file: &str,
        at: Location,
        field: &str,
        value: impl fmt::Display,
        message: &str,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            file: file.to_owned(),
            line: at.line(),
            column: at.column(),
            field: field.to_owned(),
            message: format!("{message} `{value}`"),
            hint: Some(hint.into()),
        }
    }
}

impl Complaint {
    /// A key that nobody reads, among those that are read there.
    pub(super) fn unknown_key(
        (file, at): (&str, Location),
        field: String,
        key: &str,
        known: &[&str],
    ) -> Self {
        Self {
            file: file.to_owned(),
            line: at.line(),
            column: at.column(),
            field,
            message: format!("unknown key `{key}`"),
            hint: Some(suggest(key, known)),
        }
    }
}

impl ConfigError {
    /// Is it known all the same which folders are meant, and where the agent's own are?
    pub fn spares_folders(&self) -> bool {
        match self {
            Self::Unreadable { .. } => false,
            Self::Invalid(complaints) => complaints.iter().all(|complaint| {
                let field = complaint.field.as_str();
                !field.is_empty() && !field.starts_with("folders")
            }),
        }
    }

    /// Turns the YAML library's error into one that names the key and offers a way out.
    pub(super) fn from_yaml(file: &str, text: &str, path: Option<&str>, error: &YamlError) -> Self {
        let error = error.without_snippet();
        let at = error.location().unwrap_or(Location::UNKNOWN);
        let written = written_at(text, at);
        let mut field = path.unwrap_or_default().to_owned();
        if let YamlError::DuplicateMappingKey { key: Some(key), .. } = error {
            push_key(&mut field, key);
        }
        let (message, hint) = match error {
            YamlError::SerdeUnknownField {
                field, expected, ..
            } => (
                format!("unknown key `{field}`"),
                Some(suggest(field, expected)),
            ),
            YamlError::SerdeUnknownVariant {
                variant, expected, ..
            } => (
                format!("unknown value `{variant}`"),
                Some(suggest(variant, expected)),
            ),
            YamlError::DuplicateMappingKey { key: Some(key), .. } => (
                format!("the key `{key}` is written twice"),
                Some("keep one of them".into()),
            ),
            YamlError::InvalidScalar { ty, .. } => (
                format!("`{written}` does not fit"),
                Some(format!("expected {}", plain(ty))),
            ),
            YamlError::SerdeInvalidType { expected, .. }
            | YamlError::SerdeInvalidValue { expected, .. } => (
                format!("`{written}` does not fit"),
                Some(format!("expected {expected}")),
            ),
            YamlError::Unexpected { expected, .. } => {
                let expected = match *expected {
                    "mapping start" => "keys and values below it",
                    "sequence start" => "a list",
                    other => other,
                };
                (
                    format!("`{written}` does not fit"),
                    Some(format!("expected {expected}")),
                )
            }
            other => (without_location(&other.to_string()), None),
        };
        Self::Invalid(vec![Complaint {
            file: file.to_owned(),
            line: at.line(),
            column: at.column(),
            field,
            message,
            hint,
        }])
    }
}

/// The key a path leads to, without the libraries' own layers: `value`, the inside of a
/// value whose place is kept, and steps of which nothing is known (the key was not read
/// yet, or there is none). Empty for the file as a whole.
pub(super) fn field_path(path: &serde_path_to_error::Path) -> String {
    let mut field = String::new();
    for step in path {
        match step {
            Segment::Seq { index } => field.push_str(&format!("[{index}]")),
            Segment::Map { key } if key != "value" => push_key(&mut field, key),
            Segment::Map { .. } | Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    field
}

fn push_key(field: &mut String, key: &str) {
    if !field.is_empty() {
        field.push('.');
    }
    field.push_str(key);
}

/// What a Rust scalar type is called in a configuration file.
fn plain(ty: &str) -> &str {
    match ty {
        "u8" | "u16" | "u32" | "u64" => "a whole number",
        "bool" => "`true` or `false`",
        other => other,
    }
}

/// The nearest of the expected words if one is near, else all of them.
fn suggest(written: &str, expected: &[&str]) -> String {
    let nearest = expected
        .iter()
        .map(|word| {
            let distance =
                strsim::damerau_levenshtein(&written.to_lowercase(), &word.to_lowercase());
            (distance, word)
        })
        .min();
    match nearest {
        // Two slips in a word of ordinary length; a short word forgives one.
        Some((distance, word)) if distance <= 1 + word.len() / 6 => {
            format!("did you mean `{word}`?")
        }
        _ => format!("expected one of {}", quoted(expected)),
    }
}

fn quoted(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The rest of the line an error points at, without its comment: what the user wrote.
fn written_at(text: &str, at: Location) -> String {
    let line = at
        .line()
        .checked_sub(1)
        .and_then(|line| text.lines().nth(usize::try_from(line).ok()?));
    let skip = usize::try_from(at.column().saturating_sub(1)).unwrap_or(usize::MAX);
    let rest: String = line.unwrap_or_default().chars().skip(skip).collect();
    let rest = rest.split(" #").next().unwrap_or_default().trim();
    // In flow style a bare word ends where the next entry, or the end of all, begins.
    match rest.starts_with(['"', '\'', '[', '{']) {
        true => rest.to_owned(),
        false => {
            let inside = is_flow(line.unwrap_or_default(), skip);
            let end = rest.find([',', '}', ']']).filter(|_| inside);
            rest[..end.unwrap_or(rest.len())].trim_end().to_owned()
        }
    }
}

/// Is a bracket open at this place of a line, in characters? One of a line before is not
/// seen: then the value is shown with what follows it.
fn is_flow(line: &str, column: usize) -> bool {
    let before: String = line.chars().take(column).collect();
    before.matches(['{', '[']).count() > before.matches(['}', ']']).count()
}

/// The library's message without the place, which we print in front.
fn without_location(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let end = first
        .find(" at line ")
        .or_else(|| first.find(": line "))
        .unwrap_or(first.len());
    first[..end].to_owned()
}
