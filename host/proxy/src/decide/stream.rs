//! Byte streams: what a plugin is asked, and who decided about a request it tells of.

use std::sync::Arc;

pub use tidegate_plugin_host::{StreamAnswer, StreamDirection, StreamOperation, StreamRequest};
use tidegate_policy::compiled::{FailMode, RuleId};

use super::{Attribution, Chain, Facts, Failure, Side};

/// A plugin that reads byte streams.
pub trait StreamFilter {
    /// Begins with a connection. If it is not `enforced`, it is run for its records alone.
    ///
    /// # Errors
    ///
    /// If the plugin could not begin.
    fn open(&self, facts: &Arc<Facts>, enforced: bool) -> Result<Box<dyn Session>, Failure>;

    /// Tells one content from another: the plugin's name, its rules and configuration, but
    /// not its version. A session goes on while that of its filter stays.
    fn content(&self) -> String;
}

/// One connection's part of a plugin.
pub trait Session {
    /// Most bytes that are held for it, each way.
    fn buffer_bytes(&self) -> usize;

    /// Shows what has come one way.
    ///
    /// # Errors
    ///
    /// If the plugin could not say what becomes of it; there is no session any more then.
    fn data(
        &self,
        direction: StreamDirection,
        bytes: &[u8],
        end: bool,
    ) -> Result<Vec<StreamOperation>, Failure>;
}

/// One filter of a connection, and how its part begins.
pub struct Part {
    /// How it stands in records, and whose rules it has.
    pub by: Who,
    /// See [`StreamFilter::content`].
    pub content: String,
    /// The session, or why there is none.
    pub session: Result<Box<dyn Session>, Failure>,
}

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
    generation: u32,
}

impl Who {
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
    pub fn failed(&self, error: String) -> Attribution {
        Attribution {
            unmatched: false,
            audited: false,
            error: Some(error),
            ..self.decided(false, None)
        }
    }
}

/// The filters of a connection: the source's, then the destination's; of each the one that
/// knows the rules, then those bound behind it. `open` begins with one.
///
/// # Errors
///
/// If the rules of one side cannot be asked one after the other.
pub fn parts(
    sides: &[Side<'_>],
    generation: u32,
    mut open: impl FnMut(&dyn StreamFilter, bool) -> Result<Box<dyn Session>, Failure>,
) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    for side in sides {
        if !side.or.is_empty() && !side.open {
            return Err(
                "the destination's names and prefixes have several rule sets, and a byte stream \
                 cannot be read by several at once"
                    .to_owned(),
            );
        }
        let rules = side.chain.filter(|_| !side.open).and_then(Chain::rules);
        for filter in rules.into_iter().chain(side.bound()) {
            let stream = filter.stream();
            let by = Who {
                label: filter.label().to_owned(),
                rules: filter.rules().to_vec(),
                bound: filter.is_bound(),
                asked_by: side.rule,
                ingress: side.ingress,
                audit: side.audit,
                fail_mode: filter.fail_mode(),
                generation,
            };
            parts.push(Part {
                content: stream.map(StreamFilter::content).unwrap_or_default(),
                session: match stream {
                    Some(stream) => open(stream, !side.audit),
                    None => Err(Failure::WrongWorld),
                },
                by,
            });
        }
    }
    Ok(parts)
}

/// What the filters of a connection would be now, without beginning with any; see
/// [`StreamFilter::content`].
pub fn contents(sides: &[Side<'_>]) -> Result<Vec<String>, String> {
    let parts = parts(sides, 0, |_, _| Err(Failure::Preparing))?;
    Ok(parts.into_iter().map(|part| part.content).collect())
}

#[cfg(test)]
impl Who {
    /// A plugin with two rules, asked by a third.
    pub(crate) fn of(label: &str, fail_mode: FailMode, audit: bool) -> Self {
        Self {
            label: label.to_owned(),
            rules: vec![11, 12],
            bound: false,
            asked_by: 13,
            ingress: false,
            audit,
            fail_mode,
            generation: 1,
        }
    }
}
