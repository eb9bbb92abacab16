//! The real kernel programs, loaded but attached to nothing, run one packet at a time
//! through `BPF_PROG_TEST_RUN`; and a plain model of what they must do. Needs root;
//! leaves nothing behind.

pub mod compare;
pub mod deny_list;
pub mod frames;
pub mod link;
pub mod link_frames;
pub mod model;
pub mod object;
pub mod random;
pub mod sockets;
pub mod tagged;
pub mod wire;
pub mod world;
