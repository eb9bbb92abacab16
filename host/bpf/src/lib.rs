//! `bpf(2)` by descriptor: maps typed by the layouts both sides share, links, programs and
//! pins, for agent, proxy, tests and benches alike. What the loader library has no wrapper
//! for: links of every kind are made and replaced the same way, tables are read in batches,
//! and a process without the power to find a table uses one it was handed.
//!
//! Structures are those of `union bpf_attr` in `linux/bpf.h`; numbers come from bindings
//! generated from it.

mod call;
pub mod link;
pub mod map;
pub mod pin;
pub mod program;
pub mod testing;

/// Data that may be handed to and taken from the kernel as it lies in memory.
pub use aya::Pod;
