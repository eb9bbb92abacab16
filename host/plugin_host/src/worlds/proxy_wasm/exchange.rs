//! One request and its response, as a module sees them: what it is called for, and what of
//! its answers is believed.

use tidegate_proxy_wasm::{
    Attributes, Connection, Exchange, Fields, LocalReply as Said, Open, ROOT, Side,
};
use tidegate_wire::http::{Header, HeaderEdit, HttpHead, ResponseHead, Version};
use wasmtime::Store;

use super::{Exports, call, host};
use crate::{
    failure::Failure,
    instance::State,
    worlds::{
        exchange::{BodyVerdict, BodyWish, HeadVerdict, LocalReply, TrailersVerdict, Way},
        http::checked,
    },
};

/// Most exchanges under way in one instance.
const EXCHANGES: usize = 4_096;

/// Fields of one hop: they are the host's, and no filter's to see or change.
const OF_HOP: [&str; 4] = ["connection", "keep-alive", "proxy-connection", "host"];
/// Fields that say how long a message is. A filter that changes a body takes them away; the
/// host says what is true then.
const FRAMING: [&[u8]; 2] = [b"content-length", b"transfer-encoding"];

/// The outer error is the machine's or the guest's, the inner one says what is wrong with what
/// it wants.
type Answered<R> = wasmtime::Result<Result<R, Failure>>;

/// What a callback says: `proxy_action_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Continue,
    Pause,
}

/// Begins an exchange: its context.
pub(crate) fn open(exports: &Exports, store: &mut Store<State>) -> Answered<u32> {
    let facts = store.data().facts.clone();
    let attributes = Attributes {
        connection: Connection {
            source: facts.source,
            destination: facts.destination,
        },
        protocol: "",
        time_ns: now_ns(),
    };
    if host::vm(store, |vm| vm.open_exchanges()) >= EXCHANGES {
        return Ok(Err(Failure::NoRoom));
    }
    let context = host::vm(store, |vm| vm.begin(attributes));
    host::enter(store, context);
    call(&exports.create, store, (context, ROOT))?;
    Ok(Ok(context))
}

fn now_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

/// Does something with an exchange that is there, because nobody ends it but [`leave`].
fn with<R>(
    store: &mut Store<State>,
    context: u32,
    work: impl FnOnce(&mut Exchange) -> R,
) -> Result<R, Failure> {
    let found = host::vm(store, |vm| vm.exchange(context).map(work));
    found.ok_or(Failure::Invalid("it lost the exchange"))
}

fn side(exchange: &mut Exchange, way: Way) -> &mut Side {
    match way {
        Way::Request => &mut exchange.request,
        Way::Response => &mut exchange.response,
    }
}

/// What may be changed while the guest is asked about one of the two.
fn unlock(exchange: &mut Exchange, way: Way, open: Open) {
    let shut = Open::default();
    match way {
        Way::Request => exchange.open(open, shut),
        Way::Response => exchange.open(shut, open),
    }
    side(exchange, way).continued = false;
}

/// What the guest made of an exchange it was asked about.
enum Outcome {
    Goes(Action),
    Reply(LocalReply),
}

/// What becomes of it after a callback said `said`; nothing said is `Continue`.
fn outcome(
    store: &mut Store<State>,
    context: u32,
    way: Way,
    said: Option<u32>,
) -> Result<Outcome, Failure> {
    let action = match said {
        None | Some(0) => Action::Continue,
        Some(1) => Action::Pause,
        Some(_) => return Err(Failure::Invalid("an action that is none")),
    };
    if !host::vm(store, |vm| vm.weigh(context)) {
        with(store, context, |exchange| {
            (
                exchange.request.body,
                exchange.response.body,
                exchange.reply,
            ) = (Vec::new(), Vec::new(), None);
        })?;
        host::vm(store, |vm| vm.weigh(context));
        return Err(Failure::NoRoom);
    }
    let (reply, closed, continued) = with(store, context, |exchange| {
        exchange.open(Open::default(), Open::default());
        let continued = side(exchange, way).continued;
        (exchange.reply.take(), exchange.closed, continued)
    })?;
    host::vm(store, |vm| vm.weigh(context));
    Ok(match reply {
        Some(said) => Outcome::Reply(local_reply(said)),
        // It is to end without an answer: nobody gets the other one's.
        None if closed => Outcome::Reply(LocalReply {
            status: 503,
            headers: Vec::new(),
            body: Vec::new(),
            as_it_is: false,
            rule: None,
        }),
        None if continued => Outcome::Goes(Action::Continue),
        None => Outcome::Goes(action),
    })
}

