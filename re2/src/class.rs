//! Sets of characters.

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir};

/// A set of characters by ranges of code points, both ends included.
#[derive(Clone, Debug)]
pub(crate) struct Set(ClassUnicode);

/// Named ASCII sets. RE2's are ASCII whatever the text is.
const NAMED: [(&str, &[(u8, u8)]); 14] = [
    ("alnum", &[(b'0', b'9'), (b'A', b'Z'), (b'a', b'z')]),
    ("alpha", &[(b'A', b'Z'), (b'a', b'z')]),
    ("ascii", &[(0, 0x7f)]),
    ("blank", &[(b'\t', b'\t'), (b' ', b' ')]),
    ("cntrl", &[(0, 0x1f), (0x7f, 0x7f)]),
    ("digit", &[(b'0', b'9')]),
    ("graph", &[(b'!', b'~')]),
    ("lower", &[(b'a', b'z')]),
    ("print", &[(b' ', b'~')]),
    (
        "punct",
        &[(b'!', b'/'), (b':', b'@'), (b'[', b'`'), (b'{', b'~')],
    ),
    ("space", &[(b'\t', b'\r'), (b' ', b' ')]),
    ("upper", &[(b'A', b'Z')]),
    ("word", WORD),
    ("xdigit", &[(b'0', b'9'), (b'A', b'F'), (b'a', b'f')]),
];
const WORD: &[(u8, u8)] = &[(b'0', b'9'), (b'A', b'Z'), (b'_', b'_'), (b'a', b'z')];
/// `\s`, which unlike `[:space:]` lacks the vertical tab.
const PERL_SPACE: &[(u8, u8)] = &[(b'\t', b'\n'), (0x0c, b'\r'), (b' ', b' ')];

/// The set `[:name:]` stands for.
pub(crate) fn posix(name: &str, fold: bool) -> Option<Set> {
    let (negated, plain) = match name.strip_prefix('^') {
        Some(plain) => (true, plain),
        None => (false, name),
    };
    let (_, ranges) = NAMED.iter().find(|(own, _)| *own == plain)?;
    Some(Set::ascii(ranges, fold).negated_if(negated))
}

/// The set of `\d`, `\w` or `\s`, or of their opposites.
pub(crate) fn perl(letter: char, fold: bool) -> Option<Set> {
    let ranges: &[(u8, u8)] = match letter.to_ascii_lowercase() {
        'd' => &[(b'0', b'9')],
        's' => PERL_SPACE,
        'w' => WORD,
        _ => return None,
    };
    Some(Set::ascii(ranges, fold).negated_if(letter.is_ascii_uppercase()))
}

impl Default for Set {
    /// The empty one.
    fn default() -> Self {
        Set(ClassUnicode::empty())
    }
}

impl Set {
    /// Everything but the line feed, or everything.
    pub(crate) fn dot(newline: bool) -> Self {
        let mut set = Set::default();
        if !newline {
            set.add('\n', '\n');
        }
        set.negated_if(true)
    }

    fn ascii(ranges: &[(u8, u8)], fold: bool) -> Self {
        let mut set = Set::default();
        for (first, last) in ranges {
            set.add((*first).into(), (*last).into());
        }
        if fold {
            set.fold();
        }
        set
    }

    /// Adds a range.
    pub(crate) fn add(&mut self, first: char, last: char) {
        self.0.push(ClassUnicodeRange::new(first, last));
    }

    /// Adds all of another set.
    pub(crate) fn add_set(&mut self, other: &Set) {
        self.0.union(&other.0);
    }

    /// Adds the other case of every ASCII letter, and the two characters beyond ASCII
    /// whose other case is one (the long s, and the sign of kelvin).
    pub(crate) fn fold(&mut self) {
        let mut more = ClassUnicode::empty();
        let mut also = |first: char, last: char| more.push(ClassUnicodeRange::new(first, last));
        for range in self.0.iter() {
            for letter in 'A'..='Z' {
                let small = letter.to_ascii_lowercase();
                let within = |c: char| (range.start()..=range.end()).contains(&c);
                if within(letter) || within(small) {
                    also(letter, letter);
                    also(small, small);
                    match letter {
                        'K' => also('\u{212a}', '\u{212a}'),
                        'S' => also('\u{17f}', '\u{17f}'),
                        _ => {}
                    }
                }
            }
        }
        self.0.union(&more);
    }

    /// The characters that are not in it, if asked for.
    pub(crate) fn negated_if(mut self, negated: bool) -> Self {
        if negated {
            self.0.negate();
        }
        self
    }

    /// As part of an expression.
    pub(crate) fn hir(self) -> Hir {
        Hir::class(Class::Unicode(self.0))
    }
}
