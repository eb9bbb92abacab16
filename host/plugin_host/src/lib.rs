//! The only room that names wasmtime: compiles, instantiates and bounds plugins. It
//! never decides what a failure means for traffic: a trap is a value the caller handles.
//!
//! Three processes use it. The agent admits files ([`store`]) and has them compiled in
//! a process of their own ([`compile`]); the proxy builds a [`catalog`] per generation
//! and calls plugins through one [`worker`] per thread.
//!
//! In reading order: [`engine`] (settings all three share), [`worlds`] (what is in `wit/`, a
//! room per world: a new one touches little else), [`dropped`], [`manifest`], [`compile`],
//! [`store`]; then [`catalog`], [`configured`], [`maker`], [`instance`], [`failure`],
//! [`budget`], [`share`], [`memory`], [`counters`], [`worker`], [`hosted`], and [`host_calls`].

mod budget;
mod catalog;
pub mod compile;
mod configured;
mod counters;
mod deadline;
mod dropped;
mod engine;
mod failure;
mod host_calls;
mod hosted;
mod instance;
mod maker;
mod manifest;
mod memory;
mod share;
mod store;
mod worker;
mod worlds;

pub use catalog::{Binding, Catalog, RuleSet};
pub use engine::{Runtime, USUAL_MEMORY};
pub use failure::Failure;
pub use host_calls::Facts;
pub use store::{Admitted, PluginStore, Refusal, StoreOptions};
pub use worker::Worker;
pub use worlds::{
    VERSIONS as CONTRACT_VERSIONS,
    dns::DnsDecision,
    exchange::{
        BodyVerdict, BodyWish, HeadVerdict, HttpExchange, LocalReply, TrailersVerdict, Way,
    },
    http::{Denial, HttpDecision},
    stream::{StreamAnswer, StreamDirection, StreamOperation, StreamRequest, StreamSession},
};
