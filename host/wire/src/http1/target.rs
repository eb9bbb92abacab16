//! The four forms of a request target (RFC 9112 §3.2) and `Host`.

use super::HeadError;

/// A request target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'b> {
    /// `/path?query`.
    Origin(&'b str),
    /// `http://authority/path?query`.
    Absolute {
        /// `http://authority`, as written.
        prefix: &'b str,
        /// The authority.
        authority: &'b str,
        /// What follows; empty or beginning with `/` or `?`.
        path: &'b str,
    },
    /// `host:port`, for CONNECT.
    Authority(&'b str),
    /// `*`, for OPTIONS.
    Asterisk,
}

impl<'b> Target<'b> {
    pub(super) fn parse(method: &str, target: &'b str) -> Result<Self, HeadError> {
        // httparse lets bytes above 0x7e pass, and a fragment is never sent.
        if !target.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            return Err(HeadError::Target);
        }
        if method == "CONNECT" {
            let port = target.rsplit_once(':').map(|(_, port)| port);
            let has_port = port.is_some_and(|p| p.parse::<u16>().is_ok());
            return (has_port && valid_authority(target))
                .then_some(Self::Authority(target))
                .ok_or(HeadError::Target);
        }
        if target.starts_with('/') {
            return Ok(Self::Origin(target));
        }
        if target == "*" {
            return (method == "OPTIONS")
                .then_some(Self::Asterisk)
                .ok_or(HeadError::Target);
        }
        Self::absolute(target)
    }

    fn absolute(target: &'b str) -> Result<Self, HeadError> {
        let (scheme, rest) = target.split_once("://").ok_or(HeadError::Target)?;
        if !["http", "https"]
            .iter()
            .any(|s| scheme.eq_ignore_ascii_case(s))
        {
            return Err(HeadError::Target);
        }
        let length = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(length);
        if authority.is_empty() || !valid_authority(authority) {
            return Err(HeadError::Target);
        }
        Ok(Self::Absolute {
            prefix: &target[..target.len() - path.len()],
            authority,
            path,
        })
    }

    /// `:path` as HTTP/2 would say it: `/` where an absolute target has no path,
    /// empty for CONNECT.
    pub fn path(&self) -> &'b str {
        match *self {
            Self::Origin(path) => path,
            Self::Absolute { path: "", .. } => "/",
            Self::Absolute { path, .. } => path,
            Self::Authority(_) => "",
            Self::Asterisk => "*",
        }
    }

    /// The authority: the target's own, which must agree with `Host`, else `Host`.
    pub(super) fn authority(&self, host: Option<&'b str>) -> Result<&'b str, HeadError> {
        let host = match host {
            Some(host) if !valid_authority(host) => return Err(HeadError::Host),
            other => other,
        };
        match (*self, host) {
            (Self::Absolute { authority, .. }, Some(host)) => authority
                .eq_ignore_ascii_case(host)
                .then_some(authority)
                .ok_or(HeadError::Host),
            // Clients differ in whether `Host` of a CONNECT has the port.
            (Self::Authority(authority), Some(host)) => {
                let name = authority.rsplit_once(':').map_or(authority, |(n, _)| n);
                (authority.eq_ignore_ascii_case(host) || name.eq_ignore_ascii_case(host))
                    .then_some(authority)
                    .ok_or(HeadError::Host)
            }
            (Self::Absolute { authority, .. } | Self::Authority(authority), None) => Ok(authority),
            (Self::Origin(_) | Self::Asterisk, host) => Ok(host.unwrap_or_default()),
        }
    }
}

/// `host[:port]` of RFC 3986 without user information; may be empty.
pub(crate) fn valid_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, ""),
        Some((host, rest)) => match rest.strip_prefix(':') {
            Some(port) => (host, port),
            None => return false,
        },
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let literal = text.starts_with('[');
    let host_byte = |b: u8| match b {
        b':' => literal,
        b'[' | b']' | b'@' | b'/' | b'?' | b'#' | b'\\' | b'"' | b'<' | b'>' | b'^' | b'`'
        | b'{' | b'|' | b'}' | b',' => false,
        _ => b.is_ascii_graphic(),
    };
    host.bytes().all(host_byte) && port.bytes().all(|b| b.is_ascii_digit())
}
