//! Path normalisation before matching, as Cilium's Envoy does it (RFC 3986 §6.2.2,
//! merged slashes, escaped slashes refused by redirect): a rule about `/admin` must
//! see every spelling of `/admin`.
//!
//! What then still has other segments for some server than it has for a rule is
//! refused: `/public/..;/admin` is `/admin` for a servlet container, and so are
//! `%252e%252e` and `%c0%ae%c0%ae` for servers that decode twice or too leniently.

/// A path that cannot be matched safely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// An escape is not two hexadecimal digits, or stands for NUL; a byte is not ASCII.
    #[error("malformed path")]
    Malformed,
    /// Two servers may find different segments in it.
    #[error("ambiguous path: a server may read other segments in it than a rule does")]
    Ambiguous,
    /// A slash or backslash is escaped, and nobody may send one.
    #[error("escaped slash in path")]
    EscapedSlash,
}

/// What normalisation is to do; by default all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct How {
    /// Resolve dot segments, and escapes of characters that need none. Without it nothing is
    /// found ambiguous either: rules and server get what was sent.
    pub normalise: bool,
    /// Slashes that follow each other are one.
    pub merge_slashes: bool,
    /// What becomes of escaped slashes and backslashes.
    pub escaped_slashes: EscapedSlashes,
}

/// What becomes of escaped slashes and backslashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// They stay.
    Keep,
    /// They are an error.
    Reject,
    /// The client is to ask for the path without.
    Redirect,
    /// They are slashes.
    Forward,
}

impl Default for How {
    fn default() -> Self {
        Self {
            normalise: true,
            merge_slashes: true,
            escaped_slashes: EscapedSlashes::Redirect,
        }
    }
}

/// What normalisation found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Normalised {
    /// It was normal already.
    Unchanged,
    /// Match and forward this instead.
    Changed(String),
    /// It had an escaped slash or backslash: send the client there, so that no
    /// reader behind us unescapes what the rules never saw.
    Redirect(String),
}

/// Normalises the path before the first `?`; the query is not touched. `*` and the
/// empty path (OPTIONS, CONNECT) are normal.
///
/// An escape that is not two hexadecimal digits is an error: left alone, decoding
/// its neighbours could complete it.
///
/// # Errors
///
/// If the path cannot be matched safely.
pub fn normalise(path_and_query: &str, how: How) -> Result<Normalised, PathError> {
    let (path, query) = match path_and_query.find('?') {
        Some(at) => path_and_query.split_at(at),
        None => (path_and_query, ""),
    };
    if is_normal(path.as_bytes()) && (query.is_empty() || !path.is_empty()) {
        return Ok(Normalised::Unchanged);
    }
    let (mut normal, escaped_slash) = match how.normalise {
        true => {
            let (decoded, escaped_slash) = decode(path, how.escaped_slashes)?;
            let normal = remove_dot_segments(&decoded, how.merge_slashes);
            if is_ambiguous(&normal) {
                return Err(PathError::Ambiguous);
            }
            (normal, escaped_slash)
        }
        false => slashes_alone(path, how)?,
    };
    normal.push_str(query);
    Ok(
        if escaped_slash && how.escaped_slashes == EscapedSlashes::Redirect {
            Normalised::Redirect(normal)
        } else if normal == path_and_query {
            Normalised::Unchanged
        } else {
            Normalised::Changed(normal)
        },
    )
}

/// The common case, without allocation.
fn is_normal(path: &[u8]) -> bool {
    let mut previous = 0;
    for &byte in path {
        match byte {
            b'%' | b'\\' | b';' => return false,
            b'/' | b'.' if previous == b'/' => return false,
            _ => previous = byte,
        }
    }
    path.first().is_none_or(|&b| b == b'/' || path == b"*")
}

