//! Sources of desired state: who says what is wanted, and what changed of it.
//!
//! Reading order: [`delta`] is what every source comes down to; [`folder`] looks at watched
//! folders, and says what it means that a file is not there; [`secrets`] looks at certificates
//! and keys; [`watch`] and [`burst`] say when to look.
//! Never says what is in force: that is its reader's to know, and to ask for here.

pub mod burst;
pub mod delta;
pub mod folder;
pub mod secrets;
pub mod watch;

pub use self::delta::{Content, Delta, News};