/// Fields of an answer, but for those that are the host's to write.
fn local_reply(said: Said) -> LocalReply {
    let mut headers = Vec::new();
    for (name, value) in said.fields.iter() {
        let (Ok(name), Ok(value)) = (str::from_utf8(name), str::from_utf8(value)) else {
            continue;
        };
        let field = (name.to_owned(), value.to_owned());
        let alone = HeaderEdit {
            set: vec![field.clone()],
            remove: Vec::new(),
        };
        if checked(alone).is_ok() {
            headers.push(field);
        }
    }
    LocalReply {
        status: u16::try_from(said.status).unwrap_or(503),
        headers,
        body: said.body,
        as_it_is: true,
        rule: None,
    }
}

/// The head of a request.
pub(crate) fn request(
    exports: &Exports,
    store: &mut Store<State>,
    context: u32,
    head: &HttpHead<'_>,
    most: usize,
) -> Answered<HeadVerdict> {
    let pseudo = [
        (":authority", head.authority.as_bytes()),
        (":path", head.path.as_bytes()),
        (":method", head.method.as_bytes()),
        (":scheme", b"http"),
    ];
    let ends = match head.version {
        Version::Http10 | Version::Http11 => !says_body(head.headers),
        // There may be a body that no field speaks of.
        Version::Http2 => says_none(head.headers),
    };
    let fields = fields(&pseudo, head.headers);
    let spoken = with(store, context, |exchange| {
        exchange.spoken(head.version.as_str());
    });
    match spoken {
        Ok(()) => self::head(
            exports,
            store,
            (context, Way::Request),
            (fields, ends),
            most,
        ),
        Err(failure) => Ok(Err(failure)),
    }
}

/// The head of a final response.
pub(crate) fn response(
    exports: &Exports,
    store: &mut Store<State>,
    context: u32,
    head: &ResponseHead<'_>,
    most: usize,
) -> Answered<HeadVerdict> {
    let status = head.status.to_string();
    let fields = fields(&[(":status", status.as_bytes())], head.headers);
    let ends = says_none(head.headers);
    self::head(
        exports,
        store,
        (context, Way::Response),
        (fields, ends),
        most,
    )
}

