//! Protocol readers without IO: bytes in, meaning out. They never panic on any
//! bytes, never allocate more than their stated limits, and reject what another
//! reader might understand differently (request smuggling).

pub mod dns;
pub mod grpc;
pub mod http;
pub mod http1;
pub mod http2;
pub mod path;
pub mod tls;
