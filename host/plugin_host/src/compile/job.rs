//! The agent's side: starts a worker, feeds it, waits for it, but not for ever.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    thread::available_parallelism,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::timeout,
};

use super::{ARTIFACT, Inspection, Report, confine::CPU_SECONDS};
use crate::failure::shorten;

/// Longest time a worker may take, its CPU limit and a busy machine considered.
pub(crate) const LONGEST: Duration = Duration::from_secs(120);

/// Threads a worker may compile with: each keeps memory of its own, of which there is
/// a limit, and traffic needs the CPUs too.
const THREADS: usize = 4;

/// One compilation.
pub(crate) struct Job {
    /// The `tidegate` binary.
    pub(crate) program: PathBuf,
    /// How long it may take.
    pub(crate) patience: Duration,
}

/// Why there is no compiled code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    /// The component is at fault.
    #[error("{0}")]
    Component(String),
    /// The worker was ended from outside or could not be run: nobody knows about the
    /// component.
    #[error("compiling it was interrupted: {0}")]
    Worker(String),
    /// No answer in time.
    #[error("compiling it takes longer than {0:?}")]
    TakesLong(Duration),
}

impl Job {
    /// Compiles a component.
    pub(crate) async fn run(&self, component: &[u8]) -> Result<(Inspection, Vec<u8>), JobError> {
        let (output, status) = timeout(self.patience, self.talk(component))
            .await
            .map_err(|_| JobError::TakesLong(self.patience))?
            .map_err(|error| JobError::Worker(error.to_string()))?;
        if !status.success() {
            return Err(ended(status));
        }
        let (report, artifact) = split(&output)
            .ok_or_else(|| JobError::Component("the compiler ended without an answer".into()))?;
        match report {
            Ok(inspection) => Ok((inspection, artifact.to_vec())),
            // It names what the component named.
            Err(reason) => Err(JobError::Component(shorten(reason))),
        }
    }

    async fn talk(&self, component: &[u8]) -> std::io::Result<(Vec<u8>, ExitStatus)> {
        let mut worker = Command::new(&self.program)
            .arg("compile-plugin")
            .env_clear()
            .env("RAYON_NUM_THREADS", threads().to_string())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(mut stdin), Some(stdout)) = (worker.stdin.take(), worker.stdout.take()) else {
            return Err(std::io::Error::other("no pipes to the worker"));
        };
        let mut output = Vec::new();
        let limit = u64::try_from(ARTIFACT).unwrap_or(u64::MAX);
        let mut stdout = stdout.take(limit);
        let feed = async {
            // A worker that gives up early says why on its output.
            let _ = stdin.write_all(component).await;
            drop(stdin);
        };
        let ((), read) = tokio::join!(feed, stdout.read_to_end(&mut output));
        read?;
        // A worker that has more to say must not wait for us to read it.
        drop(stdout);
        let status = worker.wait().await?;
        Ok((output, status))
    }
}

/// Whose fault it is that a worker ended without an answer. What a component can bring
/// about is a crash of the compiler, or one of the limits set in `confine`; a kill comes
/// from outside, most likely because the machine is out of memory.
fn ended(status: ExitStatus) -> JobError {
    match status.signal() {
        Some(libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP) => {
            JobError::Worker(format!("the compiler was killed ({status})"))
        }
        Some(libc::SIGXCPU) => JobError::Component(format!(
            "compiling it takes more than {CPU_SECONDS} s of processor time"
        )),
        Some(libc::SIGABRT) => JobError::Component(format!(
            "compiling it takes more memory than there may be, or breaks the compiler ({status})"
        )),
        Some(_) => JobError::Component(format!("it breaks the compiler ({status})")),
        // It could not be confined, or its pipes broke.
        None => JobError::Worker(format!("the compiler ended with {status}")),
    }
}

fn threads() -> usize {
    available_parallelism().map_or(1, |cpus| cpus.get().min(THREADS))
}

fn split(output: &[u8]) -> Option<(Report, &[u8])> {
    let (length, rest) = output.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (report, artifact) = rest.split_at_checked(length)?;
    Some((serde_json::from_slice(report).ok()?, artifact))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_components_own_faults_are_final() {
        let final_ = |status| matches!(ended(ExitStatus::from_raw(status)), JobError::Component(_));
        for (signal, expected) in [
            (libc::SIGKILL, false),
            (libc::SIGTERM, false),
            (libc::SIGXCPU, true),
            (libc::SIGABRT, true),
            (libc::SIGSEGV, true),
        ] {
            assert_eq!(final_(signal), expected, "{signal}");
        }
        // Exit code 1.
        assert!(!final_(1 << 8));
    }
}
