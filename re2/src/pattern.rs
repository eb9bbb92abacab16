//! One regular expression that must match a whole value, as RE2 would.
//!
//! Most expressions in policies are plain words (`GET`), a few words (`GET|HEAD`) or
//! a prefix (`/public/.*`). Those are compared directly; only the rest costs a regex
//! engine.

use regex_automata::meta::Regex;
use regex_syntax::hir::{Hir, Look};

use crate::parse::{self, Refusal};

/// Memory one compiled expression may take, bytes. Policies are written by people;
/// what exceeds this is a mistake that should be named, not tried.
pub const SIZE_LIMIT: usize = 1 << 20;
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
    /// Compiles an expression.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and where.
    pub fn new(expression: &str) -> Result<Self, Refusal> {
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
    pub fn with_engine(expression: &str) -> Result<Self, Refusal> {
        let whole = Hir::concat(vec![
            Hir::look(Look::Start),
            parse::parse(expression)?,
            Hir::look(Look::End),
        ]);
        let config = Regex::config()
            .utf8_empty(false)
            .nfa_size_limit(Some(SIZE_LIMIT))
            .hybrid_cache_capacity(CACHE_LIMIT);
        let built = Regex::builder().configure(config).build_from_hir(&whole);
        built
            .map(|regex| Self(Kind::Regex(regex)))
            .map_err(|error| Refusal {
                message: match error.size_limit() {
                    Some(_) => format!(
                        "too large: compiled it would take more than {} KiB; repeat less, or \
                         split it into several rules",
                        SIZE_LIMIT >> 10
                    ),
                    None => error.to_string(),
                },
                at: 0,
                valid_in_re2: true,
            })
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
    fn refusals_say_what_and_where() {
        let huge = "[\u{80}-\u{10ffff}]{1000}.{999}(?:[a-z]{30}/){30}";
        for (wrong, said) in [
            ("/a(", "`(` without `)` (at character 3)"),
            ("a)|(b", "`)` without `(` (at character 2)"),
            ("é[z-a]", "a range ends before it begins (at character 6)"),
            (
                "*a",
                "nothing stands before it that could be repeated (at character 1)",
            ),
            (
                "a**",
                "a repetition cannot be repeated; put a group around it (at character 3)",
            ),
            (
                r"a\1",
                "there are no references to groups in RE2 (at character 2)",
            ),
            (
                "(?=a)",
                "there is no looking ahead or behind in RE2 (at character 3)",
            ),
            (
                "(?x)a",
                "no such flag; `i`, `m`, `s` and `U` are (at character 3)",
            ),
            (
                "/([a-z0-9]{1,200}/){1,100}",
                "repetitions inside repetitions multiply to more than 1000 (at character 27)",
            ),
            (
                r"\pN",
                "Unicode classes are not available; list the characters, or say which they are not \
                 (at character 1)",
            ),
            (
                huge,
                "too large: compiled it would take more than 1024 KiB; repeat less, or split it \
                 into several rules",
            ),
        ] {
            assert_eq!(
                Pattern::new(wrong).expect_err(wrong).to_string(),
                said,
                "{wrong}"
            );
        }
    }

    #[test]
    fn classes_are_not_set_operations() {
        check("/x[a[b]c]", &["/xac]", "/x[c]", "/xbc]"], &["/xa", "/xc"]);
        check("/v[0-9&&5]", &["/v0", "/v5", "/v&"], &["/v"]);
        check("[a~~b]", &["a", "~", "b"], &["c"]);
        check("[%--]", &["%", "&", "-"], &[".", "$"]);
        check("[é]", &["é"], &["e", "\u{c3}"]);
        check(r"/v\d+/users", &["/v12/users"], &["/v/users", "/v٣/users"]);
        check(r"/[\w.-]+", &["/a.b-c_d"], &["/", "/é"]);
        check(r"(?i)/api/.*", &["/API/x", "/api/"], &["/ap1/"]);
        check(r".*\bx\b.*", &["a x b", "éx"], &["axb"]);
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
