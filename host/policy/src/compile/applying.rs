//! Which policies and bindings apply to which label set.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    clause::{FlatBinding, FlatPolicy},
    tables::Applying,
};
use crate::{origin::ObjectKey, terms::IdentityId};

/// Label sets, with the documents that select them.
#[derive(Debug, Default)]
pub(super) struct Selections {
    policies: HashMap<IdentityId, BTreeSet<Arc<ObjectKey>>>,
    bindings: HashMap<IdentityId, BTreeSet<Arc<ObjectKey>>>,
}

impl Selections {
    /// A policy applies to these label sets now, and did to those before.
    pub(super) fn policy(
        &mut self,
        key: &ObjectKey,
        before: &BTreeSet<IdentityId>,
        now: &BTreeSet<IdentityId>,
    ) {
        replace(&mut self.policies, key, before, now);
    }

    /// The same for a binding.
    pub(super) fn binding(
        &mut self,
        key: &ObjectKey,
        before: &BTreeSet<IdentityId>,
        now: &BTreeSet<IdentityId>,
    ) {
        replace(&mut self.bindings, key, before, now);
    }

    /// What applies to a label set, in the order of the documents' names.
    pub(super) fn to<'s>(
        &self,
        identity: IdentityId,
        policies: &'s BTreeMap<ObjectKey, FlatPolicy>,
        bindings: &'s BTreeMap<ObjectKey, FlatBinding>,
    ) -> Applying<'s> {
        let keys = self.policies.get(&identity).into_iter().flatten();
        let specs = keys
            .filter_map(|key| policies.get(&**key))
            .flat_map(|policy| &policy.specs)
            .filter(|spec| spec.subjects.contains(&identity));
        let keys = self.bindings.get(&identity).into_iter().flatten();
        Applying {
            specs: specs.collect(),
            bindings: keys.filter_map(|key| bindings.get(&**key)).collect(),
        }
    }
}

fn replace(
    selected: &mut HashMap<IdentityId, BTreeSet<Arc<ObjectKey>>>,
    key: &ObjectKey,
    before: &BTreeSet<IdentityId>,
    now: &BTreeSet<IdentityId>,
) {
    for identity in before.difference(now) {
        if let Some(by) = selected.get_mut(identity) {
            by.remove(key);
            if by.is_empty() {
                selected.remove(identity);
            }
        }
    }
    let shared = Arc::new(key.clone());
    for identity in now.difference(before) {
        selected
            .entry(*identity)
            .or_default()
            .insert(shared.clone());
    }
}
