//! Certificates and keys: what files hold, and what TLS is spoken with them.
//!
//! Reading order: [`pem`] makes of text what can be used, or says why not; [`ends`] is how
//! TLS of a client is ended and TLS towards a server begun. No IO, and no key is ever shown:
//! nothing in this room prints one.

pub mod ends;
pub mod pem;
#[cfg(test)]
mod tests;

pub use self::{
    ends::{Originator, Protocol, Terminator},
    pem::{Authorities, Identity, Unusable},
};
