//! HTTP filters: the trait, the messages, and the glue behind [`http_filter!`](crate::http_filter).

use std::borrow::Cow;

use crate::{bindings::http_world::exports::tidegate::filter::http as wit, headers::Headers};

/// A filter over HTTP requests and, if it asks for them, responses. One value is made
/// per binding and worker thread, and sees many messages.
pub trait HttpFilter: Sized + 'static {
    /// Makes a filter from the binding's configuration (JSON text, as written in the
    /// policy or plugin binding), and says what it needs to see.
    ///
    /// # Errors
    ///
    /// A sentence for the operator; the version before stays in use.
    fn configure(config: &str) -> Result<(Self, Needs), String>;

    /// Decides a request head.
    fn on_request(&mut self, request: &Request) -> Decision;

    /// Decides a final response head; called only if [`Needs::responses`] was set.
    fn on_response(&mut self, response: &Response) -> Decision {
        let _ = response;
        Decision::allow()
    }
}

/// Which parts of a message the filter wants to see. Not asking is cheaper.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    headers: Vec<String>,
    responses: bool,
}

impl Needs {
    /// Method, path and authority alone.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// These headers, by name.
    pub fn headers<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Self {
        let mut headers: Vec<_> = names
            .into_iter()
            .map(|name| name.as_ref().to_ascii_lowercase())
            .collect();
        headers.sort();
        headers.dedup();
        Self {
            headers,
            responses: false,
        }
    }

    /// Every header. Costs about 1 µs more per message than asking for a few.
    pub fn all_headers() -> Self {
        Self::headers(["*"])
    }

    /// Response heads too.
    pub fn and_responses(mut self) -> Self {
        self.responses = true;
        self
    }
}

/// A request head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Method, case-sensitive. The usual ones cost no allocation.
    pub method: Cow<'static, str>,
    /// `:path`, with the query.
    pub path: String,
    /// `:authority` or `Host`, with the port if one was sent.
    pub authority: String,
    /// The headers asked for.
    pub headers: Headers,
}

impl Request {
    /// The path without its query.
    pub fn path_only(&self) -> &str {
        self.path
            .split_once('?')
            .map_or(&self.path, |(path, _)| path)
    }
}

/// A response head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status.
    pub status: u16,
    /// The headers asked for.
    pub headers: Headers,
}

/// What a filter decides about a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    answer: Answer,
    rule: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Allow,
    Deny {
        status: u16,
        body: String,
    },
    Edit {
        set: Vec<(String, String)>,
        remove: Vec<String>,
    },
}

impl Decision {
    /// Pass the message unchanged.
    pub fn allow() -> Self {
        Answer::Allow.into()
    }

    /// Refuse with a status (400–599) and a text; an empty text means the host's own.
    pub fn deny(status: u16, body: impl Into<String>) -> Self {
        let body = body.into();
        Answer::Deny { status, body }.into()
    }

    /// Pass with a header set to this value, replacing what was there.
    pub fn set_header(name: impl AsRef<str>, value: impl Into<String>) -> Self {
        Self::allow().and_set_header(name, value)
    }

    /// Pass without a header.
    pub fn remove_header(name: impl AsRef<str>) -> Self {
        Self::allow().and_remove_header(name)
    }

    /// Another header set; a denial stays a denial.
    pub fn and_set_header(mut self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        if let Some((set, _)) = self.edits() {
            set.push((name.as_ref().to_ascii_lowercase(), value.into()));
        }
        self
    }

    /// Another header removed; a denial stays a denial.
    pub fn and_remove_header(mut self, name: impl AsRef<str>) -> Self {
        if let Some((_, remove)) = self.edits() {
            remove.push(name.as_ref().to_ascii_lowercase());
        }
        self
    }

    /// Names the rule that decided, by its index in the binding.
    pub fn by_rule(mut self, index: u32) -> Self {
        self.rule = Some(index);
        self
    }

    /// Does the message pass?
    pub fn is_allowed(&self) -> bool {
        !matches!(self.answer, Answer::Deny { .. })
    }

    /// Index of the rule that decided.
    pub fn rule(&self) -> Option<u32> {
        self.rule
    }

    fn edits(&mut self) -> Option<(&mut Vec<(String, String)>, &mut Vec<String>)> {
        if self.answer == Answer::Allow {
            self.answer = Answer::Edit {
                set: Vec::new(),
                remove: Vec::new(),
            };
        }
        match &mut self.answer {
            Answer::Edit { set, remove } => Some((set, remove)),
            Answer::Allow | Answer::Deny { .. } => None,
        }
    }
}

impl From<Answer> for Decision {
    fn from(answer: Answer) -> Self {
        Self { answer, rule: None }
    }
}

impl From<Decision> for wit::Decision {
    fn from(Decision { answer, rule }: Decision) -> Self {
        match answer {
            Answer::Allow => Self::Allow(rule),
            Answer::Deny { status, body } => Self::Deny(wit::Denial { status, body, rule }),
            Answer::Edit { set, remove } => Self::Edit(wit::Edit { rule, set, remove }),
        }
    }
}

