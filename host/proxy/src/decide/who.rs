//! Who decides about what is said after a connection, or an exchange, has begun.

use tidegate_contract::Failure;
use tidegate_policy::compiled::{FailMode, Generation, RuleId};

use super::{Attribution, Filter, Side};

/// Who decides about requests.
#[derive(Clone, Debug)]
pub struct Who {
    /// `name@version`.
    pub label: String,
    /// What its indices refer to.
    rules: Vec<RuleId>,
    /// It looks at what rules allow; else it knows the rules.
    bound: bool,
    /// The rule that asked for it.
    asked_by: RuleId,
    ingress: bool,
    /// Its refusals are only reported.
    pub audit: bool,
    /// What happens when it cannot decide.
    pub fail_mode: FailMode,
    generation: Generation,
}

impl Who {
    /// A filter as one side has it.
    pub(super) fn new(filter: &dyn Filter, side: &Side<'_>, generation: Generation) -> Self {
        Self {
            label: filter.label().to_owned(),
            rules: filter.rules().to_vec(),
            bound: filter.is_bound(),
            asked_by: side.rule,
            ingress: side.ingress,
            audit: side.audit,
            fail_mode: filter.fail_mode(),
            generation,
        }
    }

    /// The same with these rules.
    pub(super) fn with_rules(self, rules: Vec<RuleId>) -> Self {
        Self { rules, ..self }
    }

    /// For the record of a request.
    pub fn decided(&self, allowed: bool, index: Option<u32>) -> Attribution {
        let index = index.and_then(|index| usize::try_from(index).ok());
        let rule = index.and_then(|index| self.rules.get(index));
        // As for requests of HTTP: a refusal without an index is the first rule's.
        let rule = rule.or(self.rules.first().filter(|_| !allowed));
        Attribution {
            rules: vec![*rule.unwrap_or(&self.asked_by)],
            unmatched: !allowed && !self.bound && index.is_none(),
            plugin: Some(self.label.clone()),
            error: None,
            ingress: self.ingress,
            audited: !allowed && self.audit,
            rehearsed: None,
            generation: self.generation,
            set: None,
        }
    }

    /// For the record of a failure to decide.
    pub fn failed(&self, error: Failure) -> Attribution {
        Attribution {
            unmatched: false,
            audited: false,
            error: Some(error),
            ..self.decided(false, None)
        }
    }
}

#[cfg(test)]
impl Who {
    /// A plugin with two rules, asked by a third.
    pub(crate) fn of(label: &str, fail_mode: FailMode, audit: bool) -> Self {
        Self {
            label: label.to_owned(),
            rules: vec![RuleId(11), RuleId(12)],
            bound: false,
            asked_by: RuleId(13),
            ingress: false,
            audit,
            fail_mode,
            generation: Generation(1),
        }
    }
}
