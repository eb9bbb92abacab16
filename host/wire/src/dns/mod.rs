//! DNS messages (RFC 1035): the question of a query, the refusal that answers it, and
//! what a response teaches. Messages themselves are passed on as they came.

mod answer;
mod query;

pub use answer::{Answer, ends_transfer, read_answer, read_outline, truncated};
pub use query::{Query, QueryError, answer_unread, read_query, type_name, type_number};

/// RCODEs (RFC 1035 §4.1.1, RFC 2136 §2.2), by the names IANA registers them under.
pub mod rcode {
    use std::borrow::Cow;

    /// There is an answer, if an empty one.
    pub const NOERROR: u8 = 0;
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

    /// The name, in capitals as tools print it; `RCODE n` if none is registered for what a
    /// message header can carry.
    pub fn name(code: u8) -> Cow<'static, str> {
        Cow::Borrowed(match code {
            NOERROR => "NOERROR",
            FORMERR => "FORMERR",
            SERVFAIL => "SERVFAIL",
            NXDOMAIN => "NXDOMAIN",
            NOTIMP => "NOTIMP",
            REFUSED => "REFUSED",
            6 => "YXDOMAIN",
            7 => "YXRRSET",
            8 => "NXRRSET",
            9 => "NOTAUTH",
            10 => "NOTZONE",
            11 => "DSOTYPENI",
            other => return Cow::Owned(format!("RCODE {other}")),
        })
    }

    /// What IANA's registry says it means, which is the name Hubble has for it.
    pub fn description(code: u8) -> Cow<'static, str> {
        Cow::Borrowed(match code {
            NOERROR => "No Error",
            FORMERR => "Format Error",
            SERVFAIL => "Server Failure",
            NXDOMAIN => "Non-Existent Domain",
            NOTIMP => "Not Implemented",
            REFUSED => "Query Refused",
            6 => "Name Exists when it should not",
            7 => "RR Set Exists when it should not",
            8 => "RR Set that should exist does not",
            9 => "Server Not Authoritative for zone",
            10 => "Name not contained in zone",
            11 => "DSO-TYPE Not Implemented",
            other => return Cow::Owned(format!("RCODE {other}")),
        })
    }
}
