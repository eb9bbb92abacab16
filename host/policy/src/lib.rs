//! Policies, services and endpoints as people write them, and the pure compiler
//! that turns them into the tables kernel, proxy and `explain` read.
//!
//! No IO, no clock, no task, no lock: same inputs, same answer.

pub mod compiled;
