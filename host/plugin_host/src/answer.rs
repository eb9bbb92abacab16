//! What a plugin answered, checked: nothing a guest says reaches a connection as it is.

use tidegate_wire::http::HeaderEdit;

use super::bindings::{dns, http};

/// Longest body of a denial, bytes.
const BODY: usize = 64 << 10;
/// Headers one edit may set and remove together.
const EDITS: usize = 64;
/// Longest header value, bytes.
const VALUE: usize = 8 << 10;

/// Longest reason a plugin may give, bytes.
const REASON: usize = 300;

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

/// A valid answer about a DNS query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsDecision {
    /// Forward.
    Allow {
        /// Rule that allowed.
        rule: Option<u32>,
    },
    /// Answer with this RCODE, 1–15.
    Refuse {
        /// The RCODE.
        rcode: u8,
    },
}

/// Why there is no answer; the binding's fail mode says what happens then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No plugin of this name is loaded.
    #[error("plugin is not loaded")]
    Missing,
    /// It reads another protocol.
    #[error("plugin has another world")]
    WrongWorld,
    /// It did not accept its configuration, or could not be started with it.
    #[error("plugin was not configured: {0}")]
    NotConfigured(String),
    /// It is being configured; there was nothing in use before.
    #[error("plugin is being prepared")]
    Preparing,
    /// No configured instance is at hand; one is being made.
    #[error("plugin is being restarted")]
    Restarting,
    /// This peer's messages made it fail too often; it is tried again later.
    #[error("plugin is suspended for this peer after too many failures")]
    Suspended,
    /// The binding, or this peer, has used up its share of the processor.
    #[error("plugin used up its share of the processor")]
    OverShare,
    /// The memory of this plugin, or of all together, is used up.
    #[error("no memory is left for plugins")]
    NoRoom,
    /// It trapped.
    #[error("plugin trapped: {0}")]
    Trapped(String),
    /// It exceeded its deadline.
    #[error("plugin exceeded its deadline")]
    Deadline,
    /// It exceeded its memory.
    #[error("plugin ran out of memory")]
    OutOfMemory,
    /// Its answer makes no sense.
    #[error("plugin gave an invalid answer: {0}")]
    Invalid(&'static str),
}

impl Failure {
    /// Brought about by traffic and ended by time. It must never let a message pass:
    /// whoever sends enough would switch the plugin off for himself.
    pub fn is_of_load(&self) -> bool {
        matches!(self, Self::Suspended | Self::OverShare | Self::NoRoom)
    }

    /// Was the plugin asked, and failed? Else it is no fault of the message's sender.
    pub(super) fn is_of_call(&self) -> bool {
        matches!(
            self,
            Self::Trapped(_) | Self::Deadline | Self::OutOfMemory | Self::Invalid(_)
        )
    }
}

/// Checks an answer about an HTTP message.
pub(super) fn http_decision(answer: http::Decision) -> Result<HttpDecision, Failure> {
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

/// Checks an answer about a DNS query. RCODE 0 would be an empty success, which is a
/// lie about the name; what needs more than four bits has no place in a plain header.
pub(super) fn dns_decision(answer: dns::Decision) -> Result<DnsDecision, Failure> {
    match answer {
        dns::Decision::Allow(rule) => Ok(DnsDecision::Allow { rule }),
        dns::Decision::Refuse(rcode @ 1..=15) => Ok(DnsDecision::Refuse { rcode }),
        dns::Decision::Refuse(_) => Err(Failure::Invalid("RCODE out of range")),
    }
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
    Ok(HeaderEdit {
        set: edit.set,
        remove: edit.remove,
    })
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

/// Words a plugin chose, fit for a log line or a table: at most 500 bytes, no control
/// characters.
pub(super) fn shorten(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(REASON));
    text.trim()
        .replace(|c: char| c.is_control() && c != '\n', "")
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
        assert_eq!(http_decision(answer).is_ok(), valid, "{set:?} {remove:?}");
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
            match http_decision(answer) {
                Ok(HttpDecision::Deny(denial)) => {
                    assert_eq!(denial.status, sent);
                    assert_eq!(denial.body.len(), BODY);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn words_of_a_plugin_fit_a_line() {
        assert_eq!(shorten(" a\x1b[31m\u{7f}b\n".to_owned()), "a[31mb");
        assert_eq!(shorten("é".repeat(10_000)).len(), REASON);
    }

    #[test]
    fn an_rcode_must_refuse() {
        for (rcode, valid) in [(0, false), (5, true), (15, true), (16, false)] {
            assert_eq!(dns_decision(dns::Decision::Refuse(rcode)).is_ok(), valid);
        }
    }
}
