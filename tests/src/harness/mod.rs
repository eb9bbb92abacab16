//! A world to test in. Reading order: [`tag`] (names, and how everything is removed
//! again), [`place`] (where a process runs), [`process`], [`world`] (the topology),
//! [`node`] (files, agent, command line), [`server`], [`traffic`] and [`load`] (real
//! peers), [`eventually`].
//!
//! Nothing here touches devices, routes or firewall of the root namespace, nor the
//! root control group: all of it lives in namespaces and groups named after a
//! [`tag::Tag`], which a helper process removes even if the owner is killed.

pub mod eventually;
pub mod load;
pub mod node;
pub mod place;
pub mod process;
pub mod server;
pub mod tag;
pub mod traffic;
pub mod world;

pub use self::{
    eventually::{eventually, within},
    node::Node,
    place::Place,
    process::Running,
    traffic::{Answer, Curl},
    world::{Workload, World},
};
