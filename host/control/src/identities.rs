//! Who gives label sets their numbers. Asked before anything is compiled, so that what is compiled
//! follows from documents and numbers alone, and nodes may share numbers.

use std::collections::BTreeSet;

use tidegate_policy::Ids;

/// Gives numbers to label sets.
pub trait Allocator: Send {
    /// Gives each of these label sets, which have none here, a number: by [`Ids::number`] or
    /// [`Ids::assign`]. It stays the set's for as long as somebody uses it, and is nobody
    /// else's while a kernel may know it.
    ///
    /// # Errors
    ///
    /// If that cannot be done now. Then what is in force stays, and it is asked again.
    fn number(&mut self, sets: &BTreeSet<String>, ids: &mut Ids) -> anyhow::Result<()>;
}

/// This node's own numbers, which mean nothing on another one.
#[derive(Debug)]
pub struct Local;

impl Allocator for Local {
    fn number(&mut self, sets: &BTreeSet<String>, ids: &mut Ids) -> anyhow::Result<()> {
        Ok(ids.number(sets)?)
    }
}
