//! DNS messages (RFC 1035): the question of a query, the refusal that answers it, and
//! what a response teaches. Messages themselves are passed on as they came.

mod answer;
mod query;

pub use answer::{Answer, ends_transfer, read_answer, read_outline, truncated};
pub use query::{Query, QueryError, answer_unread, read_query, type_name};

/// RCODEs (RFC 1035 §4.1.1, RFC 2136 §2.2).
pub mod rcode {
    /// The query could not be understood.
    pub const FORMERR: u8 = 1;
    /// The query could not be processed.
    pub const SERVFAIL: u8 = 2;
    /// There is no such name.
    pub const NXDOMAIN: u8 = 3;
    /// This kind of query is not supported.
    pub const NOTIMP: u8 = 4;
    /// Refused for policy reasons.
    pub const REFUSED: u8 = 5;
}