/// Decodes escapes of unreserved characters and of slashes; tells if there was one
/// of the latter. A backslash counts as a slash, as for the servers that unify them.
fn decode(path: &str, slashes: EscapedSlashes) -> Result<(String, bool), PathError> {
    let mut out = String::with_capacity(path.len());
    let mut escaped_slash = false;
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'\\' => out.push('/'),
            b'%' => {
                let (escape, tail) = rest.split_at_checked(2).ok_or(PathError::Malformed)?;
                rest = tail;
                let value = escaped(escape[0], escape[1]).ok_or(PathError::Malformed)?;
                match value {
                    b'/' | b'\\' => {
                        escaped_slash = true;
                        match slashes {
                            EscapedSlashes::Reject => return Err(PathError::EscapedSlash),
                            EscapedSlashes::Keep => {
                                out.push('%');
                                out.push(escape[0] as char);
                                out.push(escape[1] as char);
                            }
                            EscapedSlashes::Redirect | EscapedSlashes::Forward => out.push('/'),
                        }
                    }
                    b'-' | b'.' | b'_' | b'~' => out.push(value as char),
                    _ if value.is_ascii_alphanumeric() => out.push(value as char),
                    0 => return Err(PathError::Malformed),
                    _ => {
                        out.push('%');
                        out.push(escape[0] as char);
                        out.push(escape[1] as char);
                    }
                }
            }
            _ if byte.is_ascii() => out.push(byte as char),
            _ => return Err(PathError::Malformed),
        }
    }
    Ok((out, escaped_slash))
}

/// Does to slashes what is to be done, and nothing else; tells if one was escaped.
fn slashes_alone(path: &str, how: How) -> Result<(String, bool), PathError> {
    let mut out = String::with_capacity(path.len());
    let mut escaped_slash = false;
    let mut rest = path;
    while let Some(next) = rest.chars().next() {
        let is_escape = |slash: &str| {
            let escape = rest.get(..slash.len());
            escape.is_some_and(|escape| escape.eq_ignore_ascii_case(slash))
        };
        let unescaped = match (is_escape("%2f"), is_escape("%5c")) {
            (true, _) => Some('/'),
            (_, true) => Some('\\'),
            _ => None,
        };
        escaped_slash |= unescaped.is_some();
        let (next, length) = match (unescaped, how.escaped_slashes) {
            (Some(_), EscapedSlashes::Reject) => return Err(PathError::EscapedSlash),
            (Some(slash), EscapedSlashes::Redirect | EscapedSlashes::Forward) => (slash, 3),
            _ => (next, next.len_utf8()),
        };
        if !(how.merge_slashes && next == '/' && out.ends_with('/')) {
            out.push(next);
        }
        rest = &rest[length..];
    }
    Ok((out, escaped_slash))
}

