//! The decision about one message: the source's egress plugins, then the
//! destination's ingress plugins; every one must agree. Pure but for the plugins.
//!
//! Each plugin sees the message as it was received; the edits add up, and where two
//! touch the same header the later one wins.

use std::{borrow::Cow, sync::Arc};

use tidegate_contract::Reject;
use tidegate_policy::compiled::{FailMode, L7Protocol, RuleId};
use tidegate_wire::{
    dns::rcode,
    http::{HeaderEdit, HttpHead, ResponseHead},
};

use super::{
    http::{Attribution, Decision, Denial, Verdict},
    rehearsal::{InShadow, is_same, rehearse},
};

pub use tidegate_plugin_host::Facts;

/// Why a plugin gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// In the words of the record: missing, trap, deadline, memory, invalid answer.
    pub why: String,
    /// Brought about by traffic and ended by time: the message is refused whatever the
    /// fail mode, or a peer could switch the plugin off for itself by sending enough.
    pub of_load: bool,
}

/// One plugin as one rule set uses it, called on one worker thread. What happens without
/// an answer is decided here.
pub trait Filter {
    /// `name@version` for records.
    fn label(&self) -> &str;

    /// What happens when it cannot decide.
    fn fail_mode(&self) -> FailMode;

    /// The rules its answers refer to by index.
    fn rules(&self) -> &[RuleId];

    /// Does it look at whatever is allowed, by whichever rule set?
    fn is_bound(&self) -> bool;

    /// Does it want to see final responses?
    fn sees_responses(&self) -> bool;

    /// Asks about a request.
    ///
    /// # Errors
    ///
    /// If the plugin could not decide.
    fn request(&self, head: &HttpHead<'_>, facts: &Arc<Facts>) -> Result<HttpAnswer, Fault>;

    /// Asks about a final response.
    ///
    /// # Errors
    ///
    /// If the plugin could not decide.
    fn response(&self, head: &ResponseHead<'_>, facts: &Arc<Facts>) -> Result<HttpAnswer, Fault>;

    /// Asks about a DNS query; the name is lower case with a final dot.
    ///
    /// # Errors
    ///
    /// If the plugin could not decide.
    fn query(&self, name: &str, qtype: u16, facts: &Arc<Facts>) -> Result<DnsAnswer, Fault>;
}

/// A rule set with its plugins, for one worker thread.
pub struct Chain {
    /// How the stream is read.
    pub protocol: L7Protocol,
    /// Plugins, in order.
    pub filters: Vec<Box<dyn Filter>>,
}

impl Chain {
    /// The plugin that knows the rules of policies; without one they allow everything.
    fn rules(&self) -> Option<&dyn Filter> {
        let at = self.rules_at()?;
        self.filters.get(at).map(AsRef::as_ref)
    }

    fn rules_at(&self) -> Option<usize> {
        self.filters.iter().position(|filter| !filter.is_bound())
    }

    /// Plugins that look at what the rules allow: all the others.
    fn bound(&self) -> impl Iterator<Item = &dyn Filter> {
        let rules = self.rules_at();
        let filters = self.filters.iter().map(AsRef::as_ref).enumerate();
        filters.filter_map(move |(at, filter)| (Some(at) != rules).then_some(filter))
    }
}

/// A plugin's answer to a request or response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// What to do.
    pub verdict: Verdict,
    /// Index into [`Filter::rules`] of the rule that decided, if one did.
    pub rule: Option<u32>,
}

/// A plugin's answer to a DNS query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsAnswer {
    /// RCODE to answer with; `None` forwards the query.
    pub refuse: Option<u8>,
    /// Index into [`Filter::rules`] of the rule that decided, if one did.
    pub rule: Option<u32>,
}

