//! Filters of HTTP exchanges, which see bodies and trailers and may answer themselves: the
//! traits, the messages, and the glue behind [`exchange_filter!`](crate::exchange_filter).

use crate::{
    bindings::exchange_world::exports::tidegate::filter::http_exchange as wit,
    headers::Headers,
    http::{Request, Response},
};

/// A filter over exchanges. One value is made per binding and instance; instances serve one
/// client each.
pub trait ExchangeFilter: Sized + 'static {
    /// One request and its response.
    type Exchange: HttpExchange + 'static;

    /// Makes a filter from the binding's configuration (JSON text), and says what it needs to
    /// see.
    ///
    /// # Errors
    ///
    /// A sentence for the operator; the version before stays in use.
    fn configure(config: &str) -> Result<(Self, ExchangeNeeds), String>;

    /// An exchange begins.
    fn begin(&self) -> Self::Exchange;
}

/// One exchange. What is not written passes.
pub trait HttpExchange {
    /// Decides about the head of the request, and says what to show of its body.
    fn on_request(&mut self, request: &Request) -> Verdict {
        let _ = request;
        Verdict::pass()
    }

    /// Looks at the request's body; called only if [`Verdict::and_see`] asked for it.
    fn on_request_body(&mut self, body: Body<'_>) -> BodyVerdict {
        let _ = body;
        BodyVerdict::pass()
    }

    /// Looks at the request's trailers; called as [`Self::on_request_body`], if there are any.
    fn on_request_trailers(&mut self, trailers: &Headers) -> TrailersVerdict {
        let _ = trailers;
        TrailersVerdict::pass()
    }

    /// Decides about the head of the final response; called only if
    /// [`ExchangeNeeds::and_responses`] was said.
    fn on_response(&mut self, response: &Response) -> Verdict {
        let _ = response;
        Verdict::pass()
    }

    /// Looks at the response's body.
    fn on_response_body(&mut self, body: Body<'_>) -> BodyVerdict {
        let _ = body;
        BodyVerdict::pass()
    }

    /// Looks at the response's trailers.
    fn on_response_trailers(&mut self, trailers: &Headers) -> TrailersVerdict {
        let _ = trailers;
        TrailersVerdict::pass()
    }
}

/// Which parts of heads the filter wants to see. Not asking is cheaper.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExchangeNeeds {
    request_headers: Vec<String>,
    response_headers: Vec<String>,
    responses: bool,
}

impl ExchangeNeeds {
    /// Method, path and authority of requests alone.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// These headers of requests, by name; `*` for all of them.
    pub fn headers<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Self {
        Self {
            request_headers: lower(names),
            ..Self::default()
        }
    }

    /// Responses too, with these headers.
    pub fn and_responses<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.responses = true;
        self.response_headers = lower(names);
        self
    }
}

fn lower<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Vec<String> {
    let names = names.into_iter();
    let mut names: Vec<_> = names
        .map(|name| name.as_ref().to_ascii_lowercase())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// What to show of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum See {
    /// Nothing.
    #[default]
    Nothing,
    /// All of it at once, up to so many bytes; a longer one is refused. Its head waits for it.
    Whole(u32),
    /// The same; a longer one passes unseen.
    WholeIfNotLonger(u32),
    /// As it comes, at most so many bytes at a time. Its head goes on at once.
    Window(u32),
}

/// Bytes of a body: what has not gone on yet, from its front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// No more will come.
    pub end: bool,
}

/// Changes to a head or to trailers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Edit {
    set: Vec<(String, String)>,
    remove: Vec<String>,
}

/// An answer to the client in place of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    rule: Option<u32>,
}

impl LocalReply {
    /// With this status (200–599) and body; an empty body of a refusal means the host's own.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            rule: None,
        }
    }

    /// With a header.
    pub fn with_header(mut self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        self.headers
            .push((name.as_ref().to_ascii_lowercase(), value.into()));
        self
    }

    /// Names the rule that decided, by its index in the binding.
    pub fn by_rule(mut self, index: u32) -> Self {
        self.rule = Some(index);
        self
    }
}

/// What becomes of a message whose head was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict(Head);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Head {
    Pass {
        rule: Option<u32>,
        edit: Edit,
        see: See,
    },
    Reply(LocalReply),
}

impl Verdict {
    /// It goes on.
    pub fn pass() -> Self {
        Self(Head::Pass {
            rule: None,
            edit: Edit::default(),
            see: See::Nothing,
        })
    }

    /// The client is answered instead.
    pub fn reply(reply: LocalReply) -> Self {
        Self(Head::Reply(reply))
    }

    /// Its body is to be shown; a reply stays one. So for all that follow.
    pub fn and_see(mut self, what: See) -> Self {
        if let Head::Pass { see, .. } = &mut self.0 {
            *see = what;
        }
        self
    }

