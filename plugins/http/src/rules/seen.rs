//! The header of a request as rules see it: as received, and what earlier rules made of it.

use std::borrow::Cow;

use tidegate_sdk::{Decision, Level, Request};

/// A request's header, with the changes to it.
pub(super) struct Seen<'r> {
    request: &'r Request,
    /// By name, in the order in which they were touched first: the value, or that it is gone.
    changes: Vec<(&'r str, Option<String>)>,
    /// Names whose values are not as rules want them, and pass.
    missed: Vec<&'r str>,
}

impl<'r> Seen<'r> {
    pub(super) fn of(request: &'r Request) -> Self {
        Self {
            request,
            changes: Vec::new(),
            missed: Vec::new(),
        }
    }

    fn change(&self, name: &str) -> Option<Option<&str>> {
        let mut changes = self.changes.iter();
        changes.find_map(|(changed, to)| (*changed == name).then_some(to.as_deref()))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        match self.change(name) {
            Some(change) => change.is_some(),
            None => self.request.headers.get(name).is_some(),
        }
    }

    /// A header sent several times counts as its values joined by commas, as RFC 9110
    /// §5.2 reads it and Envoy compares it.
    pub(super) fn is(&self, name: &str, wanted: &str) -> bool {
        if let Some(change) = self.change(name) {
            return change == Some(wanted);
        }
        let mut values = self.request.headers.get_all(name);
        let Some(first) = values.next() else {
            return false;
        };
        let mut rest = wanted.as_bytes().strip_prefix(first);
        for value in values {
            rest = rest
                .and_then(|rest| rest.strip_prefix(b","))
                .and_then(|rest| rest.strip_prefix(value));
        }
        rest.is_some_and(<[u8]>::is_empty)
    }

    /// All values as one line, empty if there is none; `None` if they are no text.
    pub(super) fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        if let Some(change) = self.change(name) {
            return Some(change.unwrap_or_default().into());
        }
        let mut text = String::new();
        for value in self.request.headers.get_all(name) {
            join(&mut text, name, std::str::from_utf8(value).ok()?);
        }
        Some(text.into())
    }

    pub(super) fn missed(&mut self, name: &'r str) {
        self.missed.push(name);
    }

    /// As another line of the header (RFC 9110 §5.3 has them be one list).
    pub(super) fn add(&mut self, name: &'r str, value: &str) {
        let mut text = self.text(name).unwrap_or_default().into_owned();
        join(&mut text, name, value);
        self.put(name, Some(text));
    }

    pub(super) fn set(&mut self, name: &'r str, value: &str) {
        self.put(name, Some(value.to_owned()));
    }

    pub(super) fn remove(&mut self, name: &'r str) {
        if self.has(name) {
            self.put(name, None);
        }
    }

    fn put(&mut self, name: &'r str, value: Option<String>) {
        match self.changes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, change)) => *change = value,
            None => self.changes.push((name, value)),
        }
    }

    /// Allows the request, with the changes.
    pub(super) fn into_decision(self) -> Decision {
        for name in &self.missed {
            // Its value is nobody's business.
            let message = format!("a request passes whose header `{name}` is not as a rule wants");
            tidegate_sdk::count("header-mismatch", 1);
            tidegate_sdk::log(Level::Info, &message);
        }
        let unchanged = Decision::allow();
        let changes = self.changes.into_iter();
        changes.fold(unchanged, |decision, (name, change)| match change {
            Some(value) => decision.and_set_header(name, value),
            None => decision.and_remove_header(name),
        })
    }
}

/// A further value of a list. Cookies have a list of their own kind (RFC 6265 §4.2.1).
fn join(text: &mut String, name: &str, value: &str) {
    if !text.is_empty() {
        text.push_str(if name == "cookie" { "; " } else { ", " });
    }
    text.push_str(value);
}
