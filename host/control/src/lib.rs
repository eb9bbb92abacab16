//! Desired state: one owner, changes enter as events, readers get immutable snapshots.
//!
//! Reading order: [`event`] is the only way in; what sources say comes
//! as deltas ([`tidegate_sources`]); [`documents`] and [`plugins`] choose a usable version of
//! everything;
//! [`state`] is the owner: it compiles and publishes one generation at a time into the
//! [`sinks`]; [`store`] keeps what must survive a restart; [`view`] is what readers get.
//! Never talks to kernel or proxy itself, never decides about a packet.

pub mod bindings;
pub mod documents;
pub mod event;
pub mod identities;
mod misplaced;
pub mod plugins;
pub mod problems;
pub mod publication;
mod readers;
mod secrets;
pub mod sinks;
pub mod standing;
pub mod state;
pub mod store;
pub mod view;

#[cfg(test)]
mod tests;
