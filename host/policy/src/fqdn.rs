//! Names and name patterns, one grammar for `toFQDNs` and `rules.dns`.
//!
//! Names are compared lower-case and absolute (with the final dot).

use regex::Regex;

use crate::l7::FqdnSelector;

/// Longest name or pattern accepted, in bytes.
pub const MAX_LENGTH: usize = 255;

/// One character of a label, as DNS policies understand it.
const LABEL: &str = "[-a-zA-Z0-9_]";

/// Lower case, with a final dot.
pub fn normalise(name: &str) -> String {
    let mut name = name.trim().to_ascii_lowercase();
    if !name.ends_with('.') {
        name.push('.');
    }
    name
}

/// Is the text acceptable as a `matchName`? The error says what is wrong.
pub fn check_name(name: &str) -> Result<(), String> {
    check_characters(name, "-_.", "letters, digits, `-`, `_` and `.`")
}

/// Is the text acceptable as a `matchPattern`? The error says what is wrong.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    check_characters(pattern, "-_.*", "letters, digits, `-`, `_`, `.` and `*`")
}

fn check_characters(text: &str, extra: &str, allowed: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if text.len() > MAX_LENGTH {
        return Err(format!("longer than {MAX_LENGTH} characters"));
    }
    match text
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !extra.contains(*c))
    {
        Some(c) => Err(format!(
            "the character `{c}` cannot be part of it; allowed are {allowed}"
        )),
        None => Ok(()),
    }
}

/// The anchored regular expression of a pattern, over normalised names:
///
/// - stars alone: any name, the root too
/// - two or more stars and a dot in front: one or more whole labels
/// - any other run of stars: zero or more characters of one label
pub fn pattern_to_regex(pattern: &str) -> String {
    let pattern = normalise(pattern);
    let body = pattern.trim_end_matches('.');
    if !body.is_empty() && body.bytes().all(|b| b == b'*') {
        return format!("^(?:(?:{LABEL}+[.])+|[.])$");
    }
    let stars = pattern.bytes().take_while(|b| *b == b'*').count();
    let (mut regex, rest) = match pattern[stars..].strip_prefix('.') {
        Some(rest) if stars >= 2 => (format!("^(?:{LABEL}+[.])+"), rest),
        _ => ("^".to_owned(), pattern.as_str()),
    };
    let mut previous = ' ';
    for c in rest.chars() {
        match c {
            '*' if previous == '*' => {}
            '*' => regex.push_str(&format!("{LABEL}*")),
            '.' => regex.push_str("[.]"),
            _ => regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
        previous = c;
    }
    regex.push('$');
    regex
}

/// A selector, ready to be asked.
#[derive(Clone, Debug)]
pub struct Matcher(Form);

#[derive(Clone, Debug)]
enum Form {
    Name(String),
    Pattern(Regex),
    /// A pattern that no regular expression could be made of; matches nothing.
    Never,
}

impl Matcher {
    /// Prepares a selector. One that is malformed (the compiler produces none) matches nothing.
    pub fn new(selector: &FqdnSelector) -> Self {
        Matcher(match selector {
            FqdnSelector::MatchName(name) => Form::Name(normalise(name)),
            FqdnSelector::MatchPattern(pattern) => {
                Regex::new(&pattern_to_regex(pattern)).map_or(Form::Never, Form::Pattern)
            }
        })
    }

    /// Does it select this name? Case and final dot do not matter.
    pub fn matches(&self, name: &str) -> bool {
        // Nothing is no name, and must not become the root by normalisation.
        if name.is_empty() {
            return false;
        }
        let name = normalise(name);
        match &self.0 {
            Form::Name(own) => *own == name,
            Form::Pattern(regex) => regex.is_match(&name),
            Form::Never => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let matcher = Matcher::new(&FqdnSelector::MatchPattern(pattern.to_owned()));
        for name in yes {
            assert!(matcher.matches(name), "{pattern} should match {name}");
        }
        for name in no {
            assert!(!matcher.matches(name), "{pattern} should not match {name}");
        }
    }

    #[test]
    fn patterns() {
        for any in ["*", "**", "***.", "*."] {
            check(
                any,
                &["a", "cilium.io", "www.cilium.io.", "."],
                &["", "a..b", "a b"],
            );
        }
        check(
            "*.cilium.io",
            &["www.cilium.io", "WWW.Cilium.IO.", "a_b.cilium.io"],
            &["cilium.io", "a.b.cilium.io", "www.cilium.iox", "xcilium.io"],
        );
        check(
            "*cilium.io",
            &["cilium.io", "subcilium.io"],
            &["www.cilium.io", "."],
        );
        check(
            "**.cilium.io",
            &["www.cilium.io", "a.b.cilium.io"],
            &["cilium.io", ".cilium.io", "a..cilium.io"],
        );
        check("***.cilium.io", &["a.b.cilium.io"], &["cilium.io"]);
        check(
            "**cilium.io",
            &["cilium.io", "subcilium.io"],
            &["a.cilium.io"],
        );
        check("a.**.io", &["a.b.io"], &["a.b.c.io", "a.io"]);
        check(
            "sub*.cilium.io",
            &["sub.cilium.io", "sub1.cilium.io"],
            &["sub.a.cilium.io"],
        );
        check("a**b.io", &["ab.io", "axb.io"], &["a.b.io"]);
        check(
            "example.com",
            &["example.com", "EXAMPLE.com."],
            &["xexample.com", "exampleacom"],
        );
    }

    #[test]
    fn names() {
        let matcher = Matcher::new(&FqdnSelector::MatchName("API.example.".to_owned()));
        assert!(matcher.matches("api.example"));
        assert!(matcher.matches("api.EXAMPLE."));
        assert!(!matcher.matches("x.api.example"));
        assert!(!matcher.matches(""));
    }

    #[test]
    fn characters() {
        assert!(check_name("api.example.com").is_ok());
        assert!(check_name("*.example.com").is_err());
        assert!(check_pattern("*.example.com").is_ok());
        assert!(check_pattern("a/b").is_err());
        assert!(check_pattern("").is_err());
        assert!(check_name(&"a".repeat(256)).is_err());
    }
}