/// One direction's rule sets.
#[derive(Clone)]
pub struct Side<'a> {
    /// The rule set, if this direction's policy asks for one.
    pub chain: Option<&'a Chain>,
    /// Further ones whose rules may allow what its rules refuse: a destination that names
    /// resolved to has the rules of each of its names, and of the prefixes it lies in.
    pub or: Vec<Alternative<'a>>,
    /// Something allows without asking: no rules are asked, bound plugins still are.
    pub open: bool,
    /// Rule that asked for it, else 0.
    pub rule: RuleId,
    /// False: the source's egress policy; true: the destination's ingress policy.
    pub ingress: bool,
    /// Refusals are only reported (audit mode). Failures to decide are not refusals.
    pub audit: bool,
    /// Some rule of the set plainly allows CONNECT.
    pub tunnels: bool,
}

/// A rule set beside the first.
#[derive(Clone, Copy)]
pub struct Alternative<'a> {
    /// The rule set.
    pub chain: &'a Chain,
    /// Some rule of it plainly allows CONNECT.
    pub tunnels: bool,
}

impl<'a> Side<'a> {
    fn sets(&self) -> impl Iterator<Item = Alternative<'a>> {
        let tunnels = self.tunnels;
        let first = self.chain.map(|chain| Alternative { chain, tunnels });
        first.into_iter().chain(self.or.iter().copied())
    }

    /// The plugin of its rules, if there is one and no other could have allowed instead.
    pub(super) fn only_rules(&self) -> Option<&'a dyn Filter> {
        let alone = self.or.is_empty() && !self.open;
        self.chain.filter(|_| alone)?.rules()
    }

    fn tunnels(&self) -> bool {
        self.sets().any(|set| set.tunnels)
    }

    /// The bound plugins of all rule sets, each once: those of one binding are one plugin
    /// and have its rule.
    pub(super) fn bound(&self) -> Vec<&'a dyn Filter> {
        let mut all: Vec<&dyn Filter> = Vec::new();
        for plugin in self.sets().flat_map(|set| set.chain.bound()) {
            if !all.iter().any(|known| is_same(*known, plugin)) {
                all.push(plugin);
            }
        }
        all
    }
}

/// Status of a request that a plugin failed to decide, fail mode closed: the fault is
/// ours, not the client's.
const FAILED_STATUS: u16 = 503;
const FAILED_BODY: &str = "Policy could not be decided\r\n";

/// Decides a request by both sides, egress first; `shadows` is what is in shadow for each.
pub fn request(
    (sides, shadows): (&[Side<'_>], &[InShadow<'_>]),
    generation: u32,
    head: &HttpHead<'_>,
    facts: &Arc<Facts>,
) -> Decision {
    let mut decision = decide_request(sides, generation, head, facts);
    let ask = |plugin: &dyn Filter| {
        let answer = plugin.request(head, facts)?;
        // What it would change is not changed.
        let refusal = http_refusal(answer.verdict, &mut HeaderEdit::default());
        Ok((refusal, answer.rule))
    };
    let rehearsed = rehearse((sides, shadows), &decision.1, ask, failed_denial);
    decision.0.attribution.rehearsed = rehearsed.map(Box::new);
    decision.0
}

