//! Rule sets with their plugins found, and what each wants of them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tidegate_policy::{
    compiled::{FailMode, L7Id, L7Protocol, L7RuleSet, PluginUse, RuleId, plugin_uses},
    shared::Map,
};

use crate::{
    configured::{Configured, Place, Purpose},
    failure::Failure,
};

/// What the proxy does with a flow: [`L7RuleSet`] with its plugins found.
#[derive(Clone, Debug)]
pub struct RuleSet {
    /// How the stream is read.
    pub protocol: L7Protocol,
    /// Plugins, in order; all must agree.
    pub chain: Vec<Arc<Binding>>,
}

/// A plugin as one rule set uses it.
#[derive(Debug)]
pub struct Binding {
    /// Name of the plugin.
    pub plugin: String,
    /// `name@version` as records show it; the name alone if it is not loaded.
    pub label: String,
    /// What happens when there is no answer.
    pub fail_mode: FailMode,
    /// What the plugin's rule indices refer to.
    pub rules: Vec<RuleId>,
    /// It looks at whatever is allowed, by whichever rule; see [`PluginUse::bound`].
    pub bound: bool,
    pub(crate) configured: Result<Arc<Configured>, Failure>,
}

impl Binding {
    /// The rule behind an index of a decision. One without an index, or beyond the
    /// end, is attributed to the first.
    pub fn rule(&self, index: Option<u32>) -> Option<RuleId> {
        let index = index.and_then(|index| usize::try_from(index).ok());
        index
            .and_then(|index| self.rules.get(index))
            .or_else(|| self.rules.first())
            .copied()
    }
}

/// A binding with a configuration.
pub(super) type Use = (Place, String);

/// What a rule set asks for at this place of its chain.
pub(super) fn use_of(used: &PluginUse) -> Use {
    (
        (used.plugin.clone(), used.rules.clone()),
        used.config.clone(),
    )
}

/// Bindings, and what they are to be configured with, each once. What only documents in
/// shadow ask for is for them alone.
pub(super) fn uses(wanted: &Map<L7Id, Arc<L7RuleSet>>) -> (HashSet<Place>, HashMap<Use, Purpose>) {
    let mut uses: HashMap<Use, Purpose> = HashMap::new();
    for used in plugin_uses(wanted) {
        let purpose = match used.in_shadow {
            true => Purpose::Rehearsed,
            false => Purpose::Enforced,
        };
        let known = uses.entry(use_of(used)).or_insert(purpose);
        *known = purpose.max(*known);
    }
    (uses.keys().map(|used| used.0.clone()).collect(), uses)
}
