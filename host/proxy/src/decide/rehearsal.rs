//! What the documents in shadow would decide about a message that is read anyway, told
//! beside what is decided. Asked after the decision, and nothing of it leads back: neither
//! a refusal nor an edit nor a failure has any effect.
//!
//! Plugins that are enforced have been asked, and are not asked again: what they said holds
//! for both.

use tidegate_contract::Rehearsed;
use tidegate_policy::compiled::RuleId;

use super::{
    Filter, Side,
    walk::{Answered, Walk},
};

/// What is in shadow for one side.
#[derive(Clone, Default)]
pub enum InShadow<'a> {
    /// Nothing, or the same.
    #[default]
    Same,
    /// This rule would refuse whatever is sent.
    Refuses(RuleId),
    /// These rule sets would be asked; none would, if it has none.
    Asks(Side<'a>),
}

/// Goes over the sides as [`Walk::run`] did, this time with what is in shadow. `ask` and
/// `failed` are those of the decision.
pub(super) fn rehearse<R>(
    (sides, shadows): (&[Side<'_>], &[InShadow<'_>]),
    decided: &Walk,
    mut ask: impl FnMut(&dyn Filter) -> Answered<R>,
    failed: impl Fn() -> R,
) -> Option<Rehearsed> {
    if shadows
        .iter()
        .all(|shadow| matches!(shadow, InShadow::Same))
    {
        return None;
    }
    let refused = |rules, unmatched, error| {
        // Who refuses it in shadow, too, is not the question.
        (!decided.is_refusal()).then_some(Rehearsed {
            allowed: false,
            rules,
            unmatched,
            error,
        })
    };
    let mut walk = decided.again();
    for (at, (side, shadow)) in sides.iter().zip(shadows).enumerate() {
        let judged = match shadow {
            InShadow::Refuses(rule) => return refused(vec![*rule], false, None),
            InShadow::Asks(judged) => Some(judged),
            InShadow::Same if decided.was_refused_by_rules_of(at) => return None,
            InShadow::Same if decided.passed_rules_of(at) && !walk.opens_no_tunnel(side) => None,
            InShadow::Same => Some(side),
        };
        if let Some(judged) = judged {
            if walk.opens_no_tunnel(judged) {
                return refused(vec![judged.rule], true, None);
            }
            let judged = Side {
                audit: false,
                ..judged.clone()
            };
            let enforced = side.bound();
            let passed = side.only_rules().filter(|_| decided.passed_rules_of(at));
            let asked = |_: &Side<'_>, plugin: &dyn Filter| {
                let mut known = enforced.iter().copied().chain(passed);
                match known.any(|known| is_same(known, plugin)) {
                    true => Ok((None, None)),
                    false => ask(plugin),
                }
            };
            if walk.run(&[judged], asked, &failed).is_some() {
                let attribution = walk.attribution;
                return refused(attribution.rules, attribution.unmatched, attribution.error);
            }
        }
        if decided.was_refused_by_plugin_of(at) {
            return None;
        }
    }
    decided.is_refusal().then_some(Rehearsed {
        allowed: true,
        rules: walk.attribution.rules,
        unmatched: false,
        error: None,
    })
}

/// One binding's plugin?
pub(super) fn is_same(one: &dyn Filter, other: &dyn Filter) -> bool {
    (one.label(), one.rules(), one.is_bound()) == (other.label(), other.rules(), other.is_bound())
}