/// The byte two hexadecimal digits stand for.
fn escaped(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// Does a path without dot segments have other segments for a server that decodes to
/// the end, takes over-long UTF-8, a backslash for a slash, or cuts path parameters
/// (from `;` on) off segments before it resolves them?
fn is_ambiguous(normal: &str) -> bool {
    if !normal.bytes().any(|byte| matches!(byte, b'%' | b';')) {
        return false;
    }
    let bytes = shorten_utf8(&decode_to_the_end(normal.as_bytes()));
    let is_slash = |byte: &u8| matches!(byte, b'/' | b'\\');
    let slashes = |bytes: &[u8]| bytes.iter().filter(|byte| is_slash(byte)).count();
    // What is escaped once was left so knowingly.
    let kept = |at: &[u8]| at[0] == b'%' && escaped(at[1], at[2]).is_some_and(|b| is_slash(&b));
    let known =
        slashes(normal.as_bytes()) + normal.as_bytes().windows(3).filter(|at| kept(at)).count();
    slashes(&bytes) != known
        || bytes.split(|byte| is_slash(byte)).any(|segment| {
            let end = segment.iter().position(|byte| *byte == b';');
            let name = segment[..end.unwrap_or(segment.len())].trim_ascii();
            matches!(name, b"." | b"..") || end == Some(0)
        })
}

/// Decodes until nothing is left to decode. From right to left, so that an escape that
/// decoding makes is seen at once, and the time is linear whatever the nesting.
fn decode_to_the_end(path: &[u8]) -> Vec<u8> {
    // In reverse order.
    let mut out = Vec::with_capacity(path.len());
    for &byte in path.iter().rev() {
        out.push(byte);
        while let [.., low, high, b'%'] = *out.as_slice()
            && let Some(value) = escaped(high, low)
        {
            out.truncate(out.len() - 3);
            out.push(value);
        }
    }
    out.reverse();
    out
}

/// ASCII characters out of their over-long spellings in two, three and four bytes, which
/// RFC 3629 §3 forbids to decode and some do.
fn shorten_utf8(bytes: &[u8]) -> Vec<u8> {
    let tail = |byte: u8| (byte & 0xc0 == 0x80).then_some(byte & 0x3f);
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let (value, length) = match *rest {
            [0xc0 | 0xc1, last, ..] => (tail(last).map(|low| (first & 1) << 6 | low), 2),
            [0xe0, 0x80 | 0x81, last, ..] => (tail(last).map(|low| (rest[1] & 1) << 6 | low), 3),
            [0xf0, 0x80, 0x80 | 0x81, last, ..] => {
                (tail(last).map(|low| (rest[2] & 1) << 6 | low), 4)
            }
            _ => (None, 1),
        };
        match value {
            Some(value) => {
                out.push(value);
                rest = &rest[length..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

/// RFC 3986 §5.2.4, with runs of slashes merged if they shall be.
fn remove_dot_segments(path: &str, merge: bool) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_in_folder = false;
    let mut parts = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = parts.next() {
        ends_in_folder = matches!(segment, "" | "." | "..");
        match segment {
            "" if !merge && parts.peek().is_some() => segments.push(""),
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len() + 1);
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if ends_in_folder || segments.is_empty() {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(path: &str, expected: &str) {
        check_as(How::default(), path, expected);
    }

    fn check_as(how: How, path: &str, expected: &str) {
        let got = match normalise(path, how) {
            Ok(Normalised::Unchanged) => "=".to_owned(),
            Ok(Normalised::Changed(path)) => path,
            Ok(Normalised::Redirect(path)) => format!("-> {path}"),
            Err(PathError::Malformed) => "!".to_owned(),
            Err(PathError::Ambiguous) => "?".to_owned(),
            Err(PathError::EscapedSlash) => "/".to_owned(),
        };
        assert_eq!(got, expected, "for {path:?} {how:?}");
    }

    /// Envoy's choices (`normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`).
    #[test]
    fn what_is_done_can_be_chosen() {
        let all = How::default();
        let with = |escaped_slashes| How {
            escaped_slashes,
            ..all
        };
        for (path, keep, reject, redirect, forward) in [
            ("/a%2Fb", "=", "/", "-> /a/b", "/a/b"),
            ("/a/%5cb?q=%2f", "=", "/", "-> /a/b?q=%2f", "/a/b?q=%2f"),
            ("/a/../b", "/b", "/b", "/b", "/b"),
            // Kept, it must not hide dots from whoever unescapes it behind us.
            ("/a/..%2fadmin", "?", "/", "-> /admin", "/admin"),
            ("/a%252fb", "?", "?", "?", "?"),
        ] {
            check_as(with(EscapedSlashes::Keep), path, keep);
            check_as(with(EscapedSlashes::Reject), path, reject);
            check_as(with(EscapedSlashes::Redirect), path, redirect);
            check_as(with(EscapedSlashes::Forward), path, forward);
        }
        let apart = How {
            merge_slashes: false,
            ..all
        };
        for (path, expected) in [
            ("//a", "="),
            ("/a//b/../c/", "/a//c/"),
            ("/a//", "="),
            ("/a//../b", "/a/b"),
            ("/a//..", "/a/"),
        ] {
            check_as(apart, path, expected);
        }
        let raw = How {
            normalise: false,
            merge_slashes: false,
            escaped_slashes: EscapedSlashes::Keep,
        };
        for path in [
            "/a/../b", "//a", "/%61", "/a%2fb", "/a\\b", "/%zz", "/..;/a",
        ] {
            check_as(raw, path, "=");
        }
        let slashes = How {
            normalise: false,
            ..all
        };
        check_as(slashes, "//a/../%61", "/a/../%61");
        check_as(slashes, "/a%2f/%5Cb", "-> /a/\\b");
    }

    #[test]
    fn spellings_of_one_path() {
        for (path, expected) in [
            ("/", "="),
            ("", "="),
            ("*", "="),
            ("/a/b.c?x=//../%2F", "="),
            ("/a/%20b/%e4", "="),
            ("/a/...", "="),
            ("/.well-known/x", "="),
            ("//a///b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/../../x", "/x"),
            ("/..", "/"),
            ("/%61dmin", "/admin"),
            ("/x/%2e%2E/admin?q", "/admin?q"),
            ("/x/.%2e/admin", "/admin"),
            ("\\admin\\..\\b", "/b"),
            ("/a%2Fb", "-> /a/b"),
            ("/a%5cb?c=%2f", "-> /a/b?c=%2f"),
            ("/%2f%2Fevil.example", "-> /evil.example"),
            ("/a%", "!"),
            ("/a%2", "!"),
            ("/a%zz", "!"),
            ("/%%32e/", "!"),
            ("/%00", "!"),
            ("?x", "/?x"),
        ] {
            check(path, expected);
        }
    }

    #[test]
    fn paths_that_two_servers_read_differently() {
        for path in [
            // Path parameters: servlet containers cut them off before they resolve dots.
            "/public/..;/admin",
            "/public/..;a=b/admin",
            "/public/.;/admin",
            "/public/..;",
            "/public/%2e%2e;/admin",
            "/public/.%2e;x=/admin?q",
            "/public/..%3b/admin",
            "/public/..%3Ba=b/admin",
            "/public/..;%2f/x",
            "/;x/admin",
            "/public/;/admin",
            // Decoded twice, or more often.
            "/public/%252e%252e/admin",
            "/public/%252e%252e%252fadmin",
            "/public/.%252e/admin",
            "/public/%25252e%25252e/admin",
            "/public/%25%32%65./admin",
            "/public%252f..%252fadmin",
            "/a%252Fb",
            "/a%255cb",
            "/public/..%253b/admin",
            // Over-long UTF-8 for dot, slash, backslash and semicolon.
            "/public/%c0%ae%c0%ae/admin",
            "/public/%C0%AE./admin",
            "/public/..%c0%af../admin",
            "/public/%e0%80%ae%e0%80%ae/admin",
            "/public/%f0%80%80%ae./admin",
            "/a%c1%9cb",
            "/public/..%c0%bb/admin",
            // Blanks that a server cuts off.
            "/public/..%20/admin",
            "/public/%20../admin",
        ] {
            check(path, "?");
        }
        for path in [
            "/a;b=c/d",
            "/a;b/c;d=..",
            "/a%3bb",
            "/100%25/x",
            "/a%25zz",
            "/...;x/y",
            "/a%c3%a9/b",
            "/a%c0x",
            "/x%e0%a4%85",
            "/x;jsessionid=1?y=..;/",
            "/a/%20/b",
        ] {
            check(path, "=");
        }
        check("/a;x/../b", "/b");
    }

    #[test]
    fn nested_escapes_cost_linear_time() {
        let nested = format!("/%{}2e", "25".repeat(30_000));
        check(&nested, "?");
    }

    proptest! {
        /// What passes has the same segments for the most lenient reader there is.
        #[test]
        fn what_passes_hides_no_segments(path in "/([a./;]|%2e|%2f|%25|%3b|2e|2f|%c0%ae){0,12}") {
            let normal = match normalise(&path, How::default()) {
                Ok(Normalised::Unchanged) => path,
                Ok(Normalised::Changed(normal)) => normal,
                _ => return Ok(()),
            };
            let mut text = normal.clone();
            for _ in 0..normal.len() {
                for (escape, character) in [("%25", "%"), ("%2e", "."), ("%2f", "/"), ("%3b", ";"), ("%c0%ae", ".")] {
                    text = text.replace(escape, character);
                }
            }
            let names = |text: &str| -> Vec<bool> {
                let names = text.split('/').map(|s| s.split(';').next().unwrap_or_default());
                names.map(|name| name == "." || name == "..").collect()
            };
            let dotted = names(&text);
            prop_assert_eq!(dotted.len(), normal.split('/').count(), "{} of {}", text, normal);
            prop_assert!(!dotted.contains(&true), "{} of {}", text, normal);
        }

        #[test]
        fn normal_stays_normal(path in "/[a-b./%25eE2\\\\]{0,24}(\\?[a-z%/.]{0,6})?") {
            if let Ok(Normalised::Changed(normal) | Normalised::Redirect(normal)) = normalise(&path, How::default()) {
                prop_assert_eq!(normalise(&normal, How::default()), Ok(Normalised::Unchanged), "{}", normal);
            }
        }

        #[test]
        fn never_panics(path in any::<String>()) {
            let _ = normalise(&path, How::default());
        }
    }
}
