//! Pure datapath decisions, compiled for the kernel and for the host alike.
//!
//! Time and table contents come in as arguments, answers go out as values. The
//! kernel programs implement [`Tables`] over maps, the agent over the pinned maps
//! (for `explain`), tests over plain collections.
//!
//! Everything is `#[inline(always)]`: in the kernel a call costs a stack frame of
//! the 512 bytes a program has.
#![no_std]

pub mod flow;
pub mod hint;
pub mod policy;
pub mod rate;
pub mod service;
mod spread;
pub mod steer;
pub mod tuple;

pub use policy::{Age, Evaluation, Tables, evaluate, judge};
pub use tuple::Tuple;

#[cfg(test)]
extern crate std;
#[cfg(test)]
mod tests;
