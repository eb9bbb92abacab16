//! Desired state: one owner, changes enter as events, readers get immutable snapshots.
//!
//! Reading order: [`event`] is the only way in; [`folder`] looks at the watched
//! folders ([`watch`] says when), `absence` says what it means that a file is not there; [`documents`] and [`plugins`] choose a usable version of everything;
//! [`state`] is the owner: it compiles and publishes one generation at a time into the
//! [`sinks`]; [`store`] keeps what must survive a restart; [`view`] is what readers get.
//! Never talks to kernel or proxy itself, never decides about a packet.

mod absence;
pub mod bindings;
pub mod documents;
pub mod event;
pub mod folder;
mod misplaced;
pub mod plugins;
pub mod problems;
pub mod publication;
mod readers;
pub mod sinks;
pub mod state;
pub mod store;
pub mod view;
pub mod watch;

#[cfg(test)]
mod tests;
