//! The decision about one message: the source's egress plugins, then the destination's
//! ingress plugins; every one must agree. Pure but for the plugins.
//!
//! Here is what is the same for every protocol: who is asked ([`Filter`], [`Chain`],
//! [`Side`]), in what order (`walk`), what is in shadow (`rehearsal`), who decided
//! ([`Attribution`]). A protocol adds a file with a trait of its own, what it asks a plugin
//! and what it makes of the answers, and a method of [`Filter`] that says whether a plugin
//! can be asked so.

pub mod dns;
pub mod exchange;
pub mod http;
mod rehearsal;
pub mod stream;
#[cfg(test)]
pub(crate) mod tests;
pub mod tls;
mod walk;
mod who;

use tidegate_contract::Rehearsed;
use tidegate_policy::compiled::{FailMode, Generation, L7Id, L7Protocol, RuleId};

pub use tidegate_plugin_host::{Facts, Failure};

use self::rehearsal::is_same;
pub use self::{rehearsal::InShadow, who::Who};

/// One plugin as one rule set uses it, called on one worker thread. What happens without
/// an answer is decided in this room.
pub trait Filter {
    /// `name@version` for records.
    fn label(&self) -> &str;

    /// Tells one content from another: the plugin's name, its rules and configuration, but
    /// not its version.
    fn content(&self) -> String;

    /// What happens when it cannot decide.
    fn fail_mode(&self) -> FailMode;

    /// The rules its answers refer to by index.
    fn rules(&self) -> &[RuleId];

    /// Does it look at whatever is allowed, by whichever rule set?
    fn is_bound(&self) -> bool;

    /// The same as what judges HTTP, if it can be asked about that.
    fn http(&self) -> Option<&dyn http::HttpFilter> {
        None
    }

    /// The same as what judges DNS queries, if it can be asked about those.
    fn dns(&self) -> Option<&dyn dns::DnsFilter> {
        None
    }

    /// The same as what reads byte streams, if it can.
    fn stream(&self) -> Option<&dyn stream::StreamFilter> {
        None
    }
}

/// A rule set with its plugins, for one worker thread.
pub struct Chain {
    /// The rule set; an id means the same content for ever.
    pub id: L7Id,
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

    /// The rule sets that have a say in this direction, with their plugins.
    pub(super) fn chains(&self) -> impl Iterator<Item = &'a Chain> {
        self.sets().map(|one| one.chain)
    }

    /// The rule sets that have a say in this direction.
    pub(super) fn set_ids(&self) -> impl Iterator<Item = L7Id> {
        self.sets().map(|one| one.chain.id)
    }

    /// Is it one of this side's rule sets?
    fn has(&self, set: L7Id) -> bool {
        self.sets().any(|one| one.chain.id == set)
    }

    /// The plugin of its rules, if there is one and no other could have allowed instead.
    fn only_rules(&self) -> Option<&'a dyn Filter> {
        let alone = self.or.is_empty() && !self.open;
        self.chain.filter(|_| alone)?.rules()
    }

    fn tunnels(&self) -> bool {
        self.sets().any(|set| set.tunnels)
    }

    /// The bound plugins of all rule sets, each once: those of one binding are one plugin
    /// and have its rule.
    fn bound(&self) -> Vec<&'a dyn Filter> {
        let mut all: Vec<&dyn Filter> = Vec::new();
        for plugin in self.sets().flat_map(|set| set.chain.bound()) {
            if !all.iter().any(|known| is_same(*known, plugin)) {
                all.push(plugin);
            }
        }
        all
    }
}

/// Who decided, as it will stand in the record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attribution {
    /// Rules that decided, or that were asked and did not match: see `unmatched`.
    pub rules: Vec<RuleId>,
    /// It was refused because none of the rules asked matched.
    pub unmatched: bool,
    /// Plugin that refused or the last that allowed, as `name@version`.
    pub plugin: Option<String>,
    /// Why it failed, if that was not a policy decision.
    pub error: Option<tidegate_contract::Failure>,
    /// Direction of the rule set that refused (false: egress, true: ingress).
    pub ingress: bool,
    /// It was refused, and passed because denials are only reported (audit mode).
    pub audited: bool,
    /// What would become of it if what is in shadow were enforced, where that is
    /// something else. Apart: most have none.
    pub rehearsed: Option<Box<Rehearsed>>,
    /// Generation that decided.
    pub generation: Generation,
    /// Which of several rule sets allowed a request: its rules are asked about the
    /// response.
    pub set: Option<L7Id>,
}
