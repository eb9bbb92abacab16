//! The Tidegate agent and proxy. `ARCHITECTURE.md` has the map and the room rules.

pub mod admin;
pub mod agent;
pub mod cli;
pub mod control;
pub mod datapath;
pub mod lifecycle;
pub mod observe;
pub mod plugin_host;
pub mod proxy;

pub use tidegate_config as config;
