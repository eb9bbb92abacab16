//! Escapes and classes: the parts of the grammar that stand for characters.

use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, Hir, Look};

use super::{Parser, Part};
use crate::{
    class::{self, Set},
    parse::Refusal,
};

impl Parser<'_> {
    pub(super) fn escape(&mut self, items: &mut Vec<Part>) -> Result<(), Refusal> {
        let look = match self.second() {
            Some('b') => Some(Look::WordAscii),
            Some('B') => Some(Look::WordAsciiNegate),
            Some('A') => Some(Look::Start),
            Some('z') => Some(Look::End),
            _ => None,
        };
        if let Some(look) = look {
            self.rest = &self.rest[2..];
            items.push(Part::once(Hir::look(look)));
        } else if self.eat("\\Q") {
            while !self.rest.is_empty() && !self.eat("\\E") {
                if let Some(c) = self.next() {
                    items.push(self.literal(c)?);
                }
            }
        } else if self.eat("\\C") {
            let all = ClassBytes::new([ClassBytesRange::new(0, u8::MAX)]);
            items.push(Part::once(Hir::class(Class::Bytes(all))));
        } else if let Some(set) = self.named_set()? {
            items.push(Part::once(set.hir()));
        } else {
            let c = self.escaped()?;
            items.push(self.literal(c)?);
        }
        Ok(())
    }

    /// `\d` and the like, if one comes next.
    fn named_set(&mut self) -> Result<Option<Set>, Refusal> {
        let Some(letter) = self.second().filter(|_| self.rest.starts_with('\\')) else {
            return Ok(None);
        };
        if matches!(letter, 'p' | 'P') {
            return Err(self.unavailable(
                "Unicode classes are not available; list the characters, or say which they are not",
            ));
        }
        let set = class::perl(letter, self.flags.fold);
        if set.is_some() {
            self.rest = &self.rest[2..];
        }
        Ok(set)
    }

    /// A backslash and what it makes of the next character.
    fn escaped(&mut self) -> Result<char, Refusal> {
        let before = self.rest;
        self.next();
        let wrong = |parser: &mut Self, message| {
            parser.rest = before;
            Err(parser.wrong(message))
        };
        let Some(c) = self.next() else {
            return wrong(self, "ends in a backslash; write `\\\\` for one");
        };
        match c {
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            'a' => Ok('\x07'),
            'f' => Ok('\x0c'),
            'v' => Ok('\x0b'),
            'x' => match self.hexadecimal() {
                Some(c) => Ok(c),
                None => wrong(
                    self,
                    "`\\x` needs two hexadecimal digits, or some in braces",
                ),
            },
            '0' | '1'..='7' if c == '0' || self.peek().is_some_and(|c| c.is_digit(8)) => {
                let mut code = c.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    if let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) {
                        code = code * 8 + digit;
                        self.next();
                    }
                }
                match char::from_u32(code) {
                    Some(c) => Ok(c),
                    None => wrong(self, "no such character"),
                }
            }
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Ok(c),
            '1'..='9' => wrong(self, "there are no references to groups in RE2"),
            _ => wrong(self, "no such escape"),
        }
    }

    fn hexadecimal(&mut self) -> Option<char> {
        if self.eat("{") {
            let (digits, rest) = self.rest.split_once('}')?;
            let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
            self.rest = rest;
            let code = u32::from_str_radix(digits.trim_start_matches('0'), 16);
            return match (all, code) {
                (false, _) => None,
                (true, Ok(code)) => char::from_u32(code),
                // Only zeros are left with nothing.
                (true, Err(_)) => digits.bytes().all(|b| b == b'0').then_some('\0'),
            };
        }
        let high = self.next()?.to_digit(16)?;
        let low = self.next()?.to_digit(16)?;
        char::from_u32(high * 16 + low)
    }

    /// `[…]`. Everything in it but `\`, `-` between two characters, `[:name:]` and the
    /// final `]` means itself.
    pub(super) fn class(&mut self) -> Result<Set, Refusal> {
        let start = self.rest;
        self.next();
        let negated = self.eat("^");
        let mut set = Set::default();
        let mut first = true;
        loop {
            match self.peek() {
                None => {
                    self.rest = start;
                    return Err(self.wrong("`[` without `]`"));
                }
                Some(']') if !first => {
                    self.next();
                    return Ok(set.negated_if(negated));
                }
                Some(_) => {}
            }
            first = false;
            if let Some(named) = self.posix_set()? {
                set.add_set(&named);
            } else if let Some(named) = self.named_set()? {
                set.add_set(&named);
            } else {
                let low = self.class_character()?;
                let is_range =
                    self.rest.starts_with('-') && self.second().is_some_and(|c| c != ']');
                let high = if is_range {
                    self.next();
                    self.class_character()?
                } else {
                    low
                };
                if high < low {
                    return Err(self.wrong("a range ends before it begins"));
                }
                self.add_folded(&mut set, low, high)?;
            }
        }
    }

    fn posix_set(&mut self) -> Result<Option<Set>, Refusal> {
        let Some(inside) = self.rest.strip_prefix("[:") else {
            return Ok(None);
        };
        let Some((name, rest)) = inside.split_once(":]") else {
            return Ok(None);
        };
        match class::posix(name, self.flags.fold) {
            Some(set) => {
                self.rest = rest;
                Ok(Some(set))
            }
            None => Err(self.wrong("no such class; `[:alpha:]`, `[:digit:]` and the like are")),
        }
    }

    fn class_character(&mut self) -> Result<char, Refusal> {
        match self.peek() {
            Some('\\') => self.escaped(),
            Some(c) => {
                self.next();
                Ok(c)
            }
            None => Err(self.wrong("`[` without `]`")),
        }
    }
}
