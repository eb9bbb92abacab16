//! Desired state: one owner, changes enter as events, readers get immutable snapshots.

pub mod view;
