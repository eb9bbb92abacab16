//! The byte path of one client connection that speaks HTTP: reads heads, asks the
//! flow's [`Inspector`], passes the original bytes on. It opens no listener, knows
//! no plugin runtime, and never waits for the agent.

mod inspect;

pub use inspect::{Attribution, Decision, Denial, Inspector, Verdict};
