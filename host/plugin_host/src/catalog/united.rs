//! Bindings of rules that no rule set has together: a destination's names each bring theirs,
//! and which names an address has is known when somebody connects to it.

use std::sync::{Arc, PoisonError};

use tidegate_policy::compiled::RuleId;

use super::Binding;
use crate::{
    configured::{Attempt, Purpose},
    failure::Failure,
};

/// Such bindings that one of a rule set is the first of, for each purpose. More are not
/// kept: they are made again.
const MOST: usize = 64;

impl Binding {
    /// What its plugin is configured with by now; `None` if it is with nothing.
    pub fn config(&self) -> Option<&str> {
        let configured = self.configured.as_ref().ok()?;
        Some(&configured.config)
    }

    /// The same plugin in the same version with these rules. `enforced`: by what is not
    /// only rehearsed. What is asked for first is on its way when this returns, and there
    /// when it is asked for again.
    ///
    /// # Errors
    ///
    /// [`Failure::Preparing`] so long; else why there is none.
    pub fn with_rules(
        &self,
        rules: Vec<RuleId>,
        config: &str,
        enforced: bool,
    ) -> Result<Self, Failure> {
        let first = self.configured.as_ref().map_err(Clone::clone)?;
        let purpose = match enforced {
            true => Purpose::Enforced,
            false => Purpose::Rehearsed,
        };
        let attempt = {
            let mut united = first.united.lock().unwrap_or_else(PoisonError::into_inner);
            let united = &mut united[purpose];
            let known = united
                .get(config)
                .filter(|known| !known.may_be_tried_again());
            match known {
                Some(known) => known.clone(),
                None => {
                    if united.len() >= MOST {
                        retire(united.values());
                        united.clear();
                    }
                    let attempt = Attempt::begin(&first.version, config, purpose);
                    united.insert(config.to_owned(), attempt.clone());
                    attempt
                }
            }
        };
        let configured = attempt.outcome().ok_or(Failure::Preparing)?.clone()?;
        Ok(Self {
            plugin: self.plugin.clone(),
            label: configured.shared.label.clone(),
            fail_mode: self.fail_mode,
            rules,
            bound: self.bound,
            configured: Ok(configured),
        })
    }
}

/// Gives back what no thread has taken of them.
pub(crate) fn retire<'a>(all: impl Iterator<Item = &'a Arc<Attempt>>) {
    for configured in all.filter_map(|attempt| attempt.outcome()?.as_ref().ok()) {
        configured.retire();
    }
}
