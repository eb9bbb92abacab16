//! What a plugin said becomes of a message, checked: nothing a guest says reaches a
//! connection as it is.

use tidegate_wire::http::HeaderEdit;

use super::wit;
use crate::{failure::Failure, worlds::http::checked};

/// Longest body of a local reply, bytes: what a client of HTTP/2 always has room for.
const REPLY: usize = 16 << 10;

/// What a filter wants to see of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyWish {
    /// Nothing.
    Unseen,
    /// All of it at once. Its head waits until then.
    Whole {
        /// Most bytes.
        most: usize,
        /// A longer one passes unread; else it is refused.
        skip_overlong: bool,
    },
    /// As it comes.
    Window {
        /// Most bytes at a time.
        most: usize,
        /// Its head waits until the filter has let some of it go on, or it ends.
        holds_head: bool,
    },
}

/// What becomes of a message whose head was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadVerdict {
    /// It goes on.
    Pass {
        /// Index of the rule that allowed.
        rule: Option<u32>,
        /// Changes to its head.
        edit: HeaderEdit,
        /// What is to be shown of its body.
        body: BodyWish,
    },
    /// The client is answered instead.
    Reply(LocalReply),
}

/// What becomes of bytes that were shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyVerdict {
    /// So many are done with; the rest is shown again, with what comes next.
    Take {
        /// Bytes, no more than were shown.
        count: usize,
        /// What goes on in their place.
        instead: Option<Vec<u8>>,
        /// Changes to the head, if it waits.
        edit: HeaderEdit,
    },
    /// The client is answered instead.
    Reply(LocalReply),
}

/// What becomes of trailers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrailersVerdict {
    /// They go on, with these changes.
    Pass(HeaderEdit),
    /// The client is answered instead.
    Reply(LocalReply),
}

/// A filter's own answer to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    /// 200–599.
    pub status: u16,
    /// Fields.
    pub headers: Vec<(String, String)>,
    /// At most 16 KiB; empty for the usual one if it is a refusal.
    pub body: Vec<u8>,
    /// A body that is empty is meant to be.
    pub as_it_is: bool,
    /// Index of the rule that refused.
    pub rule: Option<u32>,
}

/// A method as number, or as text if it has none.
pub(super) fn method(name: &str) -> wit::Method {
    match name {
        "GET" => wit::Method::Get,
        "HEAD" => wit::Method::Head,
        "POST" => wit::Method::Post,
        "PUT" => wit::Method::Put,
        "DELETE" => wit::Method::Delete,
        "CONNECT" => wit::Method::Connect,
        "OPTIONS" => wit::Method::Options,
        "TRACE" => wit::Method::Trace,
        "PATCH" => wit::Method::Patch,
        other => wit::Method::Other(other.to_owned()),
    }
}

/// Checks an answer to a head; `most` is what may be held of a body.
pub(super) fn of_head(verdict: wit::HeadVerdict, most: usize) -> Result<HeadVerdict, Failure> {
    let bounded = |asked: u32| most.min(usize::try_from(asked).unwrap_or(usize::MAX));
    Ok(match verdict {
        wit::HeadVerdict::Pass(pass) => HeadVerdict::Pass {
            rule: pass.rule,
            edit: edit(pass.edit)?,
            body: match pass.body {
                wit::Body::Unseen => BodyWish::Unseen,
                wit::Body::Whole(whole) => BodyWish::Whole {
                    most: bounded(whole.most),
                    skip_overlong: whole.overlong == wit::Overlong::Skip,
                },
                wit::Body::Window(0) => return Err(Failure::Invalid("a window of no bytes")),
                wit::Body::Window(size) => BodyWish::Window {
                    most: bounded(size),
                    holds_head: false,
                },
            },
        },
        wit::HeadVerdict::Reply(reply) => HeadVerdict::Reply(self::reply(reply)),
    })
}