/// Makes a plugin of a type that implements [`HttpFilter`], with a
/// manifest:
///
/// ```
/// # use tidegate_sdk::{Decision, HttpFilter, Needs, Request};
/// # struct BotFilter;
/// # impl HttpFilter for BotFilter {
/// #     fn configure(_: &str) -> Result<(Self, Needs), String> {
/// #         Ok((Self, Needs::headers(["user-agent"])))
/// #     }
/// #     fn on_request(&mut self, _: &Request) -> Decision {
/// #         Decision::allow()
/// #     }
/// # }
/// tidegate_sdk::http_filter!(BotFilter, {
///     "name": "bot-filter",
///     "version": "1.0.0",
///     "capabilities": ["log", "metrics"]
/// });
/// # fn main() {}
/// ```
///
/// The braces hold JSON. `name`, `version` and `capabilities` are what most plugins
/// say; `limits` (`memoryBytes`, `callMs`, `configureMs`) asks for other limits than
/// the defaults, `configSchema` documents the configuration.
#[macro_export]
macro_rules! http_filter {
    ($filter:ty, $manifest:tt) => {
        // Natively nobody calls the filter but its tests; it is in use all the same.
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn(&str) -> Result<($filter, $crate::Needs), String> =
            <$filter as $crate::HttpFilter>::configure;

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::http_glue as glue;

            $crate::embed_manifest!($manifest);

            struct Export;

            ::std::thread_local! {
                static FILTER: glue::Slot<$filter> = const { glue::Slot::new(None) };
            }

            impl glue::Guest for Export {
                fn configure(config: String) -> Result<glue::Needs, String> {
                    FILTER.with(|slot| glue::configure(slot, &config))
                }

                fn on_request(
                    method: glue::Method,
                    path: String,
                    authority: String,
                    headers: Vec<u8>,
                ) -> glue::Decision {
                    FILTER.with(|slot| glue::on_request(slot, method, path, authority, headers))
                }

                fn on_response(status: u16, headers: Vec<u8>) -> glue::Decision {
                    FILTER.with(|slot| glue::on_response(slot, status, headers))
                }
            }

            $crate::bindings::http_world::export!(
                Export with_types_in $crate::bindings::http_world
            );
        };
    };
}

/// What [`http_filter!`](crate::http_filter) expands to calls of.
pub mod glue {
    use std::{borrow::Cow, cell::RefCell};

    pub use super::wit::{Decision, Guest, Method, Needs};
    use super::{Headers, HttpFilter, Request, Response};

    /// Where the one filter of an instance lives once it is configured.
    pub type Slot<F> = RefCell<Option<F>>;

    /// `configure` of the contract.
    ///
    /// # Errors
    ///
    /// The filter's own.
    pub fn configure<F: HttpFilter>(slot: &Slot<F>, config: &str) -> Result<Needs, String> {
        let (filter, needs) = F::configure(config)?;
        slot.replace(Some(filter));
        Ok(Needs {
            headers: needs.headers,
            responses: needs.responses,
        })
    }

    /// `on-request` of the contract.
    pub fn on_request<F: HttpFilter>(
        slot: &Slot<F>,
        method: Method,
        path: String,
        authority: String,
        headers: Vec<u8>,
    ) -> Decision {
        let request = Request {
            method: name_of(method),
            path,
            authority,
            headers: Headers::from_packed(headers),
        };
        with_filter(slot, |filter| filter.on_request(&request))
    }

    /// `on-response` of the contract.
    pub fn on_response<F: HttpFilter>(slot: &Slot<F>, status: u16, headers: Vec<u8>) -> Decision {
        let response = Response {
            status,
            headers: Headers::from_packed(headers),
        };
        with_filter(slot, |filter| filter.on_response(&response))
    }

    fn with_filter<F: HttpFilter>(
        slot: &Slot<F>,
        decide: impl FnOnce(&mut F) -> super::Decision,
    ) -> Decision {
        match slot.borrow_mut().as_mut() {
            Some(filter) => decide(filter).into(),
            // The host configures before it asks; a host that does not gets a trap.
            None => panic!("asked before configured"),
        }
    }

    fn name_of(method: Method) -> Cow<'static, str> {
        Cow::Borrowed(match method {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Connect => "CONNECT",
            Method::Options => "OPTIONS",
            Method::Trace => "TRACE",
            Method::Patch => "PATCH",
            Method::Other(name) => return Cow::Owned(name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct OnlyGet;

    impl HttpFilter for OnlyGet {
        fn configure(config: &str) -> Result<(Self, Needs), String> {
            match config {
                "{}" => Ok((Self, Needs::headers(["B", "a", "b"]).and_responses())),
                other => Err(format!("cannot read {other}")),
            }
        }

        fn on_request(&mut self, request: &Request) -> Decision {
            match &*request.method {
                "GET" => Decision::set_header("X-Seen", "1").by_rule(2),
                _ => Decision::deny(405, "no").and_set_header("x", "y"),
            }
        }
    }

    #[test]
    fn the_glue_speaks_the_contract() {
        let slot = glue::Slot::<OnlyGet>::new(None);
        assert_eq!(glue::configure(&slot, "[]").unwrap_err(), "cannot read []");
        let needs = glue::configure(&slot, "{}").unwrap();
        assert_eq!(needs.headers, ["a", "b"]);
        assert!(needs.responses);
        let ask = |method| glue::on_request(&slot, method, "/".into(), "h".into(), Vec::new());
        match ask(wit::Method::Get) {
            wit::Decision::Edit(edit) => {
                assert_eq!(edit.set, [("x-seen".to_owned(), "1".to_owned())]);
                assert_eq!(edit.rule, Some(2));
            }
            other => panic!("{other:?}"),
        }
        match ask(wit::Method::Other("PURGE".into())) {
            wit::Decision::Deny(denial) => assert_eq!((denial.status, &*denial.body), (405, "no")),
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            glue::on_response(&slot, 200, Vec::new()),
            wit::Decision::Allow(None)
        ));
    }
}
