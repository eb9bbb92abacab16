//! One agent per node: two would undo each other's work.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

/// Held while this process is the agent of its run and state folders; the kernel lets go
/// of it when the process ends, however that happens.
#[derive(Debug)]
pub struct OnlyAgent {
    _locks: [Flock<File>; 2],
}

/// Why this process cannot be the agent.
#[derive(Debug, thiserror::Error)]
pub enum OnlyAgentError {
    /// There is one.
    #[error(
        "another agent (pid {pid}) works with {}; stop it first, or give this one its own `node.runDir`, `node.bpffs` and `node.stateDir`, in a network namespace of its own", folder.display()
    )]
    Running {
        /// What both want.
        folder: PathBuf,
        /// Its process id, as it wrote it down.
        pid: String,
    },
    /// A folder cannot be used.
    #[error("cannot use the file {}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl OnlyAgent {
    /// Claims both folders, and makes them (for root alone to write) if needed: two agents
    /// with one state folder would number different things alike.
    pub fn claim(run_dir: &Path, state_dir: &Path) -> Result<Self, OnlyAgentError> {
        Ok(Self {
            _locks: [Self::lock(run_dir)?, Self::lock(state_dir)?],
        })
    }

    fn lock(folder: &Path) -> Result<Flock<File>, OnlyAgentError> {
        let path = folder.join("agent.lock");
        let unusable = |source| OnlyAgentError::Unusable {
            path: path.clone(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .map_err(unusable)?;
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(unusable)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                lock.set_len(0).map_err(unusable)?;
                lock.rewind().map_err(unusable)?;
                write!(lock, "{}", std::process::id()).map_err(unusable)?;
                Ok(lock)
            }
            Err((mut file, _)) => {
                let mut pid = String::new();
                // Only for the message; an unreadable file leaves it empty.
                let _ = file.read_to_string(&mut pid);
                Err(OnlyAgentError::Running {
                    folder: folder.to_owned(),
                    pid,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_told_about_the_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let first = OnlyAgent::claim(&at("run"), &at("state")).expect("the first");
        for (run, state, both) in [("run", "other", "run"), ("another", "state", "state")] {
            let error = OnlyAgent::claim(&at(run), &at(state)).expect_err("a second");
            let error = error.to_string();
            let pid = format!("pid {}", std::process::id());
            assert!(error.contains(&pid), "{error}");
            assert!(error.contains(&at(both).display().to_string()), "{error}");
        }
        drop(first);
        OnlyAgent::claim(&at("run"), &at("state")).expect("the next");
    }
}
