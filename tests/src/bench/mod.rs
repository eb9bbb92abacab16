//! Measurements behind `cargo xtask bench`, each a ratio taken interleaved.

mod empty;
pub mod kernel;
