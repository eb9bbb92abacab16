//! Processor time of processes, in nanoseconds, threads and children included where said.

use std::{fs, path::Path};

use anyhow::{Context, Result};

/// Time all threads of these processes have run, from `/proc/PID/task/*/schedstat`
/// (first field, ns; kernel `Documentation/scheduler/sched-stats.rst`). A thread that has
/// ended no longer counts, so measure processes whose threads stay.
pub(super) fn time(pids: &[u32]) -> Result<u64> {
    pids.iter().map(|pid| of_process(*pid)).sum()
}

fn of_process(pid: u32) -> Result<u64> {
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    let mut sum = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("process {pid} is gone"))? {
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let first = text.split_whitespace().next().context("empty schedstat")?;
        sum += first.parse::<u64>()?;
    }
    Ok(sum)
}

/// A process and its direct children: nginx and HAProxy work in children.
pub(super) fn family(pid: u32) -> Result<Vec<u32>> {
    let mut family = vec![pid];
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(child) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // The name in parentheses may hold blanks; the parent is the second field behind it.
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if parent.and_then(|p| p.parse::<u32>().ok()) == Some(pid) {
            family.push(child);
        }
    }
    Ok(family)
}
