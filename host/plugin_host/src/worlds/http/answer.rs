//! What a plugin answered, checked: nothing a guest says reaches a connection as it is.

use tidegate_wire::http::HeaderEdit;

use super::bindings::exports::tidegate::filter::http;
use crate::failure::Failure;

/// Longest body of a denial, bytes.
const BODY: usize = 64 << 10;
/// Headers one edit may set and remove together.
const EDITS: usize = 64;
/// Longest header value, bytes.
const VALUE: usize = 8 << 10;

/// Headers that frame or route a message; a plugin that changed them could make the
/// two ends disagree about where a message ends or whom it is for.
const PROTECTED: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A valid answer about an HTTP message. Rules are indices into the binding's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpDecision {
    /// Pass unchanged.
    Allow {
        /// Rule that allowed.
        rule: Option<u32>,
    },
    /// Refuse.
    Deny(Denial),
    /// Pass with changes.
    Edit {
        /// Rule that allowed.
        rule: Option<u32>,
        /// The changes.
        edit: HeaderEdit,
    },
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// 400–599.
    pub status: u16,
    /// Text, at most 64 KiB; empty for the usual one.
    pub body: String,
    /// Rule that refused.
    pub rule: Option<u32>,
}

/// Checks an answer.
pub(super) fn decision(answer: http::Decision) -> Result<HttpDecision, Failure> {
    Ok(match answer {
        http::Decision::Allow(rule) => HttpDecision::Allow { rule },
        http::Decision::Deny(denial) => HttpDecision::Deny(self::denial(denial)),
        http::Decision::Edit(edit) => {
            let rule = edit.rule;
            let edit = self::edit(edit).map_err(Failure::Invalid)?;
            HttpDecision::Edit { rule, edit }
        }
    })
}

/// A denial stays a denial, whatever is wrong with its details.
fn denial(denial: http::Denial) -> Denial {
    let mut body = denial.body;
    body.truncate(body.floor_char_boundary(BODY));
    Denial {
        status: match denial.status {
            status @ 400..=599 => status,
            _ => 403,
        },
        body,
        rule: denial.rule,
    }
}

fn edit(edit: http::Edit) -> Result<HeaderEdit, &'static str> {
    checked(HeaderEdit {
        set: edit.set,
        remove: edit.remove,
    })
}

/// Changes that leave framing and routing alone, and are fields.
pub(in crate::worlds) fn checked(edit: HeaderEdit) -> Result<HeaderEdit, &'static str> {
    if edit.set.len() + edit.remove.len() > EDITS {
        return Err("too many header changes");
    }
    for name in edit.set.iter().map(|(name, _)| name).chain(&edit.remove) {
        if !is_name(name) {
            return Err("a header name that is none");
        }
        if PROTECTED.contains(&name.as_str()) {
            return Err("a change to a header that frames or routes the message");
        }
    }
    if !edit.set.iter().all(|(_, value)| is_value(value)) {
        return Err("a header value that is none");
    }
    Ok(edit)
}

/// A field name of RFC 9110 §5.1, lower case as HTTP/2 wants it.
pub(super) fn is_name(name: &str) -> bool {
    let token = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
    };
    (1..=256).contains(&name.len()) && name.bytes().all(token)
}

/// A field value of RFC 9110 §5.5: no control characters, no outer blanks.
fn is_value(value: &str) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let bytes = value.as_bytes();
    value.len() <= VALUE
        && !blank(bytes.first())
        && !blank(bytes.last())
        && bytes
            .iter()
            .all(|byte| *byte == b'\t' || !byte.is_ascii_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_edit(set: &[(&str, &str)], remove: &[&str], valid: bool) {
        let own = |text: &&str| (*text).to_owned();
        let answer = http::Decision::Edit(http::Edit {
            rule: None,
            set: set.iter().map(|(n, v)| (own(n), own(v))).collect(),
            remove: remove.iter().map(own).collect(),
        });
        assert_eq!(decision(answer).is_ok(), valid, "{set:?} {remove:?}");
    }

    #[test]
    fn edits_cannot_break_a_message() {
        check_edit(&[("x-a", "1"), ("server", "")], &["cookie"], true);
        check_edit(&[("x-a", "caf\u{e9}\tx")], &[], true);
        check_edit(&[("x-a", "1\r\nx-b: 2")], &[], false);
        check_edit(&[("x-a", "1\0")], &[], false);
        check_edit(&[("x-a", " 1")], &[], false);
        check_edit(&[("X-A", "1")], &[], false);
        check_edit(&[("x a", "1")], &[], false);
        check_edit(&[("", "1")], &[], false);
        check_edit(&[(":path", "/")], &[], false);
        check_edit(&[("content-length", "0")], &[], false);
        check_edit(&[], &["host"], false);
        check_edit(&[], &["x"; 65], false);
    }

    #[test]
    fn a_denial_stays_one() {
        for (status, sent) in [(403, 403), (599, 599), (200, 403), (999, 403), (0, 403)] {
            let answer = http::Decision::Deny(http::Denial {
                status,
                body: "é".repeat(BODY),
                rule: Some(1),
            });
            match decision(answer) {
                Ok(HttpDecision::Deny(denial)) => {
                    assert_eq!(denial.status, sent);
                    assert_eq!(denial.body.len(), BODY);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
