//! Where a reply of the server's ends (RESP2 and RESP3), found piece by piece: a large one is
//! not held.

/// A reply under way.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// Parts of it that have not begun; none if no reply is under way.
    left: u64,
    /// It is the answer to no request.
    kind: Option<Kind>,
}

/// What a reply is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An answer; if it is an error, its words.
    Answer(Option<String>),
    /// A channel was subscribed to, or left.
    Channel,
    /// Something said without being asked.
    Push,
}

/// The next piece of what the server says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// So many bytes; behind them the reply is at its end if it says what it was.
    Bytes(u64, Option<Kind>),
    /// So many bytes must be there before more can be said.
    Needs(usize),
}

/// Longest error kept for records, bytes.
const ERROR: usize = 200;
/// Longest line of the server's: numbers, simple strings, errors.
const LINE: usize = 64 << 10;

impl Reader {
    /// Reads on. `listens`: the client has subscribed to something, so that arrays may be
    /// said without being asked.
    ///
    /// # Errors
    ///
    /// If it is nothing of Redis'.
    pub(crate) fn read(&mut self, bytes: &[u8], listens: bool) -> Result<Piece, &'static str> {
        let Some((line, length)) = line(bytes)? else {
            return Ok(Piece::Needs(bytes.len() + 1));
        };
        let (mark, text) = line.split_first().ok_or("an empty line")?;
        let begins = self.left == 0;
        if begins {
            self.kind = match (mark, listens) {
                (b'*', true) if count(text)?.is_none_or(|parts| parts == 0) => {
                    Some(Kind::Answer(None))
                }
                (b'>', _) | (b'*', true) => match first(&bytes[length..])? {
                    Some(word) => Some(kind_of(&word, *mark == b'>')),
                    None => return Ok(Piece::Needs(bytes.len() + 1)),
                },
                (b'-', _) => {
                    let end = text.len().min(ERROR);
                    let said = String::from_utf8_lossy(&text[..end]);
                    Some(Kind::Answer(Some(said.into_owned())))
                }
                _ => Some(Kind::Answer(None)),
            };
            self.left = 1;
        }
        let behind = match mark {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => 0,
            b'$' | b'=' | b'!' => count(text)?.map_or(0, |length| length + 2),
            b'*' | b'~' | b'>' => {
                self.expect(count(text)?.unwrap_or(0))?;
                0
            }
            b'%' => {
                self.expect(2 * count(text)?.unwrap_or(0))?;
                0
            }
            // Stands before what it is about.
            b'|' => {
                self.expect(2 * count(text)?.unwrap_or(0) + 1)?;
                0
            }
            _ => return Err("something that is nothing of Redis'"),
        };
        self.left -= 1;
        let ended = match self.left {
            0 => self.kind.take(),
            _ => None,
        };
        Ok(Piece::Bytes(length as u64 + behind, ended))
    }

    fn expect(&mut self, parts: u64) -> Result<(), &'static str> {
        let left = self.left.checked_add(parts);
        self.left = left.ok_or("a reply without an end")?;
        Ok(())
    }
}

fn kind_of(word: &[u8], pushed: bool) -> Kind {
    match word {
        b"subscribe" | b"psubscribe" | b"ssubscribe" | b"unsubscribe" | b"punsubscribe"
        | b"sunsubscribe" => Kind::Channel,
        b"message" | b"pmessage" | b"smessage" => Kind::Push,
        _ if pushed => Kind::Push,
        _ => Kind::Answer(None),
    }
}

/// The first part of an array, if it is there; empty if it is no short string.
fn first(bytes: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    /// Longest word that means something.
    const WORD: u64 = 16;
    let Some((line, length)) = line(bytes)? else {
        return Ok(None);
    };
    let size = match line.split_first() {
        Some((b'$', text)) => count(text)?.filter(|size| *size <= WORD),
        _ => None,
    };
    let Some(size) = size.and_then(|size| usize::try_from(size).ok()) else {
        return Ok(Some(Vec::new()));
    };
    Ok(bytes.get(length..length + size).map(<[u8]>::to_vec))
}

/// A line without its end, and its length with it.
fn line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, &'static str> {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = bytes[..end].strip_suffix(b"\r");
            Ok(Some((line.ok_or("a line without its end")?, end + 1)))
        }
        None if bytes.len() < LINE => Ok(None),
        None => Err("a line that is too long"),
    }
}

/// A length; `None` for -1, which stands for nothing.
fn count(text: &[u8]) -> Result<Option<u64>, &'static str> {
    /// Longer than anything there is.
    const MOST: u64 = 1 << 40;
    if text == b"-1" {
        return Ok(None);
    }
    let text = str::from_utf8(text).map_err(|_| "no number")?;
    let count = text.parse().map_err(|_| "no number where one must be")?;
    match count {
        0..=MOST => Ok(Some(count)),
        _ => Err("a length that cannot be true"),
    }
}