/// The decision, and who made it.
fn decide_request(
    sides: &[Side<'_>],
    generation: u32,
    head: &HttpHead<'_>,
    facts: &Arc<Facts>,
) -> (Decision, Walk) {
    let mut walk = Walk::new(generation);
    walk.connects = head.method == "CONNECT";
    let mut edit = HeaderEdit::default();
    let mut sees_response = false;
    if let Some(side) = sides.iter().find(|side| walk.opens_no_tunnel(side)) {
        walk.attribution.rules.push(side.rule);
        walk.attribution.unmatched = true;
        walk.attribution.ingress = side.ingress;
        walk.attribution.audited = side.audit;
        walk.refused = true;
        if !side.audit {
            let decision = Decision {
                verdict: Verdict::Deny(no_tunnel()),
                attribution: walk.attribution.clone(),
                sees_response,
            };
            return (decision, walk);
        }
    }
    let refused = walk.run(
        sides,
        |plugin| {
            sees_response |= plugin.sees_responses();
            let answer = plugin.request(head, facts)?;
            Ok((http_refusal(answer.verdict, &mut edit), answer.rule))
        },
        failed_denial,
    );
    let decision = Decision {
        sees_response: sees_response && refused.is_none(),
        verdict: http_verdict(refused, edit),
        attribution: walk.finish(sides),
    };
    (decision, walk)
}

/// Decides a final response by those plugins that want to see it, in the same order.
pub fn response(
    sides: &[Side<'_>],
    request: Attribution,
    head: &ResponseHead<'_>,
    facts: &Arc<Facts>,
) -> Decision {
    let mut walk = Walk::new(request.generation);
    walk.of_request = Some(request.set);
    let mut edit = HeaderEdit::default();
    let refused = walk.run(
        sides,
        |plugin| {
            if !plugin.sees_responses() {
                return Ok((None, None));
            }
            let answer = plugin.response(head, facts)?;
            Ok((http_refusal(answer.verdict, &mut edit), answer.rule))
        },
        failed_denial,
    );
    let attribution = if refused.is_some() || walk.attribution.audited {
        walk.finish(sides)
    } else {
        // The request's attribution stands; the response adds only what went wrong.
        Attribution {
            error: walk.attribution.error.or(request.error),
            ..request
        }
    };
    Decision {
        verdict: http_verdict(refused, edit),
        attribution,
        sees_response: false,
    }
}

/// Decides a DNS query by both sides: the RCODE to refuse with, or `None` to forward.
/// `reject` is that of policies' rules; a bound plugin has its own.
pub fn query(
    (sides, shadows): (&[Side<'_>], &[InShadow<'_>]),
    (generation, reject): (u32, Reject),
    (name, qtype): (&str, u16),
    facts: &Arc<Facts>,
) -> (Option<u8>, Attribution) {
    let mut walk = Walk::new(generation);
    let ask = |plugin: &dyn Filter| {
        let answer = plugin.query(name, qtype, facts)?;
        let refuse = match answer.refuse {
            Some(rcode::REFUSED) if !plugin.is_bound() => Some(reject.rcode()),
            other => other,
        };
        Ok((refuse, answer.rule))
    };
    let refused = walk.run(sides, ask, || rcode::SERVFAIL);
    let mut attribution = walk.finish(sides);
    let rehearsed = rehearse((sides, shadows), &walk, ask, || rcode::SERVFAIL);
    attribution.rehearsed = rehearsed.map(Box::new);
    (refused, attribution)
}

/// A refusal for which no rule is to blame.
pub fn failed(error: &str, generation: u32) -> Decision {
    Decision {
        verdict: Verdict::Deny(failed_denial()),
        attribution: Attribution {
            error: Some(error.to_owned()),
            generation,
            ..Attribution::default()
        },
        sees_response: false,
    }
}

/// Nobody looks into a tunnel, so nobody opens one by the way.
fn no_tunnel() -> Denial {
    Denial {
        status: 403,
        body: Cow::Borrowed("CONNECT needs a rule with method CONNECT and a host\r\n"),
    }
}

fn failed_denial() -> Denial {
    Denial {
        status: FAILED_STATUS,
        body: Cow::Borrowed(FAILED_BODY),
    }
}

/// Splits an answer into its refusal, if it is one, and its edits.
fn http_refusal(verdict: Verdict, edit: &mut HeaderEdit) -> Option<Denial> {
    match verdict {
        Verdict::Allow => None,
        Verdict::Edit(more) => {
            add_edit(edit, more);
            None
        }
        Verdict::Deny(denial) => Some(denial),
    }
}

fn http_verdict(refused: Option<Denial>, edit: HeaderEdit) -> Verdict {
    match refused {
        Some(denial) => Verdict::Deny(denial),
        None if edit == HeaderEdit::default() => Verdict::Allow,
        None => Verdict::Edit(edit),
    }
}

/// Adds a later plugin's changes; for a header that both touch the later one wins.
fn add_edit(edit: &mut HeaderEdit, more: HeaderEdit) {
    let touched = |name: &str| {
        more.remove.iter().any(|n| n.eq_ignore_ascii_case(name))
            || more.set.iter().any(|(n, _)| n.eq_ignore_ascii_case(name))
    };
    edit.set.retain(|(name, _)| !touched(name));
    edit.remove.retain(|name| !touched(name));
    edit.remove.extend(more.remove);
    edit.set.extend(more.set);
}

/// What a plugin was heard to say: a refusal, if it is one, and the index of the rule.
pub(super) type Answered<R> = Result<(Option<R>, Option<u32>), Fault>;

/// What a plugin says, or its fail mode for it.
enum Answer<R> {
    /// The index of the rule, or why it could not decide (fail mode open).
    Passes(Option<u32>, Option<String>),
    Refuses(Refusal<R>),
}

struct Refusal<R> {
    with: R,
    rule: Option<u32>,
    /// Why it could not decide (fail mode closed).
    error: Option<String>,
}

fn answer<R>(
    plugin: &dyn Filter,
    ask: &mut impl FnMut(&dyn Filter) -> Answered<R>,
    failed: &impl Fn() -> R,
) -> Answer<R> {
    match ask(plugin) {
        Ok((None, rule)) => Answer::Passes(rule, None),
        Ok((Some(with), rule)) => Answer::Refuses(Refusal {
            with,
            rule,
            error: None,
        }),
        Err(fault) if plugin.fail_mode() == FailMode::Open && !fault.of_load => {
            Answer::Passes(None, Some(fault.why))
        }
        Err(fault) => Answer::Refuses(Refusal {
            with: failed(),
            rule: None,
            error: Some(fault.why),
        }),
    }
}

/// A walk over the plugins of both sides, keeping who decided.
pub(super) struct Walk {
    pub(super) attribution: Attribution,
    /// For a response, the rule set of several that allowed the request.
    of_request: Option<usize>,
    /// A tunnel is asked for: only rule sets that plainly allow it have a say.
    connects: bool,
    /// The rules of which sides let it pass, a bit for each.
    passed: u8,
    /// Somebody refused it, or would have (audit mode).
    refused: bool,
    /// The first side whose rules did.
    refused_by_rules: Option<usize>,
    /// The first side of which a bound plugin did.
    refused_by_plugin: Option<usize>,
}

impl Walk {
    fn new(generation: u32) -> Self {
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
        mut ask: impl FnMut(&dyn Filter) -> Answered<R>,
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
                match answer(plugin, &mut ask, &failed) {
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
        ask: &mut impl FnMut(&dyn Filter) -> Answered<R>,
        failed: &impl Fn() -> R,
    ) -> Option<R> {
        if side.open && !self.connects {
            return None;
        }
        let mut refused = None;
        // After a change there may be fewer: then all of them are asked.
        let of_request = self.of_request.filter(|of| *of <= side.or.len());
        let connects = self.connects;
        let sets = side.sets().enumerate().filter(|(set, one)| {
            of_request.is_none_or(|of| of == *set) && (!connects || one.tunnels)
        });
        for (set, one) in sets {
            // Without rules everything is allowed.
            let plugin = one.chain.rules();
            let again = |(refused, _): &(&dyn Filter, Refusal<R>)| {
                plugin.is_some_and(|plugin| is_same(*refused, plugin))
            };
            if refused.as_ref().is_some_and(again) {
                // The same rules, beside which something else is rehearsed.
                continue;
            }
            let answer = plugin.map(|plugin| (plugin, answer(plugin, ask, failed)));
            if !side.or.is_empty() {
                self.attribution.set = set;
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

    fn passed(&mut self, plugin: &dyn Filter, rule: Option<u32>, error: Option<String>) {
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
        error: Option<String>,
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
    fn finish(&self, sides: &[Side<'_>]) -> Attribution {
        let mut attribution = self.attribution.clone();
        if attribution.rules.is_empty() {
            let asked = sides.iter().map(|side| side.rule).filter(|rule| *rule != 0);
            attribution.rules.extend(asked);
        }
        attribution
    }
}

/// The rule a plugin's index means. An index out of range names none.
fn rule_id(plugin: &dyn Filter, index: Option<u32>) -> Option<RuleId> {
    plugin.rules().get(usize::try_from(index?).ok()?).copied()
}

#[cfg(test)]
#[path = "chain_tests.rs"]
pub(super) mod tests;