    /// A header set to this value, replacing what was there.
    pub fn and_set_header(mut self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        if let Head::Pass { edit, .. } = &mut self.0 {
            edit.set
                .push((name.as_ref().to_ascii_lowercase(), value.into()));
        }
        self
    }

    /// A header removed.
    pub fn and_remove_header(mut self, name: impl AsRef<str>) -> Self {
        if let Head::Pass { edit, .. } = &mut self.0 {
            edit.remove.push(name.as_ref().to_ascii_lowercase());
        }
        self
    }

    /// Names the rule that allowed, by its index in the binding.
    pub fn by_rule(mut self, index: u32) -> Self {
        match &mut self.0 {
            Head::Pass { rule, .. } => *rule = Some(index),
            Head::Reply(reply) => reply.rule = Some(index),
        }
        self
    }
}

/// What becomes of bytes that were shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyVerdict(Piece);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Pass,
    Take {
        count: u32,
        instead: Option<Vec<u8>>,
        edit: Edit,
    },
    Reply(LocalReply),
}

impl BodyVerdict {
    /// All that was shown goes on.
    pub fn pass() -> Self {
        Self(Piece::Pass)
    }

    /// So many bytes from the front go on; the rest is shown again, with what comes next.
    pub fn pass_first(count: usize) -> Self {
        Self::take(count, None)
    }

    /// Nothing goes on yet: all is shown again, with what comes next.
    pub fn hold() -> Self {
        Self::pass_first(0)
    }

    /// So many bytes from the front are replaced by others, and the rest is shown again.
    pub fn replace_first(count: usize, bytes: Vec<u8>) -> Self {
        Self::take(count, Some(bytes))
    }

    fn take(count: usize, instead: Option<Vec<u8>>) -> Self {
        Self(Piece::Take {
            count: u32::try_from(count).unwrap_or(u32::MAX),
            instead,
            edit: Edit::default(),
        })
    }

    /// The client is answered instead of the message, or, if an answer has begun, the exchange
    /// is cut off.
    pub fn reply(reply: LocalReply) -> Self {
        Self(Piece::Reply(reply))
    }

    /// A header set in the head, which must have waited: only that of a whole body does.
    /// Not after [`Self::pass`]: say [`Self::pass_first`].
    pub fn and_set_header(mut self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        if let Piece::Take { edit, .. } = &mut self.0 {
            edit.set
                .push((name.as_ref().to_ascii_lowercase(), value.into()));
        }
        self
    }

    /// What goes on of bytes that were shown, and how many of them are done with; `None` if it
    /// is a reply. For tests of filters.
    pub fn goes_on(&self, shown: &[u8]) -> Option<(Vec<u8>, usize)> {
        match &self.0 {
            Piece::Pass => Some((shown.to_vec(), shown.len())),
            Piece::Take { count, instead, .. } => {
                let count = *count as usize;
                let own = instead.clone();
                Some((own.unwrap_or_else(|| shown[..count].to_vec()), count))
            }
            Piece::Reply(_) => None,
        }
    }
}

/// What becomes of trailers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrailersVerdict(Result<Edit, LocalReply>);

impl TrailersVerdict {
    /// They go on.
    pub fn pass() -> Self {
        Self(Ok(Edit::default()))
    }

    /// A field set to this value.
    pub fn and_set(mut self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        if let Ok(edit) = &mut self.0 {
            edit.set
                .push((name.as_ref().to_ascii_lowercase(), value.into()));
        }
        self
    }

    /// As [`BodyVerdict::reply`].
    pub fn reply(reply: LocalReply) -> Self {
        Self(Err(reply))
    }
}

impl From<Edit> for wit::Edit {
    fn from(Edit { set, remove }: Edit) -> Self {
        Self { set, remove }
    }
}

impl From<LocalReply> for wit::Reply {
    fn from(reply: LocalReply) -> Self {
        Self {
            status: reply.status,
            headers: reply.headers,
            body: reply.body,
            rule: reply.rule,
        }
    }
}

impl From<Verdict> for wit::HeadVerdict {
    fn from(Verdict(head): Verdict) -> Self {
        let whole = |most, overlong| wit::Body::Whole(wit::Whole { most, overlong });
        match head {
            Head::Pass { rule, edit, see } => Self::Pass(wit::Pass {
                rule,
                edit: edit.into(),
                body: match see {
                    See::Nothing => wit::Body::Unseen,
                    See::Whole(most) => whole(most, wit::Overlong::Refuse),
                    See::WholeIfNotLonger(most) => whole(most, wit::Overlong::Skip),
                    See::Window(size) => wit::Body::Window(size),
                },
            }),
            Head::Reply(reply) => Self::Reply(reply.into()),
        }
    }
}

