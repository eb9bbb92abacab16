//! tidegate-tests
pub mod kernel;
