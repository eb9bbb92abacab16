//! The contract of filters made for Envoy and Istio (proxy-wasm ABI 0.2.0 and 0.2.1): what a
//! module may ask of its host, and what it is answered. Pure but for [`Outside`]: no runtime of
//! WebAssembly, no IO, no clock. Never a panic, whatever a guest says: every address and length
//! is its own claim.
//!
//! <https://github.com/proxy-wasm/spec/tree/main/abi-versions/v0.2.1>, and where that is silent,
//! what Envoy does.
//!
//! In reading order: [`abi`] (names, numbers, the functions there are), [`Fields`] (header maps
//! and how they are written), [`memory`], [`Attributes`] (what properties say), [`Common`] (what
//! the instances of one binding share), [`Exchange`] (one request and its response), [`Vm`] (the
//! host's side of one instance), and [`calls`] and [`wasi`], a function each.

pub mod abi;
mod attributes;
mod calls;
mod common;
mod exchange;
mod fields;
mod memory;
#[cfg(test)]
mod tests;
mod vm;
mod wasi;

pub use self::{
    attributes::{Attributes, Connection},
    calls::Answer,
    common::{Change, Common, MetricKind},
    exchange::{Exchange, LocalReply, Open, Side},
    fields::{Fields, Unreadable},
    vm::{Configuration, Level, Outside, ROOT, Vm},
};
