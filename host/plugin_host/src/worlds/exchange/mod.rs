//! The world `http-exchange-filter`: a session per request and its response, each in an
//! instance that serves one client alone.

mod verdict;

use std::{cell::RefCell, rc::Rc, sync::Arc};

use tidegate_wire::http::{Header, HttpHead, ResponseHead};
use wasmtime::{Store, component::ResourceAny};

use self::bindings::{
    HttpExchangeFilter, HttpExchangeFilterPre, exports::tidegate::filter::http_exchange as wit,
};
pub use self::verdict::{BodyVerdict, BodyWish, HeadVerdict, LocalReply, TrailersVerdict};
use super::{Configured, http::Wanted, proxy_wasm};
use crate::{
    catalog::Binding,
    failure::Failure,
    host_calls::Facts,
    hosted::{Hosted, Session},
    instance::{Instance, State},
    worker::Worker,
};

#[allow(missing_docs, unreachable_pub)]
pub(in crate::worlds) mod bindings {
    //! Generated.
    wasmtime::component::bindgen!({
        path: "../../wit/filter@0.3.0",
        world: "http-exchange-filter",
    });
}

/// What a plugin said it needs to see.
#[derive(Clone, Debug)]
pub(crate) struct Needs {
    pub(super) responses: bool,
}

/// A configured instance.
pub(crate) struct Exports {
    filter: HttpExchangeFilter,
    /// Of requests, and of responses.
    wanted: [Wanted; 2],
    /// Fields in the form plugins get them, made anew for each message.
    packed: Vec<u8>,
}

/// Instantiates and configures.
pub(super) fn configure(
    pre: &HttpExchangeFilterPre<State>,
    store: &mut Store<State>,
    config: &str,
) -> Configured {
    let filter = pre.instantiate(&mut *store)?;
    let answer = filter
        .tidegate_filter_http_exchange()
        .call_configure(store, config)?;
    Ok(answer.and_then(|needs| {
        let exports = Exports {
            filter,
            wanted: [
                Wanted::new(&needs.request_headers)?,
                Wanted::new(&needs.response_headers)?,
            ],
            packed: Vec::new(),
        };
        let needs = Needs {
            responses: needs.responses,
        };
        Ok((
            super::Exports::Exchange(exports),
            super::Needs::Exchange(needs),
        ))
    }))
}

/// Which of the two messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The client's.
    Request,
    /// The server's.
    Response,
}

/// One exchange's part of a plugin.
pub struct HttpExchange {
    hosted: Rc<RefCell<Hosted>>,
    session: Session,
    binding: Arc<Binding>,
    facts: Arc<Facts>,
}

impl Drop for HttpExchange {
    /// Tells the plugin that the exchange is over.
    fn drop(&mut self) {
        self.hosted.borrow_mut().leave(self.session, &self.facts);
    }
}

impl Binding {
    /// Does the plugin take part in exchanges, beyond judging heads?
    pub fn has_exchanges(&self) -> bool {
        let needs = self.configured.as_ref().map(|configured| &configured.needs);
        matches!(
            needs,
            Ok(super::Needs::Exchange(_) | super::Needs::ProxyWasm(_))
        )
    }
}

/// A call of the guest's, with its session.
type Called<'c, R> =
    &'c mut dyn FnMut(&mut Exports, &mut Store<State>, ResourceAny) -> wasmtime::Result<R>;

impl Worker {
    /// Begins an exchange.
    ///
    /// # Errors
    ///
    /// Why there is none; the binding's fail mode is the caller's to apply.
    pub fn exchange_open(
        &mut self,
        binding: &Arc<Binding>,
        facts: &Arc<Facts>,
    ) -> Result<HttpExchange, Failure> {
        let configured = binding.configured.as_ref().map_err(Clone::clone)?;
        let hosted = match configured.needs {
            super::Needs::ProxyWasm(_) => self.hosted_for_all(configured)?,
            _ => self.hosted_for_long(configured, facts.source.ip().to_canonical())?,
        };
        let session = self.call_in(&hosted, binding, facts, Instance::exchange_open)?;
        hosted.borrow_mut().enter();
        Ok(HttpExchange {
            hosted,
            session,
            binding: binding.clone(),
            facts: facts.clone(),
        })
    }

