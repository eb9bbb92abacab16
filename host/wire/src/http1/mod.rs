//! HTTP/1.0 and HTTP/1.1 (RFC 9112), read strictly: a message that two readers
//! could split or frame differently is refused, because we forward the original
//! bytes and the reader behind us may be the other one.

mod body;
mod chunked;
mod content;
mod encode;
mod error;
mod fields;
mod fuzz;
mod request;
mod response;
mod scan;
mod target;
#[cfg(test)]
mod tests;

pub use body::{Body, Framing};
pub use chunked::{ChunkError, Chunked};
pub use content::Content;
pub use encode::Rewrite;
pub use error::HeadError;
pub use fuzz::{fuzz_http1, fuzz_responses};
pub use request::{Request, Upgrade, with_request};
pub use response::{Asked, Response, with_response};
pub use scan::HeadScan;
pub use target::Target;
pub(crate) use target::valid_authority;

/// Longest head accepted, bytes. A connection's buffer holds one head.
pub const MAX_HEAD: usize = 64 * 1024;

/// Most header fields accepted in one head.
pub const MAX_FIELDS: usize = 128;