impl From<BodyVerdict> for wit::BodyVerdict {
    fn from(BodyVerdict(piece): BodyVerdict) -> Self {
        match piece {
            Piece::Pass => Self::Pass,
            Piece::Take {
                count,
                instead,
                edit,
            } => Self::Take(wit::Piece {
                take: count,
                instead,
                edit: edit.into(),
            }),
            Piece::Reply(reply) => Self::Reply(reply.into()),
        }
    }
}

impl From<TrailersVerdict> for wit::TrailersVerdict {
    fn from(TrailersVerdict(verdict): TrailersVerdict) -> Self {
        match verdict {
            Ok(edit) => Self::Pass(edit.into()),
            Err(reply) => Self::Reply(reply.into()),
        }
    }
}

/// Makes a plugin of a type that implements [`ExchangeFilter`]; the second argument is its
/// manifest, as for [`http_filter!`](crate::http_filter).
#[macro_export]
macro_rules! exchange_filter {
    ($filter:ty, $manifest:tt) => {
        // Natively nobody calls the filter but its tests; it is in use all the same.
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn(&str) -> Result<($filter, $crate::exchange::ExchangeNeeds), String> =
            <$filter as $crate::exchange::ExchangeFilter>::configure;

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::exchange::glue;

            $crate::embed_manifest!($manifest);

            struct Export;

            ::std::thread_local! {
                static FILTER: glue::Slot<$filter> = const { glue::Slot::new(None) };
            }

            struct Exchange(glue::Cell<<$filter as $crate::exchange::ExchangeFilter>::Exchange>);

            impl glue::Guest for Export {
                type Exchange = Exchange;

                fn configure(config: String) -> Result<glue::Needs, String> {
                    FILTER.with(|slot| glue::configure(slot, &config))
                }
            }

            impl glue::GuestExchange for Exchange {
                fn new() -> Self {
                    Self(FILTER.with(glue::begin))
                }

                fn on_request(
                    &self,
                    method: glue::Method,
                    path: String,
                    authority: String,
                    headers: Vec<u8>,
                ) -> glue::HeadVerdict {
                    glue::on_request(&self.0, method, path, authority, headers)
                }

                fn on_request_body(&self, data: Vec<u8>, end: bool) -> glue::BodyVerdict {
                    glue::on_body(&self.0, true, &data, end)
                }

                fn on_request_trailers(&self, trailers: Vec<u8>) -> glue::TrailersVerdict {
                    glue::on_trailers(&self.0, true, trailers)
                }

                fn on_response(&self, status: u16, headers: Vec<u8>) -> glue::HeadVerdict {
                    glue::on_response(&self.0, status, headers)
                }

                fn on_response_body(&self, data: Vec<u8>, end: bool) -> glue::BodyVerdict {
                    glue::on_body(&self.0, false, &data, end)
                }

                fn on_response_trailers(&self, trailers: Vec<u8>) -> glue::TrailersVerdict {
                    glue::on_trailers(&self.0, false, trailers)
                }
            }

            $crate::bindings::exchange_world::export!(
                Export with_types_in $crate::bindings::exchange_world
            );
        };
    };
}

/// What [`exchange_filter!`](crate::exchange_filter) expands to calls of.
#[doc(hidden)]
pub mod glue {
    use std::borrow::Cow;
    pub use std::cell::RefCell as Cell;

    pub use super::wit::{
        BodyVerdict, Guest, GuestExchange, HeadVerdict, Method, Needs, TrailersVerdict,
    };
    use super::{Body, ExchangeFilter, Headers, HttpExchange, Request, Response};

    /// Where the one filter of an instance lives once it is configured.
    pub type Slot<F> = Cell<Option<F>>;

    /// `configure` of the contract.
    ///
    /// # Errors
    ///
    /// The filter's own.
    pub fn configure<F: ExchangeFilter>(slot: &Slot<F>, config: &str) -> Result<Needs, String> {
        let (filter, needs) = F::configure(config)?;
        slot.replace(Some(filter));
        Ok(Needs {
            request_headers: needs.request_headers,
            response_headers: needs.response_headers,
            responses: needs.responses,
        })
    }

    /// The constructor of `exchange`.
    pub fn begin<F: ExchangeFilter>(slot: &Slot<F>) -> Cell<F::Exchange> {
        match slot.borrow().as_ref() {
            Some(filter) => Cell::new(filter.begin()),
            // The host configures before it begins; a host that does not gets a trap.
            None => panic!("begun before configured"),
        }
    }

    /// `exchange.on-request` of the contract.
    pub fn on_request<E: HttpExchange>(
        exchange: &Cell<E>,
        method: Method,
        path: String,
        authority: String,
        headers: Vec<u8>,
    ) -> HeadVerdict {
        let method = match method {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Connect => "CONNECT",
            Method::Options => "OPTIONS",
            Method::Trace => "TRACE",
            Method::Patch => "PATCH",
            Method::Other(name) => {
                return ask_request(exchange, Cow::Owned(name), path, authority, headers);
            }
        };
        ask_request(exchange, Cow::Borrowed(method), path, authority, headers)
    }

