//! How the agent begins and ends: one at a time, and gracefully when asked.

mod signals;
mod single;

pub use signals::{Signal, Signals};
pub use single::{OnlyAgent, OnlyAgentError};
