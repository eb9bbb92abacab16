//! A world to test in. Reading order: [`tag`] (names, and how everything is removed
//! again), [`place`] (where a process runs), [`process`], [`world`] (the topology),
//! [`node`] (files, agent, command line), `compiled` (what it need not compile again),
//! [`server`], [`tls`], [`peer`], [`traffic`] and [`load`] (what it talks to), [`raw`] (packets of any
//! make), [`capture`] (what arrived), [`tunnel`] (another way out), [`flows`] (what the kernel remembers), [`eventually()`].
//!
//! Nothing here touches devices, routes or firewall of the root namespace, nor the
//! root control group: all of it lives in namespaces and groups named after a
//! [`tag::Tag`], which a helper process removes even if the owner is killed.

pub mod capture;
mod compiled;
pub mod envoy;
pub mod eventually;
pub mod flows;
pub mod link;
pub mod load;
pub mod node;
pub mod peer;
pub mod place;
pub mod process;
pub mod raw;
pub mod server;
pub mod tag;
pub mod tls;
pub mod traffic;
pub mod tunnel;
pub mod world;

pub use self::{
    capture::Capture,
    eventually::{eventually, within},
    flows::Flows,
    node::Node,
    peer::Peer,
    place::Place,
    process::Running,
    traffic::{Answer, Curl},
    tunnel::Tunnel,
    world::{Workload, World},
};
