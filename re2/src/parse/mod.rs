//! RE2's grammar (`re2/parse.cc`, Perl syntax) to the engine's.

mod characters;

use std::fmt;

use regex_syntax::hir::{Hir, Look, Repetition};

use crate::class::Set;

/// Largest count in `x{n}`, and largest product of nested ones (RE2's
/// `maximum_repeat_count`).
const MAX_REPEAT: u32 = 1_000;
/// Deepest nesting of groups.
const MAX_NESTING: usize = 200;

/// Why an expression is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong, and what would be right.
    pub message: String,
    /// The character it is about, from 1; 0 if it is about the whole.
    pub at: usize,
    /// RE2 would take it.
    pub valid_in_re2: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.at != 0 {
            write!(f, " (at character {})", self.at)?;
        }
        Ok(())
    }
}

/// Reads an expression.
pub(crate) fn parse(expression: &str) -> Result<Hir, Refusal> {
    let mut parser = Parser {
        whole: expression,
        rest: expression,
        flags: Flags::default(),
    };
    let part = parser.alternation(0)?;
    if !parser.rest.is_empty() {
        return Err(parser.wrong("`)` without `(`"));
    }
    Ok(part.hir)
}

/// `(?imsU)`.
#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    fold: bool,
    multi_line: bool,
    dot_newline: bool,
    swap_greed: bool,
}

/// Something read, and how often its largest nested repetition repeats.
struct Part {
    hir: Hir,
    repeats: u32,
}

impl Part {
    fn once(hir: Hir) -> Self {
        Part { hir, repeats: 1 }
    }
}

struct Parser<'t> {
    whole: &'t str,
    rest: &'t str,
    flags: Flags,
}

impl<'t> Parser<'t> {
    fn refusal(&self, message: &str, valid_in_re2: bool) -> Refusal {
        let read = self.whole.len() - self.rest.len();
        Refusal {
            message: message.to_owned(),
            at: self.whole[..read].chars().count() + 1,
            valid_in_re2,
        }
    }

    fn wrong(&self, message: &str) -> Refusal {
        self.refusal(message, false)
    }

