//! Learned DNS names over a restart: the kernel's table goes on deciding, but it has
//! numbers only, and people want to read names.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tidegate_control::store::{KeptName, Store};
use tidegate_observe::directory::LearnedNames;

/// How often new names are written: what an agent that is killed forgets at most.
const INTERVAL: Duration = Duration::from_secs(5);

/// Writes learned names to the state folder.
#[derive(Clone)]
pub(super) struct NameKeeper {
    store: Store,
    learned: Arc<Mutex<LearnedNames>>,
    /// What was written last, see [`LearnedNames::revision`].
    saved: Arc<AtomicU64>,
}

impl NameKeeper {
    /// Starts with the names of the last run. They are for display: if they cannot be
    /// read, it starts without.
    pub(super) fn restore(store: Store, learned: Arc<Mutex<LearnedNames>>) -> Self {
        let kept = store.names().unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), "learned names are forgotten");
            Vec::new()
        });
        let saved = {
            let mut names = learned.lock().unwrap_or_else(PoisonError::into_inner);
            let (now, wall) = (Instant::now(), wall_seconds());
            for kept in kept {
                let left = kept.expires_s.saturating_sub(wall);
                let left = u32::try_from(left).unwrap_or(u32::MAX);
                names.learn(now, &kept.name, &[(kept.address, left)]);
            }
            names.revision()
        };
        Self {
            store,
            learned,
            saved: Arc::new(AtomicU64::new(saved)),
        }
    }

    /// Writes new names from time to time, for ever.
    pub(super) async fn run(self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let keeper = self.clone();
            // Only fails if it panics, which the log has then.
            let _ = tokio::task::spawn_blocking(move || keeper.save()).await;
        }
    }

    /// Writes the names if there are new ones. A failure is logged and tried again with
    /// the next change.
    pub(super) fn save(&self) {
        let (revision, names) = {
            let names = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
            let revision = names.revision();
            if self.saved.swap(revision, Ordering::Relaxed) == revision {
                return;
            }
            (revision, names.list(Instant::now()))
        };
        let wall = wall_seconds();
        let kept: Vec<KeptName> = names
            .into_iter()
            .map(|(address, name, left)| KeptName {
                address,
                name,
                expires_s: wall.saturating_add(left),
            })
            .collect();
        if let Err(error) = self.store.save_names(&kept) {
            tracing::warn!(
                revision,
                error = format!("{error:#}"),
                "learned names are not kept"
            );
        }
    }
}

fn wall_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_with_the_time_they_have_left() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let store = || Store::open(dir.path()).expect("state folder");
        let fresh = || Arc::new(Mutex::new(LearnedNames::new(8)));
        let learned = fresh();
        let keeper = NameKeeper::restore(store(), Arc::clone(&learned));
        let address = "192.0.2.1".parse().expect("literal address");
        let answer = [(address, 60)];
        let learn = |name| {
            let mut names = learned.lock().expect("not poisoned");
            names.learn(Instant::now(), name, &answer);
        };
        learn("a.example.");
        keeper.save();

        let again = fresh();
        NameKeeper::restore(store(), Arc::clone(&again));
        let list = again.lock().expect("not poisoned").list(Instant::now());
        assert_eq!(list.len(), 1);
        let (kept, name, left) = &list[0];
        assert_eq!((*kept, name.as_str()), (address, "a.example"));
        assert!((50..=60).contains(left), "{left} s left");
    }

    #[test]
    fn damage_costs_the_names_and_nothing_else() {
        let dir = tempfile::tempdir().expect("temporary folder");
        std::fs::write(dir.path().join("names.json"), "{").expect("writable");
        let learned = Arc::new(Mutex::new(LearnedNames::new(8)));
        let store = Store::open(dir.path()).expect("state folder");
        NameKeeper::restore(store, Arc::clone(&learned));
        assert_eq!(
            learned.lock().expect("not poisoned").list(Instant::now()),
            []
        );
    }
}
