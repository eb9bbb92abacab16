//! Byte streams: what a plugin is asked, and who decided about a request it tells of.

use std::sync::Arc;

use tidegate_contract::FailureKind::RulesUnknown;
pub use tidegate_plugin_host::{StreamAnswer, StreamDirection, StreamOperation, StreamRequest};
use tidegate_policy::{
    compiled::{Generation, RuleId},
    unite,
};

pub use super::Who;
use super::{Facts, Failure, Filter, InShadow, Side, is_same};

/// A plugin that reads byte streams.
pub trait StreamFilter {
    /// Begins with a connection. If it is not `enforced`, it is run for its records alone.
    ///
    /// # Errors
    ///
    /// If the plugin could not begin.
    fn open(&self, facts: &Arc<Facts>, enforced: bool) -> Result<Box<dyn Session>, Failure>;

    /// The configuration it goes by; `None` if there is none.
    fn config(&self) -> Option<&str>;

    /// The same plugin with these rules and this configuration, for what is `enforced` or
    /// only rehearsed.
    ///
    /// # Errors
    ///
    /// [`Failure::Preparing`] while it is made; else why there is none.
    fn with_rules(
        &self,
        rules: Vec<RuleId>,
        config: &str,
        enforced: bool,
    ) -> Result<Box<dyn Filter>, Failure>;
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
    /// See [`Filter::content`].
    pub content: String,
    /// The session, or why there is none.
    pub session: Result<Box<dyn Session>, Failure>,
}

/// Why it is not known which filters a connection has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// It will be in a moment: rules that no rule set has together are put together.
    #[error("the rules of the destination's names are being put together")]
    Preparing,
    /// It never will.
    #[error("{0}")]
    Never(tidegate_contract::Failure),
}

/// Begins with a filter.
type Open<'o> = dyn FnMut(&dyn StreamFilter) -> Result<Box<dyn Session>, Failure> + 'o;

/// What reads for one side: a filter as a rule set has it, or with the rules of several.
enum Reader<'a> {
    Of(&'a dyn Filter),
    United(&'a dyn Filter, Vec<RuleId>, String),
}

impl Reader<'_> {
    fn content(&self) -> String {
        match self {
            Self::Of(filter) => filter.content(),
            Self::United(filter, rules, config) => {
                format!("{} {rules:?} false {config}", name_of(*filter))
            }
        }
    }

    fn part(
        &self,
        side: &Side<'_>,
        generation: Generation,
        open: &mut Open<'_>,
        enforced: bool,
    ) -> Result<Part, Unknown> {
        let mut begin = |filter: &dyn Filter| match filter.stream() {
            Some(stream) => open(stream),
            None => Err(Failure::WrongWorld),
        };
        let (filter, united) = match self {
            Self::Of(filter) => (*filter, None),
            Self::United(filter, rules, config) => {
                let stream = filter.stream().ok_or(Failure::WrongWorld);
                let united = stream.and_then(|one| one.with_rules(rules.clone(), config, enforced));
                if let Err(Failure::Preparing) = united {
                    return Err(Unknown::Preparing);
                }
                (*filter, Some((rules, united)))
            }
        };
        let (rules, session) = match united {
            None => (filter.rules().to_vec(), begin(filter)),
            Some((rules, Ok(united))) => (rules.clone(), begin(&*united)),
            Some((rules, Err(failure))) => (rules.clone(), Err(failure)),
        };
        Ok(Part {
            content: self.content(),
            session,
            by: Who::new(filter, side, generation).with_rules(rules),
        })
    }
}

/// Name of a filter's plugin.
fn name_of(filter: &dyn Filter) -> &str {
    filter.label().split('@').next().unwrap_or_default()
}

/// What reads for a side: what knows its rules, then what is bound behind it.
fn readers<'a>(side: &Side<'a>) -> Result<Vec<Reader<'a>>, Unknown> {
    let bound = side.bound().into_iter().map(Reader::Of);
    Ok(rules(side)?.into_iter().chain(bound).collect())
}

