//! The walk over the plugins of both sides, the same for every protocol.

use tidegate_policy::compiled::{FailMode, Generation, L7Id, RuleId};

use super::{Attribution, Failure, Filter, Side, rehearsal::is_same};

/// What a plugin was heard to say: a refusal, if it is one, and the index of the rule.
pub(super) type Answered<R> = Result<(Option<R>, Option<u32>), Failure>;

/// What a plugin says, or its fail mode for it.
enum Answer<R> {
    /// The index of the rule, or why it could not decide (fail mode open).
    Passes(Option<u32>, Option<tidegate_contract::Failure>),
    Refuses(Refusal<R>),
}

struct Refusal<R> {
    with: R,
    rule: Option<u32>,
    /// Why it could not decide (fail mode closed).
    error: Option<tidegate_contract::Failure>,
}

fn answer<R>(
    side: &Side<'_>,
    plugin: &dyn Filter,
    ask: &mut impl FnMut(&Side<'_>, &dyn Filter) -> Answered<R>,
    failed: &impl Fn() -> R,
) -> Answer<R> {
    match ask(side, plugin) {
        Ok((None, rule)) => Answer::Passes(rule, None),
        Ok((Some(with), rule)) => Answer::Refuses(Refusal {
            with,
            rule,
            error: None,
        }),
        // Of load: or a peer could switch the plugin off for itself by sending enough.
        Err(failure) if plugin.fail_mode() == FailMode::Open && !failure.is_of_load() => {
            Answer::Passes(None, Some(failure.told()))
        }
        Err(failure) => Answer::Refuses(Refusal {
            with: failed(),
            rule: None,
            error: Some(failure.told()),
        }),
    }
}

/// A walk over the plugins of both sides, keeping who decided.
pub(super) struct Walk {
    pub(super) attribution: Attribution,
    /// For a response, the rule set of several that allowed the request.
    pub(super) of_request: Option<L7Id>,
    /// A tunnel is asked for: only rule sets that plainly allow it have a say.
    pub(super) connects: bool,
    /// The rules of which sides let it pass, a bit for each.
    passed: u8,
    /// Somebody refused it, or would have (audit mode).
    pub(super) refused: bool,
    /// The first side whose rules did.
    refused_by_rules: Option<usize>,
    /// The first side of which a bound plugin did.
    refused_by_plugin: Option<usize>,
}

impl Walk {
    pub(super) fn new(generation: Generation) -> Self {
        Self {
            attribution: Attribution {
                generation,
                ..Attribution::default()
            },
            of_request: None,
            connects: false,
            passed: 0,
            refused: false,
            refused_by_rules: None,
            refused_by_plugin: None,
        }
    }

    /// The same message once more.
    pub(super) fn again(&self) -> Self {
        Self {
            connects: self.connects,
            ..Self::new(self.attribution.generation)
        }
    }

    /// Did policy refuse it, or would have in audit mode?
    pub(super) fn is_refusal(&self) -> bool {
        self.refused
    }

    /// Did the rules of this side let it pass?
    pub(super) fn passed_rules_of(&self, side: usize) -> bool {
        self.passed & 1 << side != 0
    }

    /// Did the rules of this side refuse it?
    pub(super) fn was_refused_by_rules_of(&self, side: usize) -> bool {
        self.refused_by_rules == Some(side)
    }

    /// Did the rules of this side let it pass, and a plugin bound to it not?
    pub(super) fn was_refused_by_plugin_of(&self, side: usize) -> bool {
        self.refused_by_plugin == Some(side)
    }

    /// Is a tunnel asked for that no rule of the side plainly allows?
    pub(super) fn opens_no_tunnel(&self, side: &Side<'_>) -> bool {
        self.connects && side.chain.is_some() && !side.tunnels()
    }

    /// Asks the plugins of both sides in order until one refuses. `ask` returns a
    /// refusal, if it is one, and the index of the rule; `failed` is the refusal of fail
    /// mode closed.
    pub(super) fn run<R>(
        &mut self,
        sides: &[Side<'_>],
        mut ask: impl FnMut(&Side<'_>, &dyn Filter) -> Answered<R>,
        failed: impl Fn() -> R,
    ) -> Option<R> {
        for (at, side) in sides.iter().enumerate() {
            let before = std::mem::take(&mut self.refused);
            let refused = self.rules(side, &mut ask, &failed);
            if self.refused {
                self.refused_by_rules.get_or_insert(at);
            } else {
                self.passed |= 1 << at;
            }
            self.refused |= before;
            if refused.is_some() {
                return refused;
            }
            for plugin in side.bound() {
                match answer(side, plugin, &mut ask, &failed) {
                    Answer::Passes(rule, error) => self.passed(plugin, rule, error),
                    Answer::Refuses(refusal) => {
                        self.refused_by_plugin.get_or_insert(at);
                        let refused = self.refuse(side, plugin, refusal);
                        if refused.is_some() {
                            return refused;
                        }
                    }
                }
            }
        }
        None
    }

    /// Asks the rules of a side's rule sets until those of one allow. Where all of them
    /// refuse, the first is the one that is told.
    fn rules<R>(
        &mut self,
        side: &Side<'_>,
        ask: &mut impl FnMut(&Side<'_>, &dyn Filter) -> Answered<R>,
        failed: &impl Fn() -> R,
    ) -> Option<R> {
        if side.open && !self.connects {
            return None;
        }
        let mut refused = None;
        // After a change it may not be among them any more: then all of them are asked.
        let of_request = self.of_request.filter(|of| side.has(*of));
        let connects = self.connects;
        let sets = side.sets().filter(|one| {
            of_request.is_none_or(|of| of == one.chain.id) && (!connects || one.tunnels)
        });
        for one in sets {
            // Without rules everything is allowed.
            let plugin = one.chain.rules();
            let again = |(refused, _): &(&dyn Filter, Refusal<R>)| {
                plugin.is_some_and(|plugin| is_same(*refused, plugin))
            };
            if refused.as_ref().is_some_and(again) {
                // The same rules, beside which something else is rehearsed.
                continue;
            }
            let answer = plugin.map(|plugin| (plugin, answer(side, plugin, ask, failed)));
            if !side.or.is_empty() {
                self.attribution.set = Some(one.chain.id);
            }
            match answer {
                None => return None,
                Some((plugin, Answer::Passes(rule, error))) => {
                    self.passed(plugin, rule, error);
                    return None;
                }
                Some((plugin, Answer::Refuses(refusal))) => {
                    refused.get_or_insert((plugin, refusal));
                }
            }
        }
        let (plugin, refusal) = refused?;
        self.refuse(side, plugin, refusal)
    }

    /// Notes a refusal, and gives it back unless it is only reported.
    fn refuse<R>(
        &mut self,
        side: &Side<'_>,
        plugin: &dyn Filter,
        refusal: Refusal<R>,
    ) -> Option<R> {
        self.refused = true;
        if side.audit && refusal.error.is_none() {
            self.audited(side, plugin, refusal.rule);
            return None;
        }
        self.refused(side, plugin, refusal.rule, refusal.error);
        Some(refusal.with)
    }

    /// Who would have refused; the first who would stands in the record.
    fn audited(&mut self, side: &Side<'_>, plugin: &dyn Filter, rule: Option<u32>) {
        if !self.attribution.audited {
            self.refused(side, plugin, rule, None);
            self.attribution.audited = true;
        }
    }

    fn passed(
        &mut self,
        plugin: &dyn Filter,
        rule: Option<u32>,
        error: Option<tidegate_contract::Failure>,
    ) {
        match error {
            None => self.allowed(plugin, rule),
            Some(error) => self.attribution.error = Some(error),
        }
    }

    fn allowed(&mut self, plugin: &dyn Filter, rule: Option<u32>) {
        if self.attribution.audited {
            return;
        }
        self.attribution.rules.extend(rule_id(plugin, rule));
        self.attribution.plugin = Some(plugin.label().to_owned());
    }

    fn refused(
        &mut self,
        side: &Side<'_>,
        plugin: &dyn Filter,
        rule: Option<u32>,
        error: Option<tidegate_contract::Failure>,
    ) {
        // A refusal without an index is the first rule's; one of a plugin without
        // rules is the rule's that asked for L7. Who allowed before does not matter.
        // What asks rules and names none has found none that allows it.
        self.attribution.unmatched = !plugin.is_bound() && rule.is_none() && error.is_none();
        let rule = rule_id(plugin, rule).or(plugin.rules().first().copied());
        self.attribution.rules.clear();
        self.attribution.rules.push(rule.unwrap_or(side.rule));
        self.attribution.plugin = Some(plugin.label().to_owned());
        self.attribution.ingress = side.ingress;
        self.attribution.audited = false;
        self.attribution.error = error.or(self.attribution.error.take());
    }

    /// Who decided. The rules that asked for L7 stand in where no L7 rule was named.
    pub(super) fn finish(&self, sides: &[Side<'_>]) -> Attribution {
        let mut attribution = self.attribution.clone();
        if attribution.rules.is_empty() {
            let asked = sides
                .iter()
                .map(|side| side.rule)
                .filter(|rule| rule.is_some());
            attribution.rules.extend(asked);
        }
        attribution
    }
}

/// The rule a plugin's index means. An index out of range names none.
fn rule_id(plugin: &dyn Filter, index: Option<u32>) -> Option<RuleId> {
    plugin.rules().get(usize::try_from(index?).ok()?).copied()
}
