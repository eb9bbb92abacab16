//! `headers` and `headerMatches` of an HTTP rule.

use tidegate_wire::http::HeaderEdit;

use super::super::reader::{Cursor, optional};
use crate::l7::{HeaderAction, Mismatch};

/// `Name: value`, split at the first blank; without a blank the name alone.
pub(super) fn read(cursor: &Cursor<'_>) -> Option<(String, Option<String>)> {
    let text = cursor.word()?;
    let (name, value) = match text.split_once(' ') {
        Some((name, value)) => (name.strip_suffix(':').unwrap_or(name), Some(value)),
        None => (text, None),
    };
    if value.is_none() && name.contains(':') {
        cursor.warn(
            "asks for a header of exactly this name, which no request can have",
            "put a blank behind the colon to compare the value",
        );
    }
    if name.is_empty() {
        cursor.error("has no header name", "write `Name: value`");
        return None;
    }
    Some((name.to_ascii_lowercase(), value.map(str::to_owned)))
}

/// One of `headerMatches`.
pub(super) enum HeaderMatch {
    /// A request without it is not meant: name, and the exact value if there is one.
    Must(String, Option<String>),
    /// A request is made to have it.
    Made(HeaderAction),
}

pub(super) fn read_match(cursor: &Cursor<'_>) -> Option<HeaderMatch> {
    let fields = cursor.fields(&["name", "value", "secret", "mismatch"])?;
    fields.unsupported(&[("secret", "write the value, or bind a plugin that knows it")]);
    let name = fields.required("name")?.word()?.to_ascii_lowercase();
    let value = match fields.get("value") {
        Some(value) => value.text()?.to_owned(),
        None => String::new(),
    };
    let mismatch = optional(fields.get("mismatch"), None, |written| {
        written
            .one_of(&[
                ("LOG", Mismatch::Log),
                ("ADD", Mismatch::Add),
                ("DELETE", Mismatch::Delete),
                ("REPLACE", Mismatch::Replace),
            ])
            .map(Some)
    })?;
    let Some(mismatch) = mismatch else {
        return Some(HeaderMatch::Must(
            name,
            Some(value).filter(|v| !v.is_empty()),
        ));
    };
    // The same code decides about what is written into a request.
    let edit = HeaderEdit {
        set: vec![(name.clone(), value.clone())],
        remove: Vec::new(),
    };
    if mismatch != Mismatch::Log
        && let Err(error) = edit.checked()
    {
        cursor.error(
            format!("no request can be made so: {error}"),
            "another header, or `mismatch: LOG`",
        );
        return None;
    }
    if value.is_empty() && matches!(mismatch, Mismatch::Add | Mismatch::Replace) {
        cursor.warn(
            "without a value, any is right: a header that is missing is added empty",
            "write the value it should have",
        );
    }
    if value.is_empty() && mismatch == Mismatch::Delete {
        cursor.warn(
            "without a value, any is right: there is never anything to delete",
            "write the value it should have",
        );
    }
    Some(HeaderMatch::Made(HeaderAction {
        name,
        value,
        mismatch,
    }))
}
