//! What people see: flow records, who is who, metrics, logs. Never blocks traffic:
//! a full buffer drops and counts the drop.
//!
//! Reading order: [`record`] is the one flow record; [`directory`] knows names;
//! [`assemble`] turns kernel events and proxy records into flow records; [`store`]
//! keeps the latest and feeds followers; [`filter`] selects; [`explain`] answers why.

pub mod assemble;
pub mod calls;
pub mod directory;
pub mod explain;
pub mod filter;
pub mod record;
pub mod similar;
pub mod store;
pub mod testing;