    /// Shows the head of the request.
    ///
    /// # Errors
    ///
    /// As [`Self::exchange_open`]; the exchange is lost to the plugin then. So for all that
    /// follow.
    pub fn exchange_request(
        &mut self,
        exchange: &HttpExchange,
        head: &HttpHead<'_>,
    ) -> Result<HeadVerdict, Failure> {
        let most = exchange.most();
        if let Session::Context(id) = exchange.session {
            return self.of_module(exchange, true, |exports, store| {
                proxy_wasm::request(exports, store, id, head, most)
            });
        }
        let call: Called<'_, _> = &mut |exports, store, session| {
            exports.wanted[0].pack(head.headers, &mut exports.packed);
            let guest = exports.filter.tidegate_filter_http_exchange().exchange();
            let method = verdict::method(head.method);
            let (path, authority) = (head.path, head.authority);
            guest.call_on_request(store, session, &method, path, authority, &exports.packed)
        };
        self.exchange(exchange, true, call, |said| verdict::of_head(said, most))
    }

    /// Shows the head of the final response.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn exchange_response(
        &mut self,
        exchange: &HttpExchange,
        head: &ResponseHead<'_>,
    ) -> Result<HeadVerdict, Failure> {
        let most = exchange.most();
        if let Session::Context(id) = exchange.session {
            return self.of_module(exchange, true, |exports, store| {
                proxy_wasm::response(exports, store, id, head, most)
            });
        }
        let call: Called<'_, _> = &mut |exports, store, session| {
            exports.wanted[1].pack(head.headers, &mut exports.packed);
            let guest = exports.filter.tidegate_filter_http_exchange().exchange();
            guest.call_on_response(store, session, head.status, &exports.packed)
        };
        self.exchange(exchange, true, call, |said| verdict::of_head(said, most))
    }

    /// May a body be shown now? A binding that has used up its share of the thread holds up
    /// its own bodies until it has some again.
    pub fn exchange_is_ready(&mut self, exchange: &HttpExchange) -> bool {
        let hosted = exchange.hosted.borrow();
        self.has_share(hosted.of())
    }

    /// Shows bytes of a body; `end` with the last ones. Whoever does so waits for
    /// [`Self::exchange_is_ready`] now and then.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn exchange_body(
        &mut self,
        exchange: &HttpExchange,
        way: Way,
        data: &[u8],
        end: bool,
    ) -> Result<BodyVerdict, Failure> {
        if let Session::Context(id) = exchange.session {
            return self.of_module(exchange, false, |exports, store| {
                proxy_wasm::body(exports, store, (id, way), data, end)
            });
        }
        let call: Called<'_, _> = &mut |exports, store, session| {
            let guest = exports.filter.tidegate_filter_http_exchange().exchange();
            match way {
                Way::Request => guest.call_on_request_body(store, session, data, end),
                Way::Response => guest.call_on_response_body(store, session, data, end),
            }
        };
        self.exchange(exchange, false, call, |said| {
            verdict::of_body(said, data.len())
        })
    }

    /// Shows trailers.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn exchange_trailers(
        &mut self,
        exchange: &HttpExchange,
        way: Way,
        trailers: &[Header<'_>],
    ) -> Result<TrailersVerdict, Failure> {
        if let Session::Context(id) = exchange.session {
            return self.of_module(exchange, false, |exports, store| {
                proxy_wasm::trailers(exports, store, (id, way), trailers)
            });
        }
        let call: Called<'_, _> = &mut |exports, store, session| {
            Wanted::All.pack(trailers, &mut exports.packed);
            let guest = exports.filter.tidegate_filter_http_exchange().exchange();
            match way {
                Way::Request => guest.call_on_request_trailers(store, session, &exports.packed),
                Way::Response => guest.call_on_response_trailers(store, session, &exports.packed),
            }
        };
        self.exchange(exchange, false, call, verdict::of_trailers)
    }

    /// Calls, and looks at what was said: nonsense is a failure of the call.
    fn exchange<R, V>(
        &mut self,
        exchange: &HttpExchange,
        shares: bool,
        call: Called<'_, R>,
        check: impl FnOnce(R) -> Result<V, Failure>,
    ) -> Result<V, Failure> {
        let HttpExchange {
            hosted,
            session,
            binding,
            facts,
        } = exchange;
        self.call_in_turn(hosted, binding, facts, shares, |instance| {
            let said = instance.ask(|exports, store| {
                let (super::Exports::Exchange(exports), Session::Resource(session)) =
                    (exports, *session)
                else {
                    return None;
                };
                Some(call(exports, store, session))
            })?;
            check(said)
        })
    }

    /// The same of a module made for Envoy.
    fn of_module<R>(
        &mut self,
        exchange: &HttpExchange,
        shares: bool,
        call: impl FnOnce(
            &proxy_wasm::Exports,
            &mut Store<State>,
        ) -> wasmtime::Result<Result<R, Failure>>,
    ) -> Result<R, Failure> {
        let HttpExchange {
            hosted,
            binding,
            facts,
            ..
        } = exchange;
        self.call_in_turn(hosted, binding, facts, shares, |instance| {
            instance.ask(|exports, store| match exports {
                super::Exports::ProxyWasm(exports) => Some(call(exports, store)),
                _ => None,
            })?
        })
    }
}

impl HttpExchange {
    /// Most bytes of a body that are held for it.
    fn most(&self) -> usize {
        let hosted = self.hosted.borrow();
        let limits = &hosted.of().version.info.limits;
        usize::try_from(limits.stream_buffer_bytes).unwrap_or(usize::MAX)
    }
}

impl Instance {
    fn exchange_open(&mut self) -> Result<Session, Failure> {
        self.ask(|exports, store| match exports {
            super::Exports::Exchange(exports) => {
                let guest: &wit::Guest = exports.filter.tidegate_filter_http_exchange();
                let made = guest.exchange().call_constructor(store);
                Some(made.map(|session| Ok(Session::Resource(session))))
            }
            super::Exports::ProxyWasm(exports) => {
                let opened = proxy_wasm::open(exports, store);
                Some(opened.map(|context| context.map(Session::Context)))
            }
            _ => None,
        })?
    }
}
