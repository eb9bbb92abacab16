//! The proxy process: moves bytes, asks plugins, never waits for the agent.

pub mod contract;
pub mod http;
