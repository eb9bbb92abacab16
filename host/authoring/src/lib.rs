//! What the author of a filter has: a project that stands alone ([`project`]), the contract
//! it is written against ([`contract`]), its component ([`build()`]), and trials of that
//! component by the code that the proxy asks filters with ([`cases`], [`Subject`]), and
//! signatures ([`signing`]).
//!
//! Nothing here speaks with an agent, and nothing needs root.

mod build;
pub mod cases;
pub mod contract;
mod exchange;
pub mod project;
pub mod recorded;
pub mod signing;
mod subject;

pub use build::{Built, build, component_of};
pub use subject::{Outcome, Stage, Subject};