    fn ask_request<E: HttpExchange>(
        exchange: &Cell<E>,
        method: Cow<'static, str>,
        path: String,
        authority: String,
        headers: Vec<u8>,
    ) -> HeadVerdict {
        let request = Request {
            method,
            path,
            authority,
            headers: Headers::from_packed(headers),
        };
        exchange.borrow_mut().on_request(&request).into()
    }

    /// `exchange.on-response` of the contract.
    pub fn on_response<E: HttpExchange>(
        exchange: &Cell<E>,
        status: u16,
        headers: Vec<u8>,
    ) -> HeadVerdict {
        let response = Response {
            status,
            headers: Headers::from_packed(headers),
        };
        exchange.borrow_mut().on_response(&response).into()
    }

    /// `exchange.on-request-body` and `exchange.on-response-body` of the contract.
    pub fn on_body<E: HttpExchange>(
        exchange: &Cell<E>,
        of_request: bool,
        bytes: &[u8],
        end: bool,
    ) -> BodyVerdict {
        let (mut exchange, body) = (exchange.borrow_mut(), Body { bytes, end });
        match of_request {
            true => exchange.on_request_body(body).into(),
            false => exchange.on_response_body(body).into(),
        }
    }

    /// `exchange.on-request-trailers` and `exchange.on-response-trailers` of the contract.
    pub fn on_trailers<E: HttpExchange>(
        exchange: &Cell<E>,
        of_request: bool,
        trailers: Vec<u8>,
    ) -> TrailersVerdict {
        let trailers = Headers::from_packed(trailers);
        let mut exchange = exchange.borrow_mut();
        match of_request {
            true => exchange.on_request_trailers(&trailers).into(),
            false => exchange.on_response_trailers(&trailers).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoSecrets;
    struct Exchange(usize);

    impl ExchangeFilter for NoSecrets {
        type Exchange = Exchange;

        fn configure(_: &str) -> Result<(Self, ExchangeNeeds), String> {
            let needs = ExchangeNeeds::headers(["B", "b"]).and_responses(["Content-Type"]);
            Ok((Self, needs))
        }

        fn begin(&self) -> Exchange {
            Exchange(0)
        }
    }

    impl HttpExchange for Exchange {
        fn on_request(&mut self, request: &Request) -> Verdict {
            match &*request.method {
                "POST" => Verdict::pass().and_see(See::Whole(10)).by_rule(1),
                _ => Verdict::reply(LocalReply::new(302, "").with_header("Location", "/"))
                    .and_see(See::Window(1)),
            }
        }

        fn on_request_body(&mut self, body: Body<'_>) -> BodyVerdict {
            self.0 += body.bytes.len();
            match body.bytes {
                b"secret" => {
                    BodyVerdict::replace_first(6, b"***".to_vec()).and_set_header("X", "1")
                }
                _ => BodyVerdict::hold(),
            }
        }
    }

    #[test]
    fn the_glue_speaks_the_contract() {
        let slot = glue::Slot::<NoSecrets>::new(None);
        let needs = glue::configure(&slot, "{}").unwrap();
        assert_eq!(needs.request_headers, ["b"]);
        assert_eq!(
            (needs.response_headers, needs.responses),
            (vec!["content-type".into()], true)
        );
        let exchange = glue::begin(&slot);
        let ask = |method| {
            let (path, authority) = ("/".into(), "h".into());
            glue::on_request(&exchange, method, path, authority, Vec::new())
        };
        match ask(wit::Method::Post) {
            wit::HeadVerdict::Pass(pass) => {
                assert!(matches!(pass.body, wit::Body::Whole(whole) if whole.most == 10));
                assert_eq!(pass.rule, Some(1));
            }
            other => panic!("{other:?}"),
        }
        match ask(wit::Method::Other("PURGE".into())) {
            wit::HeadVerdict::Reply(reply) => {
                assert_eq!(reply.headers, [("location".to_owned(), "/".to_owned())]);
            }
            other => panic!("{other:?}"),
        }
        match glue::on_body(&exchange, true, b"secret", true) {
            wit::BodyVerdict::Take(piece) => {
                assert_eq!(
                    (piece.take, piece.instead.as_deref()),
                    (6, Some(&b"***"[..]))
                );
                assert_eq!(piece.edit.set, [("x".to_owned(), "1".to_owned())]);
            }
            other => panic!("{other:?}"),
        }
        let passes = glue::on_body(&exchange, false, b"x", false);
        assert!(matches!(passes, wit::BodyVerdict::Pass));
        assert_eq!(exchange.borrow().0, 6, "each way for itself");
    }
}
