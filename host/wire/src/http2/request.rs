//! Request header lists (RFC 9113 §8.2 and §8.3).

use super::{
    block::Fields,
    message::{Length, Malformed, check_field, check_value},
};
use crate::{http::Header, http1::valid_authority};

/// A request that passed every check.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Method.
    pub method: &'a str,
    /// `:scheme`; absent for a plain CONNECT.
    pub scheme: Option<&'a str>,
    /// `:protocol` of an extended CONNECT (RFC 8441).
    pub protocol: Option<&'a str>,
    /// `:authority` if sent.
    pub pseudo_authority: Option<&'a str>,
    /// The authority: `:authority`, else `host`, else empty.
    pub authority: &'a str,
    /// `:path`; empty for a plain CONNECT.
    pub path: &'a str,
    /// The other fields in order, `host` among them if sent.
    pub headers: Vec<Header<'a>>,
    /// What `content-length` says.
    pub length: Length,
}

impl<'a> Request<'a> {
    /// Checks a decoded list.
    pub fn read(fields: &'a Fields) -> Result<Self, Malformed> {
        if fields.is_too_large() {
            return Err(Malformed::TooLarge);
        }
        let mut pseudo = Pseudo::default();
        let mut headers = Vec::with_capacity(16);
        let mut host = None;
        for (name, value) in fields.iter() {
            let name = std::str::from_utf8(name).map_err(|_| Malformed::Field)?;
            if name.starts_with(':') {
                check_value(value)?;
                if !headers.is_empty() {
                    return Err(Malformed::Pseudo);
                }
                pseudo.take(name, value)?;
                continue;
            }
            check_field(name.as_bytes(), value)?;
            if name == "host" {
                let text = std::str::from_utf8(value).map_err(|_| Malformed::Authority)?;
                if host.replace(text).is_some() {
                    return Err(Malformed::Authority);
                }
            }
            headers.push(Header { name, value });
        }
        let length = Length::read(fields)?;
        pseudo.finish(host, headers, length)
    }
}

#[derive(Default)]
struct Pseudo<'a> {
    method: Option<&'a str>,
    scheme: Option<&'a str>,
    authority: Option<&'a str>,
    path: Option<&'a str>,
    protocol: Option<&'a str>,
}

impl<'a> Pseudo<'a> {
    fn take(&mut self, name: &str, value: &'a [u8]) -> Result<(), Malformed> {
        let slot = match name {
            ":method" => &mut self.method,
            ":scheme" => &mut self.scheme,
            ":authority" => &mut self.authority,
            ":path" => &mut self.path,
            ":protocol" => &mut self.protocol,
            _ => return Err(Malformed::Pseudo),
        };
        let text = std::str::from_utf8(value).map_err(|_| Malformed::Pseudo)?;
        // A blank or control byte here would change the request line of an HTTP/1
        // server behind the next reader.
        let visible = text.bytes().all(|b| b.is_ascii_graphic());
        if !visible || slot.replace(text).is_some() {
            return Err(Malformed::Pseudo);
        }
        Ok(())
    }

    fn finish(
        self,
        host: Option<&'a str>,
        headers: Vec<Header<'a>>,
        length: Length,
    ) -> Result<Request<'a>, Malformed> {
        let method = self.method.ok_or(Malformed::Pseudo)?;
        if method.is_empty() || !method.bytes().all(crate::http::is_token) {
            return Err(Malformed::Pseudo);
        }
        let plain_connect = method == "CONNECT" && self.protocol.is_none();
        let fits = if plain_connect {
            self.scheme.is_none() && self.path.is_none() && self.authority.is_some()
        } else {
            let path = self.path.ok_or(Malformed::Pseudo)?;
            let form = path.starts_with('/') || (path == "*" && method == "OPTIONS");
            let protocol = self.protocol.is_none() || method == "CONNECT";
            self.scheme.is_some_and(is_scheme) && form && protocol && !path.contains('#')
        };
        if !fits {
            return Err(Malformed::Pseudo);
        }
        let authority = match (self.authority, host) {
            (Some(a), Some(b)) if !a.eq_ignore_ascii_case(b) => {
                return Err(Malformed::Authority);
            }
            (authority, host) => authority.or(host).unwrap_or_default(),
        };
        if !valid_authority(authority) {
            return Err(Malformed::Authority);
        }
        Ok(Request {
            method,
            scheme: self.scheme,
            protocol: self.protocol,
            pseudo_authority: self.authority,
            authority,
            path: self.path.unwrap_or_default(),
            headers,
            length,
        })
    }
}

/// RFC 3986 §3.1.
fn is_scheme(text: &str) -> bool {
    let byte = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(byte)
}
