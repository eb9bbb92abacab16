//! The world `http-filter`: one question per request head, and one per response head if
//! the plugin wants to see those.

mod answer;
mod head;

use std::sync::Arc;

use tidegate_wire::http::{HttpHead, ResponseHead};
use wasmtime::Store;

pub use self::answer::{Denial, HttpDecision};
pub(super) use self::{answer::checked, head::Wanted};
use self::{
    bindings::{HttpFilter, HttpFilterPre},
    head::method,
};
use super::Configured;
use crate::{
    catalog::Binding,
    failure::Failure,
    host_calls::Facts,
    instance::{Instance, State},
    worker::Worker,
};

#[allow(missing_docs, unreachable_pub)]
pub(in crate::worlds) mod bindings {
    //! Generated.
    wasmtime::component::bindgen!({
        path: "../../wit/filter@0.1.0",
        world: "http-filter",
    });
}

/// What a plugin said it needs to see.
#[derive(Clone, Debug)]
pub(crate) struct Needs {
    headers: Wanted,
    responses: bool,
}

/// A configured instance.
pub(crate) struct Exports {
    filter: HttpFilter,
    headers: Wanted,
    /// Headers in the form plugins get them, made anew for each message.
    packed: Vec<u8>,
}

/// Instantiates and configures.
pub(super) fn configure(
    pre: &HttpFilterPre<State>,
    store: &mut Store<State>,
    config: &str,
) -> Configured {
    let filter = pre.instantiate(&mut *store)?;
    let answer = filter
        .tidegate_filter_http()
        .call_configure(store, config)?;
    Ok(answer.and_then(|needs| {
        let needs = Needs {
            headers: Wanted::new(&needs.headers)?,
            responses: needs.responses,
        };
        let exports = Exports {
            filter,
            headers: needs.headers.clone(),
            packed: Vec::new(),
        };
        Ok((super::Exports::Http(exports), super::Needs::Http(needs)))
    }))
}

impl Binding {
    /// Does the plugin want to see responses too?
    pub fn sees_responses(&self) -> bool {
        match self.configured.as_ref().map(|configured| &configured.needs) {
            Ok(super::Needs::Http(needs)) => needs.responses,
            Ok(super::Needs::Exchange(needs)) => needs.responses,
            Ok(super::Needs::ProxyWasm(needs)) => needs.responses,
            _ => false,
        }
    }
}

impl Worker {
    /// Asks about a request head.
    ///
    /// # Errors
    ///
    /// Why there is no answer; the binding's fail mode is the caller's to apply.
    pub fn http_request(
        &mut self,
        binding: &Binding,
        head: &HttpHead<'_>,
        facts: &Arc<Facts>,
    ) -> Result<HttpDecision, Failure> {
        self.call(binding, facts, |instance| instance.http_request(head))
    }

    /// Asks about a final response head.
    ///
    /// # Errors
    ///
    /// As [`Self::http_request`].
    pub fn http_response(
        &mut self,
        binding: &Binding,
        head: &ResponseHead<'_>,
        facts: &Arc<Facts>,
    ) -> Result<HttpDecision, Failure> {
        self.call(binding, facts, |instance| instance.http_response(head))
    }
}

impl Instance {
    fn http_request(&mut self, head: &HttpHead<'_>) -> Result<HttpDecision, Failure> {
        let answer = self.ask(|exports, store| {
            let super::Exports::Http(exports) = exports else {
                return None;
            };
            exports.headers.pack(head.headers, &mut exports.packed);
            let http = exports.filter.tidegate_filter_http();
            Some(http.call_on_request(
                store,
                &method(head.method),
                head.path,
                head.authority,
                &exports.packed,
            ))
        })?;
        answer::decision(answer)
    }

    fn http_response(&mut self, head: &ResponseHead<'_>) -> Result<HttpDecision, Failure> {
        let answer = self.ask(|exports, store| {
            let super::Exports::Http(exports) = exports else {
                return None;
            };
            exports.headers.pack(head.headers, &mut exports.packed);
            let http = exports.filter.tidegate_filter_http();
            Some(http.call_on_response(store, head.status, &exports.packed))
        })?;
        answer::decision(answer)
    }
}
