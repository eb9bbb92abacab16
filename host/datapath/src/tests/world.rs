//! A node and one workload: two network namespaces and a veth between them.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use crate::{Datapath, DatapathError, Options, TableLimits};

/// The node's address on the veth.
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
/// The workload's address.
pub(super) const WORKLOAD: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);
/// The node's end of the veth.
pub(super) const WORKLOAD_DEVICE: &str = "tg-workload";

/// The test's own small world. Its namespaces live as long as its threads.
pub(super) struct World {
    folder: tempfile::TempDir,
    workload: Workload,
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread inside the workload's network namespace.
struct Workload {
    jobs: mpsc::Sender<Job>,
    thread_id: libc::pid_t,
}

/// Runs a test on a thread inside a fresh node.
pub(super) fn test(body: impl FnOnce(&World) + Send + 'static) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "these tests load kernel programs: run them as root"
    );
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("new namespaces");
        // What is mounted here must not appear outside.
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .expect("private mounts");
        body(&World::new());
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

impl World {
    fn new() -> Self {
        let world = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            workload: Workload::start(),
        };
        run("ip link set lo up");
        world.plug_in();
        world
    }

    /// Connects node and workload.
    pub(super) fn plug_in(&self) {
        let workload = self.workload.thread_id;
        run(&format!(
            "ip link add {WORKLOAD_DEVICE} type veth peer name eth0 netns {workload}"
        ));
        run(&format!("ip addr add {NODE}/24 dev {WORKLOAD_DEVICE}"));
        run(&format!("ip link set {WORKLOAD_DEVICE} up"));
        self.in_workload(|| {
            run("ip link set lo up");
            run(&format!("ip addr add {WORKLOAD}/24 dev eth0"));
            run("ip link set eth0 up");
            run(&format!("ip route add default via {NODE}"));
        });
    }

    /// Removes the connection.
    pub(super) fn unplug(&self) {
        run(&format!("ip link del {WORKLOAD_DEVICE}"));
    }

    /// Does something in the workload's network namespace.
    pub(super) fn in_workload<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (answer, result) = mpsc::channel();
        let job = Box::new(move || {
            // Nobody waits only if the test has failed already.
            let _ = answer.send(job());
        });
        self.workload.jobs.send(job).expect("the workload lives");
        result.recv().expect("the job did not panic")
    }

    /// Starts something in the workload's network namespace and does not wait for it.
    pub(super) fn start_in_workload(&self, job: impl FnOnce() + Send + 'static) {
        self.workload
            .jobs
            .send(Box::new(job))
            .expect("the workload lives");
    }

    /// Where this world's bpffs goes.
    pub(super) fn bpffs(&self) -> PathBuf {
        self.folder.path().join("bpf")
    }

    /// Small tables, pinned in this world.
    pub(super) fn options(&self) -> Options {
        Options {
            bpffs: self.bpffs(),
            limits: TableLimits {
                flows: 1_024,
                fragments: 128,
                policy_entries: 256,
                ipcache_entries: 256,
                endpoints: 16,
                services: 16,
                backends: 64,
                service_slots: 64,
                fqdn_addresses: 64,
                deny_prefixes: 16,
            },
            allow_localhost: false,
            ..Options::default()
        }
    }

    /// The datapath with [`World::options`].
    pub(super) fn open(&self) -> Datapath {
        self.try_open(self.options()).expect("the datapath opens")
    }

    pub(super) fn try_open(&self, options: Options) -> Result<Datapath, DatapathError> {
        Datapath::open(options)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The folder below can only be removed when nothing is mounted in it.
        let _ = umount2(&self.bpffs(), MntFlags::MNT_DETACH);
    }
}

impl Workload {
    fn start() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (started, ready) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            started
                .send(nix::unistd::gettid().as_raw())
                .expect("the test waits");
            for job in queue {
                job();
            }
        });
        Self {
            jobs,
            thread_id: ready.recv().expect("the workload starts"),
        }
    }
}

/// Runs a command in the calling thread's namespaces; its words have no spaces.
pub(super) fn run(command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    let output = Command::new(words[0])
        .args(&words[1..])
        .output()
        .unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Files below a folder, however deep.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.expect("a readable folder").path())
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// What a command prints; "" if it fails.
pub(super) fn output(command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
