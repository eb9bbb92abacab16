//! How processes begin and end: one agent at a time, gracefully when asked, and its
//! helpers with no more system calls than they need.

pub mod log;
mod signals;
mod single;
pub mod syscalls;

pub use signals::{Signal, Signals};
pub use single::{OnlyAgent, OnlyAgentError};
