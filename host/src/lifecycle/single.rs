//! One agent per node: two would undo each other's work.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

/// Held while this process is the agent of its run folder; the kernel lets go of it
/// when the process ends, however that happens.
#[derive(Debug)]
pub struct OnlyAgent {
    _lock: Flock<File>,
}

/// Why this process cannot be the agent.
#[derive(Debug, thiserror::Error)]
pub enum OnlyAgentError {
    /// There is one.
    #[error(
        "another agent runs (pid {pid}); stop it first, or give this one its own `node.runDir`, `node.bpffs` and `node.stateDir`, in a network namespace of its own"
    )]
    Running {
        /// Its process id, as it wrote it down.
        pid: String,
    },
    /// The run folder cannot be used.
    #[error("cannot use the run folder file {}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl OnlyAgent {
    /// Claims the run folder, and makes it (for root alone) if needed.
    pub fn claim(run_dir: &Path) -> Result<Self, OnlyAgentError> {
        let path = run_dir.join("agent.lock");
        let unusable = |source| OnlyAgentError::Unusable {
            path: path.clone(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(run_dir)
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
                Ok(Self { _lock: lock })
            }
            Err((mut file, _)) => {
                let mut pid = String::new();
                // Only for the message; an unreadable file leaves it empty.
                let _ = file.read_to_string(&mut pid);
                Err(OnlyAgentError::Running { pid })
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
        let run = folder.path().join("run");
        let first = OnlyAgent::claim(&run).expect("the first");
        let error = OnlyAgent::claim(&run).expect_err("a second").to_string();
        assert!(
            error.contains(&format!("pid {}", std::process::id())),
            "{error}"
        );
        drop(first);
        OnlyAgent::claim(&run).expect("the next");
    }
}
