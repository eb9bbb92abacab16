//! HTTP heads in the form plugins get them.

use tidegate_wire::http::Header;

use super::{answer::is_name, bindings::exports::tidegate::filter::http::Method};

/// Header names a plugin may ask for.
const NAMES: usize = 64;

/// Which headers a plugin sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::worlds) enum Wanted {
    /// All of them.
    All,
    /// Those of these lower-case names.
    Named(Vec<String>),
}

impl Wanted {
    /// From a plugin's declaration.
    ///
    /// # Errors
    ///
    /// A sentence for the operator.
    pub(in crate::worlds) fn new(names: &[String]) -> Result<Self, String> {
        if names.iter().any(|name| name == "*") {
            return match names.len() {
                1 => Ok(Self::All),
                _ => Err("asks for `*` and for single headers".to_owned()),
            };
        }
        if names.len() > NAMES {
            return Err(format!("asks for {} headers; at most {NAMES}", names.len()));
        }
        match names.iter().find(|name| !is_name(name)) {
            Some(name) => Err(format!(
                "asks for {name:?}, which is no lower-case header name"
            )),
            None => Ok(Self::Named(names.to_vec())),
        }
    }

    /// Packs what is wanted of `headers` into `packed`, replacing what was in it.
    pub(in crate::worlds) fn pack(&self, headers: &[Header<'_>], packed: &mut Vec<u8>) {
        packed.clear();
        match self {
            Self::All => headers.iter().for_each(|header| append(packed, header)),
            Self::Named(names) if names.is_empty() => {}
            Self::Named(names) => headers
                .iter()
                .filter(|header| {
                    names
                        .iter()
                        .any(|name| name.eq_ignore_ascii_case(header.name))
                })
                .for_each(|header| append(packed, header)),
        }
    }
}

/// Appends a header; one too long for its length field never passed the parser.
fn append(packed: &mut Vec<u8>, header: &Header<'_>) {
    let (Ok(name), Ok(value)) = (
        u16::try_from(header.name.len()),
        u32::try_from(header.value.len()),
    ) else {
        return;
    };
    packed.extend_from_slice(&name.to_le_bytes());
    packed.extend(header.name.bytes().map(|byte| byte.to_ascii_lowercase()));
    packed.extend_from_slice(&value.to_le_bytes());
    packed.extend_from_slice(header.value);
}

/// A method as number, or as text if it has none.
pub(super) fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "CONNECT" => Method::Connect,
        "OPTIONS" => Method::Options,
        "TRACE" => Method::Trace,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(names: &[&str]) -> Result<Wanted, String> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        Wanted::new(&names)
    }

    #[test]
    fn only_what_is_wanted_is_packed() {
        let headers = [("Accept", "a"), ("X-Id", "1"), ("x-id", "")].map(|(name, value)| Header {
            name,
            value: value.as_bytes(),
        });
        let mut packed = vec![9];
        let mut check = |names: &[&str], expected: &[u8]| {
            wanted(names).unwrap().pack(&headers, &mut packed);
            assert_eq!(packed, expected, "{names:?}");
        };
        check(&[], b"");
        check(&["x-id"], b"\x04\0x-id\x01\0\0\x001\x04\0x-id\0\0\0\0");
        check(&["accept", "none"], b"\x06\0accept\x01\0\0\0a");
        check(
            &["*"],
            b"\x06\0accept\x01\0\0\0a\x04\0x-id\x01\0\0\x001\x04\0x-id\0\0\0\0",
        );
    }

    #[test]
    fn greed_and_nonsense_are_refused() {
        assert!(wanted(&["x"; 65]).unwrap_err().contains("at most 64"));
        assert!(wanted(&["*", "x"]).is_err());
        assert!(wanted(&["X"]).unwrap_err().contains("\"X\""));
        assert!(wanted(&["x y"]).is_err());
    }
}
