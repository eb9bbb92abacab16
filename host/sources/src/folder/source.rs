//! Deltas of scans, in the light of what is in force.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_policy::Source;

use super::{FolderId, Scan, TextId, absence::Absence};
use crate::delta::{Content, Delta};

/// A source whose objects are files.
#[derive(Debug)]
pub struct FolderSource {
    source: Source,
    /// Where files come from by now: see [`super::Origins`].
    origins: BTreeMap<String, FolderId>,
    /// What was found last.
    told: BTreeMap<String, Content>,
}

impl FolderSource {
    /// A source that was not looked at yet; `origins` are where its files in force came from.
    pub fn new(source: Source, origins: BTreeMap<String, FolderId>) -> Self {
        Self {
            source,
            origins,
            told: BTreeMap::new(),
        }
    }

    /// Who says it.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Where its files come from, to be kept for the next run.
    pub fn origins(&self) -> &BTreeMap<String, FolderId> {
        &self.origins
    }

    /// Folders of which it is known what is in them; with an empty name one that need not
    /// have any.
    fn listed(&self, scan: &Scan) -> BTreeSet<String> {
        let whole = self.source != Source::folders() && !scan.unreadable.contains_key("");
        let whole = whole.then(String::new);
        scan.folders.keys().cloned().chain(whole).collect()
    }

    /// What a scan means. `known` are files of this source that are known so far,
    /// `in_force`: is something of it in force; `said`: what it was last seen to say.
    pub fn delta<'k>(
        &mut self,
        scan: &Scan,
        known: impl Iterator<Item = &'k str> + Clone,
        in_force: impl Fn(&str) -> bool,
        said: impl Fn(&str) -> Vec<TextId>,
    ) -> Delta {
        let absence = Absence::of(known, in_force, said, (&self.source, &self.origins), scan);
        self.origins = absence.origins;
        let told = std::mem::replace(&mut self.told, scan.documents.clone());
        let found = scan.documents.iter();
        let changed = found.filter(|(name, content)| told.get(*name) != Some(content));
        Delta {
            source: self.source.clone(),
            changed: changed
                .map(|(name, content)| (name.clone(), content.clone()))
                .collect(),
            removed: absence.gone,
            held: absence.held,
            ignored: scan.ignored.clone(),
            listed: self.listed(scan),
        }
    }
}
