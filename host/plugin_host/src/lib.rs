//! The only room that names wasmtime: compiles, instantiates and bounds plugins. It
//! never decides what a failure means for traffic: a trap is a value the caller handles.
//!
//! Three processes use it. The agent admits files ([`store`]) and has them compiled in
//! a process of their own ([`compile`]); the proxy builds a [`catalog`] per generation
//! and calls plugins through one [`worker`] per thread.
//!
//! In reading order: [`engine`] (settings all three share), [`bindings`] (from `wit/`),
//! [`dropped`], [`manifest`], [`compile`], [`store`]; then [`catalog`], [`configured`], [`maker`], [`instance`], [`answer`] (what
//! a plugin may answer), [`budget`], [`share`], [`memory`], [`counters`], [`worker`], and [`host_calls`].

mod answer;
mod bindings;
mod budget;
mod catalog;
pub mod compile;
mod configured;
mod counters;
mod deadline;
mod dropped;
mod engine;
mod host_calls;
mod instance;
mod maker;
mod manifest;
mod memory;
mod message;
mod share;
mod store;
mod worker;

pub use answer::{Denial, DnsDecision, Failure, HttpDecision};
pub use bindings::VERSION as CONTRACT_VERSION;
pub use catalog::{Binding, Catalog, RuleSet};
pub use engine::{Runtime, USUAL_MEMORY};
pub use host_calls::Facts;
pub use store::{Admitted, PluginStore, Refusal, StoreOptions};
pub use worker::Worker;
