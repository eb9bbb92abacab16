//! Objects in an order.

use std::{ops::Deref, sync::Arc};

use crate::{origin::Origin, shared::Map};

/// Objects of one kind, in their order. A copy costs nothing, and what is different between two
/// is found at the price of the difference.
pub type Objects<T> = Map<Place, Listed<T>>;

/// Where an object stands: of two that contradict each other, the later one is at fault.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// What is in force comes before what is new.
    pub rank: u8,
    /// What it comes from.
    pub origin: Option<Origin>,
    /// Which document of that it is.
    pub nth: u32,
}

/// An object. It is the same as another one if it is that one, not if it says the same.
#[derive(Debug)]
pub struct Listed<T>(Arc<T>);

impl<T> Clone for Listed<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> PartialEq for Listed<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> From<&Arc<T>> for Listed<T> {
    fn from(object: &Arc<T>) -> Self {
        Self(object.clone())
    }
}

impl<T> Deref for Listed<T> {
    type Target = Arc<T>;

    fn deref(&self) -> &Arc<T> {
        &self.0
    }
}
