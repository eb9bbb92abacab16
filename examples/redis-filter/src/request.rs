//! A command at the front of what the client says. Stricter than the server: whatever is read
//! here the server reads likewise, and nothing else passes.

/// The front of what has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Front<'a> {
    /// A command: its arguments, and its length in bytes.
    Command(Vec<&'a [u8]>, usize),
    /// An empty line, which the server does not answer.
    Empty(usize),
    /// So many bytes must be there before more can be said.
    Needs(usize),
}

/// Most arguments of a command, as the server has it.
const ARGUMENTS: usize = 1 << 20;

/// Reads a command.
///
/// # Errors
///
/// Why it is none, or none that could be judged.
pub(crate) fn read(bytes: &[u8]) -> Result<Front<'_>, &'static str> {
    match bytes.first() {
        Some(b'*') => array(bytes),
        _ => inline(bytes),
    }
}

/// `*2\r\n$3\r\nGET\r\n$1\r\na\r\n`
fn array(bytes: &[u8]) -> Result<Front<'_>, &'static str> {
    let Some((count, mut at)) = number(bytes, b'*')? else {
        return Ok(Front::Needs(bytes.len() + 1));
    };
    if count == 0 || count > ARGUMENTS {
        return Err("a command of no arguments, or too many");
    }
    let mut arguments = Vec::with_capacity(count.min(16));
    for left in (0..count).rev() {
        // Each takes five bytes at least.
        let least = at + 5 * (left + 1);
        let Some((length, header)) = number(&bytes[at..], b'$')? else {
            return Ok(Front::Needs(least.max(bytes.len() + 1)));
        };
        let (begin, end) = (at + header, at + header + length);
        at = end + 2;
        match bytes.get(end..at) {
            Some(b"\r\n") => arguments.push(&bytes[begin..end]),
            Some(_) => return Err("an argument that is longer than it says"),
            None => return Ok(Front::Needs(at + 5 * left)),
        }
    }
    Ok(Front::Command(arguments, at))
}

/// A number behind a mark, to the end of its line, and the bytes that takes; `None` if not
/// all of it is there.
fn number(bytes: &[u8], mark: u8) -> Result<Option<(usize, usize)>, &'static str> {
    /// Digits of the longest: arguments are 512 MiB at most.
    const DIGITS: usize = 9;
    match bytes.first() {
        None => return Ok(None),
        Some(first) if *first != mark => return Err("an argument that is no bulk string"),
        Some(_) => {}
    }
    let digits = bytes[1..].iter().take_while(|byte| byte.is_ascii_digit());
    let digits = digits.take(DIGITS + 1).count();
    let end = 1 + digits;
    let plain = digits <= DIGITS && (digits < 2 || bytes[1] != b'0');
    match (&bytes[end..], digits) {
        ([] | [b'\r'], _) if plain => Ok(None),
        ([b'\r', b'\n', ..], 1..) if plain => {
            let text = str::from_utf8(&bytes[1..end]).map_err(|_| "no number")?;
            let number = text.parse().map_err(|_| "no number")?;
            Ok(Some((number, end + 2)))
        }
        _ => Err("no number where one must be"),
    }
}

/// `GET a\r\n`
fn inline(bytes: &[u8]) -> Result<Front<'_>, &'static str> {
    /// Longest line the server takes.
    const LINE: usize = 64 << 10;
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return match bytes.len() < LINE {
            true => Ok(Front::Needs(bytes.len() + 1)),
            false => Err("a line that is too long"),
        };
    };
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    // Quotes have rules of their own, and a zero ends the line for the server.
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\'' | b'\\');
    if !line.iter().all(plain) {
        return Err("a line with quotes, or bytes that are no text");
    }
    let words: Vec<&[u8]> = line
        .split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty())
        .collect();
    Ok(match words.is_empty() {
        true => Front::Empty(end + 1),
        false => Front::Command(words, end + 1),
    })
}
