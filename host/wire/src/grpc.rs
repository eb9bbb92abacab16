//! gRPC as far as heads and trailers tell of it: which request is a call, of what, and
//! what its answer's status is (gRPC's `PROTOCOL-HTTP2.md`, `PROTOCOL-WEB.md`).

use std::{borrow::Cow, fmt::Write as _};

use crate::http::HttpHead;

/// How a call is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// gRPC over HTTP/2: the status stands in the trailers.
    Plain,
    /// gRPC-Web: the status stands in the body, or in the head if there is no body.
    Web,
    /// gRPC-Web in Base64.
    WebText,
}

impl Kind {
    /// By a request's `content-type`: one of gRPC's, with any format of messages.
    pub fn of(content_type: &[u8]) -> Option<Self> {
        let media = content_type.split(|byte| *byte == b';').next()?;
        let media = media.trim_ascii().to_ascii_lowercase();
        let rest = media.strip_prefix(b"application/grpc")?;
        let formats = [
            (Self::WebText, &b"-web-text"[..]),
            (Self::Web, b"-web"),
            (Self::Plain, b""),
        ];
        let of = |(kind, name): (Self, &[u8])| {
            let format = rest.strip_prefix(name)?;
            (format.is_empty() || format.starts_with(b"+")).then_some(kind)
        };
        formats.into_iter().find_map(of)
    }

    /// What a response without messages says it is.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Plain => "application/grpc",
            Self::Web => "application/grpc-web",
            Self::WebText => "application/grpc-web-text",
        }
    }
}

/// Is this request a call?
pub fn kind(head: &HttpHead<'_>) -> Option<Kind> {
    if head.method != "POST" {
        return None;
    }
    let mut fields = head.headers.iter();
    let field = fields.find(|field| field.name.eq_ignore_ascii_case("content-type"))?;
    Kind::of(field.value)
}

/// Service and method of a call, by its path: `/package.Service/Method`. What has another
/// form is a service without a method.
pub fn called(path: &str) -> (&str, &str) {
    let path = path.split('?').next().unwrap_or_default();
    let path = path.strip_prefix('/').unwrap_or(path);
    path.rsplit_once('/').unwrap_or((path, ""))
}

/// Status codes of gRPC, with their numbers.
pub mod code {
    /// All went well.
    pub const OK: u32 = 0;
    /// Nobody knows.
    pub const UNKNOWN: u32 = 2;
    /// The caller may not.
    pub const PERMISSION_DENIED: u32 = 7;
    /// A limit is reached.
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    /// There is no such service or method.
    pub const UNIMPLEMENTED: u32 = 12;
    /// Something that must not happen has.
    pub const INTERNAL: u32 = 13;
    /// Nobody can answer at present; trying again may help.
    pub const UNAVAILABLE: u32 = 14;
    /// Who the caller is, is not known.
    pub const UNAUTHENTICATED: u32 = 16;
}

/// Names by number (gRPC's `statuscodes.md`).
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The name of a status.
pub fn name(code: u32) -> Cow<'static, str> {
    let name = usize::try_from(code)
        .ok()
        .and_then(|code| NAMES.get(code).copied());
    name.map_or_else(|| format!("STATUS {code}").into(), Cow::Borrowed)
}

/// The status that says what an HTTP status of ours says. As a client would read the latter
/// (gRPC's `http-grpc-status-mapping.md`), but where we know more than it could: a limit of
/// size is one, and a failure of ours is not unknown.
pub fn of_http(status: u16) -> u32 {
    match status {
        400 | 500 => code::INTERNAL,
        401 => code::UNAUTHENTICATED,
        403 => code::PERMISSION_DENIED,
        404 => code::UNIMPLEMENTED,
        413 | 431 => code::RESOURCE_EXHAUSTED,
        408 | 429 | 502..=504 => code::UNAVAILABLE,
        _ => code::UNKNOWN,
    }
}

/// What head or trailers say of the status; `None` if nothing, or nothing that is a number.
pub fn status<'f>(fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>) -> Option<u32> {
    let mut fields = fields.into_iter();
    let (_, value) = fields.find(|(name, _)| name.eq_ignore_ascii_case(b"grpc-status"))?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Text as the value of `grpc-message`: whatever is not printable ASCII, and `%`, in
/// percent-encoding.
pub fn message(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.trim().bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(byte.into()),
            // Writing to a String cannot fail.
            _ => _ = write!(out, "%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_known_by_its_content_type() {
        for (written, kind) in [
            ("application/grpc", Some(Kind::Plain)),
            ("application/grpc+proto", Some(Kind::Plain)),
            ("Application/GRPC; charset=utf-8", Some(Kind::Plain)),
            ("application/grpc-web", Some(Kind::Web)),
            ("application/grpc-web+proto", Some(Kind::Web)),
            ("application/grpc-web-text+proto", Some(Kind::WebText)),
            ("application/grpc-webby", None),
            ("application/grpcs", None),
            ("text/plain", None),
            ("", None),
        ] {
            assert_eq!(Kind::of(written.as_bytes()), kind, "{written}");
        }
    }

    #[test]
    fn service_and_method_are_read_from_the_path() {
        assert_eq!(called("/shop.Orders/Get"), ("shop.Orders", "Get"));
        assert_eq!(called("/shop.Orders/Get?x=/y"), ("shop.Orders", "Get"));
        assert_eq!(
            called("/below/shop.Orders/Get"),
            ("below/shop.Orders", "Get")
        );
        assert_eq!(called("/shop.Orders"), ("shop.Orders", ""));
        assert_eq!(called(""), ("", ""));
    }

    #[test]
    fn a_message_is_one_field_whatever_is_in_it() {
        assert_eq!(message("Access denied\r\n"), "Access denied");
        assert_eq!(message("100 %\né"), "100 %25%0A%C3%A9");
    }

    #[test]
    fn a_status_is_a_number_with_a_name() {
        let fields = [(&b"x"[..], &b"1"[..]), (b"grpc-status", b"7")];
        assert_eq!(
            status(fields).map(name).as_deref(),
            Some("PERMISSION_DENIED")
        );
        assert_eq!(name(16), "UNAUTHENTICATED");
        assert_eq!(name(17), "STATUS 17");
        assert_eq!(status([(&b"grpc-status"[..], &b"-1"[..])]), None);
    }
}
