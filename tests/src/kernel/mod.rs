//! The real kernel programs, loaded but attached to nothing, run one packet at a time
//! through `BPF_PROG_TEST_RUN`. Needs root; leaves nothing behind.

pub mod object;