/// Checks an answer to so many bytes of a body.
pub(super) fn of_body(verdict: wit::BodyVerdict, shown: usize) -> Result<BodyVerdict, Failure> {
    Ok(match verdict {
        wit::BodyVerdict::Pass => BodyVerdict::Take {
            count: shown,
            instead: None,
            edit: HeaderEdit::default(),
        },
        wit::BodyVerdict::Take(piece) => {
            let count = usize::try_from(piece.take).unwrap_or(usize::MAX);
            if count > shown {
                return Err(Failure::Invalid("more of a body than was shown"));
            }
            BodyVerdict::Take {
                count,
                instead: piece.instead,
                edit: edit(piece.edit)?,
            }
        }
        wit::BodyVerdict::Reply(reply) => BodyVerdict::Reply(self::reply(reply)),
    })
}

/// Checks an answer to trailers.
pub(super) fn of_trailers(verdict: wit::TrailersVerdict) -> Result<TrailersVerdict, Failure> {
    Ok(match verdict {
        wit::TrailersVerdict::Pass(edit) => TrailersVerdict::Pass(self::edit(edit)?),
        wit::TrailersVerdict::Reply(reply) => TrailersVerdict::Reply(self::reply(reply)),
    })
}

fn edit(edit: wit::Edit) -> Result<HeaderEdit, Failure> {
    let edit = HeaderEdit {
        set: edit.set,
        remove: edit.remove,
    };
    // By it the host and upstream agree when a body is sent.
    if edit.replaces("expect") {
        return Err(Failure::Invalid("a change to `expect`"));
    }
    checked(edit).map_err(Failure::Invalid)
}

/// A reply stays one, whatever is wrong with its details: the message does not pass.
fn reply(reply: wit::Reply) -> LocalReply {
    let headers = checked(HeaderEdit {
        set: reply.headers,
        remove: Vec::new(),
    });
    let mut body = reply.body;
    body.truncate(REPLY);
    LocalReply {
        status: match reply.status {
            status @ 200..=599 => status,
            _ => 403,
        },
        headers: headers.map(|edit| edit.set).unwrap_or_default(),
        body,
        as_it_is: false,
        rule: reply.rule,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_reply(status: u16, name: &str) -> wit::Reply {
        wit::Reply {
            status,
            headers: vec![(name.to_owned(), "1".to_owned())],
            body: vec![b'x'; 2 * REPLY],
            rule: Some(3),
        }
    }

    fn no_edit() -> wit::Edit {
        wit::Edit {
            set: Vec::new(),
            remove: Vec::new(),
        }
    }

    #[test]
    fn a_reply_stays_one() {
        for (status, sent) in [(200, 200), (302, 302), (599, 599), (101, 403), (0, 403)] {
            let reply = reply(own_reply(status, "x-a"));
            assert_eq!((reply.status, reply.headers.len()), (sent, 1));
            assert_eq!((reply.body.len(), reply.rule), (REPLY, Some(3)));
        }
        let framed = reply(own_reply(200, "content-length"));
        assert_eq!((framed.status, framed.headers.len()), (200, 0));
    }

    #[test]
    fn what_is_held_is_the_bindings_to_say() {
        let pass = |body| {
            wit::HeadVerdict::Pass(wit::Pass {
                rule: None,
                edit: no_edit(),
                body,
            })
        };
        let wish = |body| match of_head(pass(body), 100) {
            Ok(HeadVerdict::Pass { body, .. }) => Some(body),
            _ => None,
        };
        let window = |most| {
            Some(BodyWish::Window {
                most,
                holds_head: false,
            })
        };
        assert_eq!(wish(wit::Body::Window(10)), window(10));
        assert_eq!(wish(wit::Body::Window(u32::MAX)), window(100));
        assert_eq!(wish(wit::Body::Window(0)), None);
    }

    #[test]
    fn nobody_takes_more_than_was_shown_or_what_frames() {
        let take = |take, name: Option<&str>| {
            let mut edit = no_edit();
            edit.remove.extend(name.map(str::to_owned));
            of_body(
                wit::BodyVerdict::Take(wit::Piece {
                    take,
                    instead: None,
                    edit,
                }),
                5,
            )
        };
        assert!(take(5, Some("x-a")).is_ok());
        assert!(take(6, None).is_err());
        assert!(take(5, Some("transfer-encoding")).is_err());
    }
}
