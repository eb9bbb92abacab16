//! Path normalisation before matching, as Cilium's Envoy does it (RFC 3986 §6.2.2,
//! merged slashes, escaped slashes refused by redirect): a rule about `/admin` must
//! see every spelling of `/admin`.

/// A path that cannot be matched safely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed path")]
pub struct PathError;

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
pub fn normalise(path_and_query: &str) -> Result<Normalised, PathError> {
    let (path, query) = match path_and_query.find('?') {
        Some(at) => path_and_query.split_at(at),
        None => (path_and_query, ""),
    };
    if is_normal(path.as_bytes()) && (query.is_empty() || !path.is_empty()) {
        return Ok(Normalised::Unchanged);
    }
    let (decoded, escaped_slash) = decode(path)?;
    let mut normal = remove_dot_segments(&decoded);
    normal.push_str(query);
    Ok(if escaped_slash {
        Normalised::Redirect(normal)
    } else if normal == path_and_query {
        Normalised::Unchanged
    } else {
        Normalised::Changed(normal)
    })
}

/// The common case, without allocation.
fn is_normal(path: &[u8]) -> bool {
    let mut previous = 0;
    for &byte in path {
        match byte {
            b'%' | b'\\' => return false,
            b'/' | b'.' if previous == b'/' => return false,
            _ => previous = byte,
        }
    }
    path.first().is_none_or(|&b| b == b'/' || path == b"*")
}

/// Decodes escapes of unreserved characters and of slashes; tells if there was one
/// of the latter. A backslash counts as a slash, as for the servers that unify them.
fn decode(path: &str) -> Result<(String, bool), PathError> {
    let mut out = String::with_capacity(path.len());
    let mut escaped_slash = false;
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'\\' => out.push('/'),
            b'%' => {
                let (escape, tail) = rest.split_at_checked(2).ok_or(PathError)?;
                rest = tail;
                let digit = |b: u8| (b as char).to_digit(16).ok_or(PathError);
                let value = (digit(escape[0])? << 4 | digit(escape[1])?) as u8;
                match value {
                    b'/' | b'\\' => {
                        escaped_slash = true;
                        out.push('/');
                    }
                    b'-' | b'.' | b'_' | b'~' => out.push(value as char),
                    _ if value.is_ascii_alphanumeric() => out.push(value as char),
                    0 => return Err(PathError),
                    _ => {
                        out.push('%');
                        out.push(escape[0] as char);
                        out.push(escape[1] as char);
                    }
                }
            }
            _ if byte.is_ascii() => out.push(byte as char),
            _ => return Err(PathError),
        }
    }
    Ok((out, escaped_slash))
}

/// RFC 3986 §5.2.4, with runs of slashes merged.
fn remove_dot_segments(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_in_folder = false;
    for segment in path.split('/') {
        ends_in_folder = matches!(segment, "" | "." | "..");
        match segment {
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
        let got = match normalise(path) {
            Ok(Normalised::Unchanged) => "=".to_owned(),
            Ok(Normalised::Changed(path)) => path,
            Ok(Normalised::Redirect(path)) => format!("-> {path}"),
            Err(PathError) => "!".to_owned(),
        };
        assert_eq!(got, expected, "for {path:?}");
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

    proptest! {
        #[test]
        fn normal_stays_normal(path in "/[a-b./%25eE2\\\\]{0,24}(\\?[a-z%/.]{0,6})?") {
            if let Ok(Normalised::Changed(normal) | Normalised::Redirect(normal)) = normalise(&path) {
                prop_assert_eq!(normalise(&normal), Ok(Normalised::Unchanged), "{}", normal);
            }
        }

        #[test]
        fn never_panics(path in any::<String>()) {
            let _ = normalise(&path);
        }
    }
}
