//! Measurements behind `cargo xtask bench`: each figure beside its baseline, taken
//! interleaved in one run, with the spread of the rounds.

pub mod connect;
mod cpu;
mod empty;
pub mod guests;
pub mod http;
pub mod kernel;
pub mod neighbours;
mod pair;
pub mod row;
pub mod scale;
pub mod swap;