    fn unavailable(&self, message: &str) -> Refusal {
        self.refusal(message, true)
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    /// The character behind the next one.
    fn second(&self) -> Option<char> {
        self.rest.chars().nth(1)
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Branches up to the end of the group, which stays to be read.
    fn alternation(&mut self, depth: usize) -> Result<Part, Refusal> {
        if depth > MAX_NESTING {
            return Err(self.unavailable(&format!("groups nested deeper than {MAX_NESTING}")));
        }
        let mut branches = Vec::new();
        let mut items: Vec<Part> = Vec::new();
        let mut after_operator = false;
        loop {
            let operator = match self.peek() {
                None | Some(')') => break,
                Some('|') => {
                    self.next();
                    branches.push(concat(&mut items));
                    false
                }
                Some('*' | '+' | '?') => {
                    self.repeat_operator(&mut items, after_operator)?;
                    true
                }
                Some('{') => match self.bounds()? {
                    Some((min, max)) => {
                        self.repeat(&mut items, min, max, after_operator)?;
                        true
                    }
                    None => {
                        self.next();
                        items.push(self.literal('{')?);
                        false
                    }
                },
                Some('(') => {
                    self.group(&mut items, depth)?;
                    false
                }
                Some('\\') => {
                    self.escape(&mut items)?;
                    false
                }
                Some('[') => {
                    let set = self.class()?;
                    items.push(Part::once(set.hir()));
                    false
                }
                Some(other) => {
                    let item = self.plain(other)?;
                    self.next();
                    items.push(item);
                    false
                }
            };
            after_operator = operator;
        }
        branches.push(concat(&mut items));
        let repeats = branches.iter().map(|part| part.repeats).max().unwrap_or(1);
        let hir = Hir::alternation(branches.into_iter().map(|part| part.hir).collect());
        Ok(Part { hir, repeats })
    }

    fn plain(&self, c: char) -> Result<Part, Refusal> {
        let look = |look| Ok(Part::once(Hir::look(look)));
        match c {
            '^' if self.flags.multi_line => look(Look::StartLF),
            '^' => look(Look::Start),
            '$' if self.flags.multi_line => look(Look::EndLF),
            '$' => look(Look::End),
            '.' => Ok(Part::once(Set::dot(self.flags.dot_newline).hir())),
            _ => self.literal(c),
        }
    }

    fn literal(&self, c: char) -> Result<Part, Refusal> {
        if !self.flags.fold {
            let mut bytes = [0; 4];
            let text = c.encode_utf8(&mut bytes);
            return Ok(Part::once(Hir::literal(text.as_bytes())));
        }
        let mut set = Set::default();
        self.add_folded(&mut set, c, c)?;
        Ok(Part::once(set.hir()))
    }

    /// Adds a range to a set, in both cases if the flag says so.
    fn add_folded(&self, set: &mut Set, first: char, last: char) -> Result<(), Refusal> {
        let mut range = Set::default();
        range.add(first, last);
        if self.flags.fold {
            if !last.is_ascii() {
                return Err(self.unavailable(
                    "`(?i)` ignores the case of ASCII only; list both cases of other letters",
                ));
            }
            range.fold();
        }
        set.add_set(&range);
        Ok(())
    }

    fn repeat_operator(&mut self, items: &mut [Part], after: bool) -> Result<(), Refusal> {
        let (min, max) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            _ => (0, Some(1)),
        };
        // The place is where the operator stands.
        let refused = self.check_repeat(items, after);
        self.next();
        let lazy = self.eat("?");
        refused?;
        self.wrap(items, min, max, lazy);
        Ok(())
    }

    fn check_repeat(&self, items: &[Part], after: bool) -> Result<(), Refusal> {
        if after {
            return Err(self.wrong("a repetition cannot be repeated; put a group around it"));
        }
        if items.is_empty() {
            return Err(self.wrong("nothing stands before it that could be repeated"));
        }
        Ok(())
    }

    /// `{n}`, `{n,}` or `{n,m}`, if that is what comes next. Anything else is a plain
    /// brace. The text is read only if it is a count.
    fn bounds(&mut self) -> Result<Option<(u32, Option<u32>)>, Refusal> {
        let Some((inside, rest)) = self.rest[1..].split_once('}') else {
            return Ok(None);
        };
        let number = |text: &str| -> Option<u32> {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let leading_zero = text.len() > 1 && text.starts_with('0');
            // What does not fit is too much, whatever it is.
            (digits && !leading_zero).then(|| text.parse().unwrap_or(u32::MAX))
        };
        let (min, max) = match inside.split_once(',') {
            None => (number(inside), Some(number(inside))),
            Some((min, "")) => (number(min), None),
            Some((min, max)) => (number(min), Some(number(max))),
        };
        let (Some(min), false) = (min, max == Some(None)) else {
            return Ok(None);
        };
        let max = max.flatten();
        if min > MAX_REPEAT || max.is_some_and(|max| max > MAX_REPEAT || max < min) {
            return Err(self.wrong(&format!(
                "counts are from 0 to {MAX_REPEAT}, the smaller one first"
            )));
        }
        self.rest = rest;
        Ok(Some((min, max)))
    }

    fn repeat(
        &mut self,
        items: &mut [Part],
        min: u32,
        max: Option<u32>,
        after: bool,
    ) -> Result<(), Refusal> {
        let lazy = self.eat("?");
        self.check_repeat(items, after)?;
        let count = max.unwrap_or(min).max(1);
        if let Some(last) = items.last_mut() {
            last.repeats = last.repeats.saturating_mul(count);
            if count >= 2 && last.repeats > MAX_REPEAT {
                return Err(self.wrong(&format!(
                    "repetitions inside repetitions multiply to more than {MAX_REPEAT}"
                )));
            }
        }
        self.wrap(items, min, max, lazy);
        Ok(())
    }

    fn wrap(&self, items: &mut [Part], min: u32, max: Option<u32>, lazy: bool) {
        if let Some(last) = items.last_mut() {
            let sub = std::mem::replace(&mut last.hir, Hir::empty());
            last.hir = Hir::repetition(Repetition {
                min,
                max,
                greedy: lazy == self.flags.swap_greed,
                sub: Box::new(sub),
            });
        }
    }

    /// `(…)`, `(?:…)`, `(?P<name>…)`, `(?<name>…)`, `(?flags)` or `(?flags:…)`.
    fn group(&mut self, items: &mut Vec<Part>, depth: usize) -> Result<(), Refusal> {
        let start = self.rest;
        let outside = self.flags;
        self.next();
        if self.eat("?") {
            if ["=", "!", "<=", "<!"]
                .iter()
                .any(|look| self.rest.starts_with(look))
            {
                return Err(self.wrong("there is no looking ahead or behind in RE2"));
            }
            if self.eat("P<") || self.eat("<") {
                self.group_name()?;
            } else if !self.group_flags()? {
                return Ok(());
            }
        }
        let inside = self.alternation(depth + 1)?;
        if !self.eat(")") {
            self.rest = start;
            return Err(self.wrong("`(` without `)`"));
        }
        self.flags = outside;
        items.push(inside);
        Ok(())
    }

    fn group_name(&mut self) -> Result<(), Refusal> {
        let valid = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        match self.rest.split_once('>') {
            Some((name, rest)) if valid(name) => {
                self.rest = rest;
                Ok(())
            }
            _ => Err(self.wrong("a group's name is a word of letters, digits and `_`")),
        }
    }

    /// Flags behind `(?`; says whether a group follows.
    fn group_flags(&mut self) -> Result<bool, Refusal> {
        let mut flags = self.flags;
        let mut value = true;
        let mut seen = true;
        loop {
            match self.peek() {
                Some('i') => flags.fold = value,
                Some('m') => flags.multi_line = value,
                Some('s') => flags.dot_newline = value,
                Some('U') => flags.swap_greed = value,
                Some('-') if value => (value, seen) = (false, false),
                Some(end @ (':' | ')')) if seen => {
                    self.next();
                    self.flags = flags;
                    return Ok(end == ':');
                }
                _ => return Err(self.wrong("no such flag; `i`, `m`, `s` and `U` are")),
            }
            seen |= self.next() != Some('-');
        }
    }
}

fn concat(items: &mut Vec<Part>) -> Part {
    let repeats = items.iter().map(|item| item.repeats).max().unwrap_or(1);
    let hir = Hir::concat(items.drain(..).map(|item| item.hir).collect());
    Part { hir, repeats }
}
