//! The lab: a small world of network namespaces, control groups, real servers and
//! real clients around the real `tidegate` binary. Used by the integration tests,
//! the demo and the benches. Beside it, the kernel programs run alone on made-up
//! packets.

pub mod bench;
pub mod harness;
pub mod kernel;
