//! What changed of what a source says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tidegate_policy::Source;

/// What an object says, as YAML or JSON, or why that cannot be read.
pub type Content = Result<Arc<str>, String>;

/// What changed of what a source says. Only what stands in `removed` goes; of everything
/// else the last good version stays in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Who says it.
    pub source: Source,
    /// What is new, or says something else than before, by its name in the source.
    pub changed: BTreeMap<String, Content>,
    /// Plainly removed by somebody.
    pub removed: BTreeSet<String>,
    /// Everything that is not there and was not removed: why what it said stays, and the
    /// way out. Folders too, and with an empty name the source as a whole.
    pub held: BTreeMap<String, String>,
    /// Everything that looks like a document and is not read, and why.
    pub ignored: BTreeMap<String, String>,
    /// Folders that could be listed, whose files are documents; with an empty name the
    /// source as a whole, where it need not have any of them.
    pub listed: BTreeSet<String>,
}

impl Delta {
    /// Nothing changed.
    pub fn none(source: Source) -> Self {
        Self {
            source,
            changed: BTreeMap::new(),
            removed: BTreeSet::new(),
            held: BTreeMap::new(),
            ignored: BTreeMap::new(),
            listed: BTreeSet::new(),
        }
    }
}

/// What a source says that has objects instead of files, or is none any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// All there is: what is not among it was removed.
    All(BTreeMap<String, Content>),
    /// It is not asked any more, and the way out: what it said stays, if it said anything.
    Unnamed(String),
}

impl News {
    /// As a delta; `known` are the objects of the source that are known so far.
    pub fn delta<'k>(self, source: Source, known: impl Iterator<Item = &'k str>) -> Delta {
        let mut delta = Delta::none(source);
        let mut known = known.peekable();
        match self {
            Self::All(all) => {
                let gone = known.filter(|name| !all.contains_key(*name));
                delta.removed = gone.map(str::to_owned).collect();
                delta.changed = all;
            }
            Self::Unnamed(_) if known.peek().is_none() => {}
            Self::Unnamed(why) => {
                delta.held.insert(String::new(), why);
            }
        }
        delta
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_removed_goes() {
        let delta = |news: News| news.delta(Source::named("store"), ["a", "b"].into_iter());
        let one = BTreeMap::from([("a".to_owned(), Ok(Arc::from("text")))]);
        let all = delta(News::All(one.clone()));
        assert_eq!(all.changed, one);
        assert_eq!(all.removed, ["b".to_owned()].into());
        let unnamed = delta(News::Unnamed("name it".into()));
        assert!(unnamed.removed.is_empty() && unnamed.changed.is_empty());
        assert_eq!(unnamed.held[""], "name it");
    }

    #[test]
    fn a_source_that_never_said_anything_is_missed_by_nobody() {
        let news = News::Unnamed("name it".into());
        let delta = news.delta(Source::named("vendor"), std::iter::empty());
        assert_eq!(delta, Delta::none(Source::named("vendor")));
    }
}