/// Does a field of HTTP/1 announce a body (RFC 9112 §6.3)?
fn says_body(headers: &[Header<'_>]) -> bool {
    let framing = |header: &&Header<'_>| header.name.eq_ignore_ascii_case("transfer-encoding");
    headers.iter().any(|header| framing(&header)) || (has_length(headers) && !says_none(headers))
}

fn has_length(headers: &[Header<'_>]) -> bool {
    lengths(headers).next().is_some()
}

/// Does a field say that there are no bytes?
fn says_none(headers: &[Header<'_>]) -> bool {
    has_length(headers) && lengths(headers).all(|header| header.value == b"0")
}

fn lengths<'h>(headers: &'h [Header<'h>]) -> impl Iterator<Item = &'h Header<'h>> {
    let named = |header: &&Header<'_>| header.name.eq_ignore_ascii_case("content-length");
    headers.iter().filter(named)
}

/// Fields as a guest sees them.
fn fields(pseudo: &[(&str, &[u8])], headers: &[Header<'_>]) -> Fields {
    let of_hop = |name: &str| OF_HOP.iter().any(|hop| name.eq_ignore_ascii_case(hop));
    let headers = headers.iter().filter(|header| !of_hop(header.name));
    let headers = headers.map(|header| (header.name.as_bytes(), header.value));
    let pseudo = pseudo.iter().map(|(name, value)| (name.as_bytes(), *value));
    Fields::new(pseudo.chain(headers))
}

fn head(
    exports: &Exports,
    store: &mut Store<State>,
    (context, way): (u32, Way),
    (fields, ends): (Fields, bool),
    most: usize,
) -> Answered<HeadVerdict> {
    let callbacks = match way {
        Way::Request => &exports.request,
        Way::Response => &exports.response,
    };
    let count = u32::try_from(fields.len()).unwrap_or(u32::MAX);
    let ready = with(store, context, |exchange| {
        let side = side(exchange, way);
        side.ended = ends;
        side.original = fields.clone();
        side.fields = fields;
        unlock(
            exchange,
            way,
            Open {
                fields: true,
                ..Open::default()
            },
        );
    });
    if let Err(failure) = ready {
        return Ok(Err(failure));
    }
    host::enter(store, context);
    let said = call(&callbacks.head, store, (context, count, u32::from(ends)))?;
    Ok(outcome(store, context, way, said).and_then(|outcome| {
        let action = match outcome {
            Outcome::Reply(reply) => return Ok(HeadVerdict::Reply(reply)),
            Outcome::Goes(action) => action,
        };
        let held = action == Action::Pause;
        if held && ends {
            return Err(NOTHING_CONTINUES);
        }
        let sees = callbacks.body.is_some() || callbacks.trailers.is_some();
        let edit = match held {
            // It may still be changed.
            true => HeaderEdit::default(),
            false => take_edit(store, context, way)?,
        };
        with(store, context, |exchange| side(exchange, way).held = held)?;
        Ok(HeadVerdict::Pass {
            rule: None,
            edit,
            body: match sees || held {
                true => BodyWish::Window {
                    most,
                    holds_head: held,
                },
                false => BodyWish::Unseen,
            },
        })
    }))
}

/// Bytes of a body. Those that were shown before are what the guest made of them; what comes
/// behind is new.
pub(crate) fn body(
    exports: &Exports,
    store: &mut Store<State>,
    (context, way): (u32, Way),
    data: &[u8],
    end: bool,
) -> Answered<BodyVerdict> {
    let callbacks = match way {
        Way::Request => &exports.request,
        Way::Response => &exports.response,
    };
    let ready = with(store, context, |exchange| {
        let side = side(exchange, way);
        if side.ended && data.is_empty() {
            return None;
        }
        let new = data.get(side.shown..).unwrap_or_default();
        side.size += new.len() as u64;
        side.body.extend_from_slice(new);
        side.shown = data.len();
        let open = Open {
            fields: side.held,
            body: true,
            trailers: false,
        };
        let length = u32::try_from(side.body.len()).unwrap_or(u32::MAX);
        unlock(exchange, way, open);
        Some(length)
    });
    let length = match ready {
        Ok(Some(length)) => length,
        // It knows that there is none.
        Ok(None) => {
            return Ok(Ok(BodyVerdict::Take {
                count: 0,
                instead: None,
                edit: HeaderEdit::default(),
            }));
        }
        Err(failure) => return Ok(Err(failure)),
    };
    host::enter(store, context);
    let said = call(&callbacks.body, store, (context, length, u32::from(end)))?;
    Ok(
        outcome(store, context, way, said).and_then(|outcome| match outcome {
            Outcome::Reply(reply) => Ok(BodyVerdict::Reply(reply)),
            Outcome::Goes(Action::Pause) if end => Err(NOTHING_CONTINUES),
            Outcome::Goes(Action::Pause) => Ok(BodyVerdict::Take {
                count: 0,
                instead: None,
                edit: HeaderEdit::default(),
            }),
            Outcome::Goes(Action::Continue) => {
                let held = with(store, context, |exchange| {
                    std::mem::take(&mut side(exchange, way).held)
                })?;
                let edit = match held {
                    true => take_edit(store, context, way)?,
                    false => HeaderEdit::default(),
                };
                let made = with(store, context, |exchange| {
                    let side = side(exchange, way);
                    side.shown = 0;
                    std::mem::take(&mut side.body)
                })?;
                host::vm(store, |vm| vm.weigh(context));
                Ok(BodyVerdict::Take {
                    count: data.len(),
                    instead: (made != data).then_some(made),
                    edit,
                })
            }
        }),
    )
}

/// Trailers.
pub(crate) fn trailers(
    exports: &Exports,
    store: &mut Store<State>,
    (context, way): (u32, Way),
    trailers: &[Header<'_>],
) -> Answered<TrailersVerdict> {
    let callbacks = match way {
        Way::Request => &exports.request,
        Way::Response => &exports.response,
    };
    let came = fields(&[], trailers);
    let count = u32::try_from(came.len()).unwrap_or(u32::MAX);
    let ready = with(store, context, |exchange| {
        side(exchange, way).trailers = came.clone();
        unlock(
            exchange,
            way,
            Open {
                trailers: true,
                ..Open::default()
            },
        );
    });
    if let Err(failure) = ready {
        return Ok(Err(failure));
    }
    host::enter(store, context);
    let said = call(&callbacks.trailers, store, (context, count))?;
    Ok(
        outcome(store, context, way, said).and_then(|outcome| match outcome {
            Outcome::Reply(reply) => Ok(TrailersVerdict::Reply(reply)),
            Outcome::Goes(Action::Pause) => Err(NOTHING_CONTINUES),
            Outcome::Goes(Action::Continue) => {
                let now = with(store, context, |exchange| {
                    side(exchange, way).trailers.clone()
                })?;
                edit(&came, &now).map(TrailersVerdict::Pass)
            }
        }),
    )
}

/// The exchange is over.
pub(crate) fn leave(
    exports: &Exports,
    store: &mut Store<State>,
    context: u32,
) -> wasmtime::Result<()> {
    host::enter(store, context);
    if call(&exports.done, store, context)? == Some(0) {
        host::vm(store, |vm| vm.linger(context));
    } else {
        end(exports, store, context)?;
    }
    end_done(exports, store)
}

/// Ends what the guest went on with and is done with by now.
pub(super) fn end_done(exports: &Exports, store: &mut Store<State>) -> wasmtime::Result<()> {
    for done in host::vm(store, |vm| vm.take_done()) {
        end(exports, store, done)?;
    }
    Ok(())
}

fn end(exports: &Exports, store: &mut Store<State>, context: u32) -> wasmtime::Result<()> {
    host::enter(store, context);
    call(&exports.log, store, context)?;
    call(&exports.delete, store, context)?;
    host::vm(store, |vm| vm.end(context));
    Ok(())
}

/// What a guest waits for that never comes.
const NOTHING_CONTINUES: Failure =
    Failure::Invalid("it paused a message, and there is nothing that could continue it");

/// The changes to a head, which goes on with them.
fn take_edit(store: &mut Store<State>, context: u32, way: Way) -> Result<HeaderEdit, Failure> {
    with(store, context, |exchange| {
        let side = side(exchange, way);
        edit(&side.original, &side.fields)
    })?
}

/// What is different. Fields that say how long a message is may be taken away: the host
/// writes them.
fn edit(before: &Fields, now: &Fields) -> Result<HeaderEdit, Failure> {
    let mut edit = HeaderEdit::default();
    let mut names: Vec<&[u8]> = Vec::new();
    for (name, _) in before.iter().chain(now.iter()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for name in names {
        if before.all(name).eq(now.all(name)) {
            continue;
        }
        let gone = now.get(name).is_none();
        if gone && FRAMING.contains(&name) {
            continue;
        }
        if name.starts_with(b":") {
            return Err(Failure::Invalid(
                "a change to a field that begins with a colon",
            ));
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec());
        let invalid = |_| Failure::Invalid("a header field that is no text");
        let name_text = text(name).map_err(invalid)?;
        if gone {
            edit.remove.push(name_text);
            continue;
        }
        for value in now.all(name) {
            let value = text(value).map_err(invalid)?;
            edit.set.push((name_text.clone(), value.trim().to_owned()));
        }
    }
    checked(edit).map_err(Failure::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Fields {
        Fields::new(
            pairs
                .iter()
                .map(|(name, value)| (name.as_bytes(), value.as_bytes())),
        )
    }

    #[test]
    fn what_is_different_is_an_edit() {
        let before = [
            (":path", "/"),
            ("a", "1"),
            ("b", "1"),
            ("b", "2"),
            ("content-length", "5"),
        ];
        let check = |now: &[(&str, &str)]| edit(&of(&before), &of(now));
        assert_eq!(check(&before), Ok(HeaderEdit::default()));
        let changed = check(&[(":path", "/"), ("b", "1"), ("b", "3"), ("c", "9")]);
        let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            changed,
            Ok(HeaderEdit {
                set: vec![own("b", "1"), own("b", "3"), own("c", "9")],
                remove: vec!["a".to_owned()],
            })
        );
        for (name, value) in [
            (":path", "/admin"),
            ("content-length", "6"),
            ("transfer-encoding", "chunked"),
            ("host", "other"),
            ("x", "a\r\nb: c"),
        ] {
            let mut now = of(&before);
            now.replace(name.as_bytes(), value.as_bytes())
                .expect("room");
            assert!(edit(&of(&before), &now).is_err(), "{name}");
        }
    }
}
