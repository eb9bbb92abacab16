//! Queries: what a plugin is asked, and what its answers come to.

use std::sync::Arc;
use tidegate_policy::compiled::Generation;

use tidegate_contract::Reject;
use tidegate_wire::dns::rcode;

use super::{Attribution, Facts, Failure, Filter, InShadow, Side, rehearsal::rehearse, walk::Walk};

/// A plugin that judges DNS queries.
pub trait DnsFilter {
    /// Asks about a query; the name is lower case with a final dot.
    ///
    /// # Errors
    ///
    /// If the plugin could not decide.
    fn query(&self, name: &str, qtype: u16, facts: &Arc<Facts>) -> Result<DnsAnswer, Failure>;
}

/// A plugin's answer to a DNS query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsAnswer {
    /// RCODE to answer with; `None` forwards the query.
    pub refuse: Option<u8>,
    /// Index into [`Filter::rules`] of the rule that decided, if one did.
    pub rule: Option<u32>,
}

/// Decides a DNS query by both sides: the RCODE to refuse with, or `None` to forward.
/// `reject` is that of policies' rules; a bound plugin has its own.
pub fn query(
    (sides, shadows): (&[Side<'_>], &[InShadow<'_>]),
    (generation, reject): (Generation, Reject),
    (name, qtype): (&str, u16),
    facts: &Arc<Facts>,
) -> (Option<u8>, Attribution) {
    let mut walk = Walk::new(Generation(generation.get()));
    let ask = |plugin: &dyn Filter| {
        let asked = plugin.dns().ok_or(Failure::WrongWorld)?;
        let answer = asked.query(name, qtype, facts)?;
        let refuse = match answer.refuse {
            Some(rcode::REFUSED) if !plugin.is_bound() => Some(reject.rcode()),
            other => other,
        };
        Ok((refuse, answer.rule))
    };
    let refused = walk.run(sides, |_, plugin| ask(plugin), || rcode::SERVFAIL);
    let mut attribution = walk.finish(sides);
    let rehearsed = rehearse((sides, shadows), &walk, ask, || rcode::SERVFAIL);
    attribution.rehearsed = rehearsed.map(Box::new);
    (refused, attribution)
}

/// A refusal for which no rule is to blame.
pub fn failed(
    error: tidegate_contract::Failure,
    generation: Generation,
) -> (Option<u8>, Attribution) {
    let attribution = Attribution {
        error: Some(error),
        generation,
        ..Attribution::default()
    };
    (Some(rcode::SERVFAIL), attribution)
}
