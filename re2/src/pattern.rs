//! One regular expression that must match a whole value, as RE2 would.
//!
//! Most expressions in policies are plain words (`GET`), a few words (`GET|HEAD`) or
//! a prefix (`/public/.*`). Those are compared directly; only the rest costs a regex
//! engine.

use regex::bytes::{Regex, RegexBuilder};

/// Memory one compiled expression may take, bytes. Policies are written by people;
/// what exceeds this is a mistake that should be named, not tried.
const SIZE_LIMIT: usize = 1 << 20;
/// Memory the lazy DFA of one expression may take while it matches, bytes. An expression
/// that needs more is matched without it, slower but all the same.
const CACHE_LIMIT: usize = 256 << 10;

/// A compiled expression.
#[derive(Debug)]
pub struct Pattern(Kind);

#[derive(Debug)]
enum Kind {
    /// `.*`: any value of one line.
    Anything,
    /// Exactly one of these words.
    Words(Vec<Vec<u8>>),
    /// This word, then anything up to the end, on one line.
    Prefix(Vec<u8>),
    /// The engine.
    Regex(Regex),
}

impl Pattern {
    /// Compiles an expression. Case matters, `.` excludes the line feed, classes such
    /// as `\w` are ASCII: RE2's defaults.
    ///
    /// # Errors
    ///
    /// A sentence with the engine's reason.
    pub fn new(expression: &str) -> Result<Self, String> {
        if let Some(kind) = without_engine(expression) {
            return Ok(Self(kind));
        }
        Self::with_engine(expression)
    }

    /// Compiles without the shortcuts; they must agree with this.
    ///
    /// # Errors
    ///
    /// As [`Pattern::new`].
    pub fn with_engine(expression: &str) -> Result<Self, String> {
        // Compiled once alone, so that `a)|(b` is not made valid by our group.
        let build = |text: &str| {
            RegexBuilder::new(text)
                .unicode(false)
                .size_limit(SIZE_LIMIT)
                .dfa_size_limit(CACHE_LIMIT)
                .build()
                .map_err(|error| format!("`{expression}` is not a usable expression: {error}"))
        };
        build(expression)?;
        build(&format!(r"\A(?:{expression})\z")).map(|regex| Self(Kind::Regex(regex)))
    }

    /// Does the whole value match?
    pub fn matches(&self, value: &[u8]) -> bool {
        match &self.0 {
            Kind::Anything => one_line(value),
            Kind::Words(words) => words.iter().any(|word| word == value),
            Kind::Prefix(prefix) => value.strip_prefix(&prefix[..]).is_some_and(one_line),
            Kind::Regex(regex) => regex.is_match(value),
        }
    }
}

/// What `.*` matches.
fn one_line(value: &[u8]) -> bool {
    !value.contains(&b'\n')
}

/// The comparison an expression amounts to, if it needs no engine.
fn without_engine(expression: &str) -> Option<Kind> {
    // Harmless for a whole match, and common.
    let text = expression.strip_prefix('^').unwrap_or(expression);
    let text = match text.strip_suffix('$') {
        // An escaped dollar is the engine's business.
        Some(rest) if rest.ends_with('\\') => return None,
        Some(rest) => rest,
        None => text,
    };
    let anchored = text.len() != expression.len();
    if text == ".*" {
        return Some(Kind::Anything);
    }
    if let Some(prefix) = text.strip_suffix(".*")
        && let Some(prefix) = plain(prefix)
    {
        return Some(Kind::Prefix(prefix));
    }
    if anchored && text.contains('|') {
        // `^a|b$` anchors one branch each; the whole-value match makes that moot, but
        // let the engine be the judge.
        return None;
    }
    text.split('|')
        .map(plain)
        .collect::<Option<Vec<_>>>()
        .map(Kind::Words)
}

/// The text an expression stands for if it has no operators. `\.` and other escaped
/// punctuation are understood.
fn plain(expression: &str) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(expression.len());
    let mut bytes = expression.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => match bytes.next()? {
                escaped @ (b'.' | b'/' | b'-' | b'+' | b'*' | b'?' | b'$' | b'^' | b'|' | b'('
                | b')' | b'[' | b']' | b'{' | b'}' | b'\\') => text.push(escaped),
                _ => return None,
            },
            b'.' | b'+' | b'*' | b'?' | b'$' | b'^' | b'|' | b'(' | b')' | b'[' | b']' | b'{'
            | b'}' => return None,
            _ => text.push(byte),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(expression: &str, yes: &[&str], no: &[&str]) {
        for pattern in [Pattern::new(expression), Pattern::with_engine(expression)] {
            let pattern = pattern.expect(expression);
            for value in yes {
                assert!(pattern.matches(value.as_bytes()), "{expression} ~ {value}");
            }
            for value in no {
                assert!(
                    !pattern.matches(value.as_bytes()),
                    "{expression} !~ {value}"
                );
            }
        }
    }

    #[test]
    fn a_pattern_matches_whole_values_only() {
        check("GET", &["GET"], &["GET ", "get", "GETS", ""]);
        check("GET|HEAD", &["GET", "HEAD"], &["GETHEAD", "GET|HEAD", ""]);
        check("/public", &["/public"], &["/public/x", "/public?a=1", "/"]);
        check(
            "/public/.*",
            &["/public/", "/public/x"],
            &["/public", "/x/public/"],
        );
        check("^/a$", &["/a"], &["/a$", "^/a", "/ab"]);
        check("^/a|/b$", &["/a", "/b"], &["/ab", "/a/b"]);
        check(r"/a\.b", &["/a.b"], &["/axb"]);
        check(r"/a\$", &["/a$"], &["/a"]);
        check(".*", &["", "x"], &["a\nb"]);
        check("a.*", &["a", "ab"], &["a\n", "ba"]);
        check("", &[""], &["x"]);
        check("a|", &["a", ""], &["a|", "b"]);
        check("/v[0-9]+/x", &["/v1/x", "/v22/x"], &["/v/x", "/v1/x/"]);
        check("(?i)get", &["GET", "get"], &["post"]);
        check(r"/\w+", &["/abc_1"], &["/a-b", "/é"]);
    }

    #[test]
    fn what_is_no_expression_is_named() {
        for wrong in ["(", "a)|(b", "[z-a]", "*a", r"\pN{"] {
            let error = Pattern::new(wrong).expect_err(wrong);
            assert!(error.contains(wrong), "{error}");
        }
    }

    proptest! {
        #[test]
        fn shortcuts_agree_with_the_engine(
            expression in r"\^?[ab/.*|\\$]{0,6}\$?",
            values in prop::collection::vec("[ab/.*$\n]{0,5}", 12),
        ) {
            match (Pattern::new(&expression), Pattern::with_engine(&expression)) {
                (Ok(quick), Ok(slow)) => for value in &values {
                    let value = value.as_bytes();
                    prop_assert_eq!(quick.matches(value), slow.matches(value));
                },
                (quick, slow) => prop_assert_eq!(quick.is_ok(), slow.is_ok()),
            }
        }
    }
}
