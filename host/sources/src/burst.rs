//! Notifications that belong together: when to look. Pure.
//!
//! Files that somebody puts there together are to be seen together, half of one is not to be
//! seen at all, and one that is complete should not wait.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use tidegate_signatures::EXTENSION;

use crate::{folder::QUIET, watch::Nudge};

/// How long after a complete file more may follow that belongs to it. Whoever copies files, or
/// checks them out, leaves a tenth of that between them.
pub const TOGETHER: Duration = Duration::from_millis(1);

/// What is known of a burst so far.
#[derive(Debug, Default)]
pub struct Burst {
    /// Files that are complete as they are.
    complete: BTreeSet<PathBuf>,
    /// Files that are being written, or were taken away: what takes their place may follow, and
    /// what a file said is not to be lifted for the moment between two commands.
    unfinished: BTreeSet<PathBuf>,
}

impl Burst {
    /// Takes in one more notification. A file is complete that was moved into place: one that
    /// was closed may be gone on with (`>` and then `>>`), and half of a policy may well be one.
    pub fn take(&mut self, nudge: Nudge) {
        match nudge {
            Nudge::Changed => {}
            Nudge::Written(path) | Nudge::Closed(path) | Nudge::Gone(path) => {
                if is_read(&path) {
                    self.complete.remove(&path);
                    self.unfinished.insert(path);
                }
            }
            Nudge::Complete(path) => self.is_complete(path),
            Nudge::Renamed(from, to) => {
                self.unfinished.remove(&from);
                self.complete.remove(&from);
                self.is_complete(to);
            }
        }
    }

    fn is_complete(&mut self, path: PathBuf) {
        if is_read(&path) {
            self.unfinished.remove(&path);
            self.complete.insert(path);
        }
    }

    /// How long nothing more must come before it is time to look. What is not read for its
    /// name, as what editors write beside a file, says nothing of that.
    pub fn wait(&self) -> Duration {
        match self.unfinished.is_empty() && !self.complete.is_empty() {
            true => TOGETHER,
            false => QUIET,
        }
    }

    /// Files that are complete as they are.
    pub fn complete(self) -> impl Iterator<Item = PathBuf> {
        self.complete.into_iter()
    }
}

/// Documents, plugins, their manifests and signatures.
fn is_read(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !hidden
        && matches!(
            extension,
            Some("yaml" | "yml" | "wasm" | "toml" | EXTENSION)
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complete_file_does_not_wait_and_an_unfinished_one_does() {
        use Nudge::{Changed, Closed, Complete, Gone, Renamed, Written};
        let path = |name: &str| PathBuf::from("/policies").join(name);
        let (a, b, aside) = (path("a.yaml"), path("b.yml"), path("a.yaml~"));
        for (nudges, wait, complete) in [
            (vec![], QUIET, vec![]),
            (vec![Changed], QUIET, vec![]),
            // Written in place.
            (vec![Written(a.clone())], QUIET, vec![]),
            (vec![Written(a.clone()), Closed(a.clone())], QUIET, vec![]),
            // And again.
            (vec![Complete(a.clone()), Written(a.clone())], QUIET, vec![]),
            // Written beside it, and moved over it.
            (
                vec![Written(aside.clone()), Closed(aside.clone())],
                QUIET,
                vec![],
            ),
            (
                vec![
                    Written(aside.clone()),
                    Closed(aside.clone()),
                    Gone(aside.clone()),
                    Complete(a.clone()),
                    Renamed(aside, a.clone()),
                ],
                TOGETHER,
                vec![&a],
            ),
            // One of two is not there yet.
            (
                vec![Complete(a.clone()), Written(b.clone())],
                QUIET,
                vec![&a],
            ),
            // What takes the place of a removed file may follow.
            (vec![Gone(a.clone())], QUIET, vec![]),
            (vec![Gone(a.clone()), Complete(b.clone())], QUIET, vec![&b]),
            (
                vec![Gone(a.clone()), Complete(a.clone())],
                TOGETHER,
                vec![&a],
            ),
            (
                vec![
                    Gone(a.clone()),
                    Complete(b.clone()),
                    Renamed(a.clone(), b.clone()),
                ],
                TOGETHER,
                vec![&b],
            ),
            (vec![Complete(path(".a.yaml"))], QUIET, vec![]),
        ] {
            let mut burst = Burst::default();
            let said = format!("{nudges:?}");
            nudges.into_iter().for_each(|nudge| burst.take(nudge));
            assert_eq!(burst.wait(), wait, "{said}");
            let found: Vec<PathBuf> = burst.complete().collect();
            assert!(found.iter().eq(complete), "{said}: {found:?}");
        }
    }
}