/// What knows the rules of a side. Of several rule sets any may allow, so their rules are
/// one list, as where policies meet on one peer; `None` if one of them allows everything.
fn rules<'a>(side: &Side<'a>) -> Result<Option<Reader<'a>>, Unknown> {
    if side.open {
        return Ok(None);
    }
    let mut sets: Vec<&dyn Filter> = Vec::new();
    for set in side.sets() {
        let Some(rules) = set.chain.rules() else {
            return Ok(None);
        };
        if !sets.iter().any(|known| is_same(*known, rules)) {
            sets.push(rules);
        }
    }
    let Some(first) = sets.first().copied() else {
        return Ok(None);
    };
    if let Some(other) = sets.iter().find(|of| name_of(**of) != name_of(first)) {
        return Err(Unknown::Never(RulesUnknown.because(format!(
            "one name or prefix of the destination has rules for {}, another for {}, and nobody \
             can read a connection as both; give them ports of their own",
            name_of(first),
            name_of(*other)
        ))));
    }
    // One that is not ready, or was refused, allows nothing.
    let ready = sets.iter().filter_map(|filter| {
        let config = filter.stream()?.config()?;
        Some((filter.rules(), config))
    });
    let ready: Vec<_> = ready.collect();
    if sets.len() == 1 || ready.is_empty() {
        return Ok(Some(Reader::Of(first)));
    }
    let first = sets.iter().find(|filter| {
        let stream = filter.stream();
        stream.and_then(StreamFilter::config).is_some()
    });
    match (first, unite(ready)) {
        (Some(first), Some((rules, config))) => Ok(Some(Reader::United(*first, rules, config))),
        _ => Err(Unknown::Never(RulesUnknown.because(format!(
            "names and prefixes of the destination have several rule sets for {}, which cannot \
             be put together: they are no lists of rules",
            name_of(sets[0])
        )))),
    }
}

/// The filters of a connection: the source's, then the destination's. `open` begins with
/// one.
///
/// # Errors
///
/// If the rules of one side cannot be asked together, or not yet.
pub fn parts(
    sides: &[Side<'_>],
    generation: Generation,
    mut open: impl FnMut(&dyn StreamFilter, bool) -> Result<Box<dyn Session>, Failure>,
) -> Result<Vec<Part>, Unknown> {
    let mut parts = Vec::new();
    for side in sides {
        let mut open = |stream: &dyn StreamFilter| open(stream, !side.audit);
        for reader in readers(side)? {
            parts.push(reader.part(side, generation, &mut open, true)?);
        }
    }
    Ok(parts)
}

/// What the filters of a connection would be now, without beginning with any; see
/// [`Filter::content`].
///
/// # Errors
///
/// As [`parts`].
pub fn contents(sides: &[Side<'_>]) -> Result<Vec<String>, Unknown> {
    let mut contents = Vec::new();
    for side in sides {
        contents.extend(readers(side)?.iter().map(Reader::content));
    }
    Ok(contents)
}

/// What is in shadow for one side of a connection.
pub struct Beside {
    /// It stands before the part of this index.
    pub at: usize,
    /// That part is this side's: what it tells of a request is compared.
    pub beside: bool,
    /// That part would be asked as it is asked now.
    pub same: bool,
    /// Who is not asked now.
    pub parts: Vec<Part>,
    /// The rule that asks for it, now.
    pub asked_by: RuleId,
    /// Generation that decides.
    pub generation: Generation,
}

/// What is in shadow for a whole connection.
#[derive(Default)]
pub struct Shadow {
    /// By side.
    pub beside: Vec<Beside>,
    /// Nothing would pass, for this rule.
    pub refuses: Option<RuleId>,
}

/// What is in shadow. Whoever is asked now is not asked again: what it says holds for both.
/// Nothing of it has an effect, so what cannot be told yet, or not at all, is not told.
pub fn shadow(
    sides: &[Side<'_>],
    shadows: &[InShadow<'_>],
    generation: Generation,
    mut open: impl FnMut(&dyn StreamFilter) -> Result<Box<dyn Session>, Failure>,
) -> Shadow {
    let mut all = Shadow::default();
    let mut at = 0;
    for (side, shadow) in sides.iter().zip(shadows) {
        let Ok(now) = readers(side) else { continue };
        let begins = at;
        at += now.len();
        let judged = match shadow {
            InShadow::Same => continue,
            InShadow::Refuses(rule) => {
                all.refuses.get_or_insert(*rule);
                continue;
            }
            // On a copy: it takes part in nothing.
            InShadow::Asks(judged) => Side {
                audit: true,
                ..judged.clone()
            },
        };
        let Ok(then) = readers(&judged) else { continue };
        let now: Vec<String> = now.iter().map(Reader::content).collect();
        let then_contents: Vec<String> = then.iter().map(Reader::content).collect();
        let new = then
            .iter()
            .filter(|reader| !now.contains(&reader.content()));
        let parts: Result<Vec<Part>, _> = new
            .map(|reader| reader.part(&judged, generation, &mut open, false))
            .collect();
        let same = now
            .first()
            .is_none_or(|first| then_contents.contains(first));
        match parts {
            Ok(parts) if !parts.is_empty() || !same => all.beside.push(Beside {
                at: begins,
                beside: !now.is_empty(),
                same,
                parts,
                asked_by: side.rule,
                generation,
            }),
            _ => {}
        }
    }
    all
}
