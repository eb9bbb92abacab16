//! The rules of one binding: parsed once, then asked for every request.

mod seen;
#[cfg(test)]
mod tests;

use serde::Deserialize;
use tidegate_re2::Pattern;
use tidegate_sdk::{Decision, Request};

use self::seen::Seen;

/// Rules, any of which allows.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    /// Some rule changes headers: then the first that matches is not the last word.
    act: bool,
}

/// One rule; absent parts match anything, the others must all match.
#[derive(Debug)]
struct Rule {
    method: Option<Pattern>,
    path: Option<Pattern>,
    host: Option<Pattern>,
    headers: Vec<HeaderRule>,
    /// Headers that need not be as they should for the rule to match, but are made so.
    actions: Vec<Action>,
    /// It means CONNECT, which no rule does by the way: nobody looks into the tunnel.
    connect: bool,
}

/// A header that must be there, and perhaps have exactly this value.
#[derive(Debug)]
struct HeaderRule {
    name: String,
    value: Option<String>,
}

/// A header that should have exactly this value (any, if it is empty), and what is done if
/// it has not.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Action {
    name: String,
    #[serde(default)]
    value: String,
    mismatch: Mismatch,
}

/// What is done with a header that is not as it should be; the rule matches all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Mismatch {
    /// It is told.
    Log,
    /// The value is added to what is there.
    Add,
    /// What is there is removed.
    Delete,
    /// The value replaces what is there.
    Replace,
}

/// The configuration as the policy compiler writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRules {
    rules: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    method: Option<String>,
    path: Option<String>,
    host: Option<String>,
    #[serde(default)]
    headers: Vec<(String, Option<String>)>,
    #[serde(default)]
    actions: Vec<Action>,
}

impl Rules {
    /// Reads `{"rules": [{"method", "path", "host", "headers", "actions"}]}`.
    ///
    /// # Errors
    ///
    /// A sentence that names the rule and what is wrong with it.
    pub fn parse(config: &str) -> Result<Self, String> {
        let raw: RawRules = serde_json::from_str(config)
            .map_err(|error| format!("the configuration is not a list of HTTP rules: {error}"))?;
        let compile =
            |(index, rule)| Rule::compile(rule).map_err(|error| format!("rules[{index}].{error}"));
        let rules = raw.rules.into_iter().enumerate().map(compile);
        let rules = rules.collect::<Result<Vec<Rule>, _>>()?;
        let act = rules.iter().any(|rule| !rule.actions.is_empty());
        Ok(Self { rules, act })
    }

    /// Headers the rules look at, lower case.
    pub fn header_names(&self) -> impl Iterator<Item = &str> {
        let headers = self.rules.iter().flat_map(|rule| &rule.headers);
        let acted = self.rules.iter().flat_map(|rule| &rule.actions);
        headers
            .map(|header| header.name.as_str())
            .chain(acted.map(|action| action.name.as_str()))
    }

    /// Allows a request by the first rule that matches. If some rule changes headers, each
    /// that matches does, in order; later ones are asked about what earlier ones made of it.
    pub fn decide(&self, request: &Request) -> Decision {
        let mut seen = Seen::of(request);
        let mut allowed_by = None;
        for (index, rule) in self.rules.iter().enumerate() {
            if !rule.matches(request, &seen) {
                continue;
            }
            for action in &rule.actions {
                action.take(&mut seen);
            }
            allowed_by.get_or_insert(index);
            if !self.act {
                break;
            }
        }
        match allowed_by.map(u32::try_from) {
            Some(Ok(index)) => seen.into_decision().by_rule(index),
            // There are never so many rules.
            Some(Err(_)) | None => Decision::deny(403, ""),
        }
    }
}

impl Rule {
    fn compile(raw: RawRule) -> Result<Self, String> {
        let pattern = |field: &str, expression: Option<String>| {
            let Some(expression) = expression else {
                return Ok(None);
            };
            Pattern::new(&expression).map(Some).map_err(|refusal| {
                format!("{field}: `{expression}` is not a usable expression: {refusal}")
            })
        };
        let header = |(name, value): (String, Option<String>)| HeaderRule {
            name: name.to_ascii_lowercase(),
            value,
        };
        Ok(Self {
            connect: raw.method.as_deref() == Some("CONNECT") && raw.host.is_some(),
            method: pattern("method", raw.method)?,
            path: pattern("path", raw.path)?,
            host: pattern("host", raw.host)?,
            headers: raw.headers.into_iter().map(header).collect(),
            actions: raw
                .actions
                .into_iter()
                .map(|action| Action {
                    name: action.name.to_ascii_lowercase(),
                    ..action
                })
                .collect(),
        })
    }

    fn matches(&self, request: &Request, seen: &Seen<'_>) -> bool {
        let fits = |pattern: &Option<Pattern>, value: &str| {
            pattern
                .as_ref()
                .is_none_or(|pattern| pattern.matches(value.as_bytes()))
        };
        (self.connect || &*request.method != "CONNECT")
            && fits(&self.method, &request.method)
            && fits(&self.path, &request.path)
            && fits(&self.host, &request.authority)
            && self.headers.iter().all(|header| header.matches(seen))
            && self.actions.iter().all(|action| action.can_be_taken(seen))
    }
}

impl HeaderRule {
    fn matches(&self, seen: &Seen<'_>) -> bool {
        match &self.value {
            None => seen.has(&self.name),
            Some(wanted) => seen.is(&self.name, wanted),
        }
    }
}

impl Action {
    fn fits(&self, seen: &Seen<'_>) -> bool {
        match self.value.is_empty() {
            true => seen.has(&self.name),
            false => seen.is(&self.name, &self.value),
        }
    }

    /// Can the header be written as the rule wants it? What is there and is no text cannot be
    /// added to, and then the rule does not match.
    fn can_be_taken(&self, seen: &Seen<'_>) -> bool {
        self.mismatch != Mismatch::Add || self.fits(seen) || seen.text(&self.name).is_some()
    }

    /// Does what is to be done, if it is.
    fn take<'r>(&'r self, seen: &mut Seen<'r>) {
        if self.fits(seen) {
            return;
        }
        match self.mismatch {
            Mismatch::Log => seen.missed(&self.name),
            Mismatch::Add => seen.add(&self.name, &self.value),
            Mismatch::Delete => seen.remove(&self.name),
            Mismatch::Replace => seen.set(&self.name, &self.value),
        }
    }
}
