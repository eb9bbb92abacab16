//! What people see: flow records, metrics, logs. Never blocks traffic: a full
//! buffer drops and counts the drop.

pub mod record;
