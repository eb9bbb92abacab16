//! The proxy process: moves bytes, asks plugins, never waits for the agent.
//!
//! In reading order: `process` starts the proxy, `control` listens to the agent, `worker` is
//! one thread per CPU; `flow` knows who talks to whom (and `masquerade` as whom the node lets
//! it) and [`decide`] decides; [`http`] and `dns` move the bytes. The agent's side of it all is
//! a crate of its own, `tidegate-supervisor`.

mod budget;
mod contexts;
mod control;
pub mod decide;
mod dns;
mod flow;
mod heap;
pub mod http;
mod judge;
pub mod leg;
mod masquerade;
mod outward;
mod places;
pub mod plugins;
mod privileges;
mod process;
mod records;
mod state;
mod stream;
mod tables;
#[cfg(test)]
mod testing;
mod tls;
mod turns;
mod upstream;
mod worker;

pub use control::{Artifacts, Loader};
pub use masquerade::Exits;
pub use process::{ProxyArgs, run};
pub use state::Plugins;
