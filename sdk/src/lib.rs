//! What a Tidegate plugin is written with: implement [`HttpFilter`],
//! [`ExchangeFilter`](exchange::ExchangeFilter), [`DnsFilter`] or [`StreamFilter`], name the
//! type in [`http_filter!`], [`exchange_filter!`], [`dns_filter!`] or [`stream_filter!`], build for `wasm32-unknown-unknown`. `README.md` has the whole of it on one page.
//!
//! Everything also builds for the host's own target, so a filter's logic is tested
//! with plain `cargo test`: logging then goes to standard error, counters go nowhere.

#[doc(hidden)]
pub mod bindings;
pub mod connection;
mod dns;
pub mod exchange;
mod headers;
mod host;
mod http;
mod manifest;
mod stream;
mod trial;

#[doc(hidden)]
pub use dns::glue as dns_glue;
pub use dns::{DnsDecision, DnsFilter, Query};
pub use headers::{Headers, pack_header};
pub use host::{Level, count, log, now_ms};
#[doc(hidden)]
pub use http::glue as http_glue;
pub use http::{Decision, HttpFilter, Needs, Request, Response};
#[doc(hidden)]
pub use stream::glue as stream_glue;
pub use stream::{
    Answer, Asked, Data, Direction, Operation, Operations, Reply, StreamFilter, StreamSession,
};
pub use trial::Trial;
