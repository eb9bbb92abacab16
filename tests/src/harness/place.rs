//! Where a process runs: a network namespace and a control group, and optionally a
//! resolver of its own. Only these are entered; everything else is the machine's.

use std::{
    ffi::{CString, OsStr},
    fs::{self, File, OpenOptions},
    io,
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, setns};

use super::{
    process::Running,
    tag::{NETNS_DIR, Tag},
};

/// A network namespace and a control group of one world.
#[derive(Clone, Debug)]
pub struct Place {
    name: String,
    tag: Tag,
    cgroup: PathBuf,
    resolver: Option<PathBuf>,
}

impl Place {
    /// Makes both.
    pub(super) fn create(tag: &Tag, name: &str) -> anyhow::Result<Self> {
        let cgroup = tag.cgroup()?.join(name);
        fs::create_dir_all(&cgroup)
            .with_context(|| format!("cannot make the control group {}", cgroup.display()))?;
        let place = Self {
            name: name.to_owned(),
            tag: tag.clone(),
            cgroup,
            resolver: None,
        };
        ip(&["netns", "add", &place.netns()], "")?;
        // Until a device knows that nobody has its link-local address, a second or two, the
        // node asks for no neighbour there, and what it forwards over IPv6 is lost.
        place.sysctl(&["net/ipv6/conf/default/accept_dad=0"])?;
        place.configure(&["link set lo up"])?;
        Ok(place)
    }

    /// The same namespace with a control group of its own below.
    pub fn group(&self, name: &str) -> anyhow::Result<Self> {
        let cgroup = self.tag.cgroup()?.join(name);
        fs::create_dir_all(&cgroup)?;
        Ok(Self {
            cgroup,
            ..self.clone()
        })
    }

    /// Short name within the world.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Folder of the world it belongs to.
    pub fn dir(&self) -> PathBuf {
        self.tag.dir()
    }

    /// Its control group.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Name of its network namespace, as `ip netns` knows it.
    pub fn netns(&self) -> String {
        format!("{}-{}", self.tag.as_str(), self.name)
    }

    /// The namespace as a file, for `nsenter --net=`.
    pub fn netns_path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(self.netns())
    }

    /// Programs started here from now on ask this DNS server.
    pub fn set_resolver(&mut self, server: impl std::fmt::Display) -> anyhow::Result<()> {
        let file = self.tag.dir().join(format!("{}-resolv.conf", self.name));
        fs::write(
            &file,
            format!("nameserver {server}\noptions timeout:2 attempts:2\n"),
        )?;
        self.resolver = Some(file);
        Ok(())
    }

    /// Runs `ip` commands in this namespace, one per line.
    pub fn configure(&self, lines: &[impl AsRef<str>]) -> anyhow::Result<()> {
        let text: String = lines
            .iter()
            .map(|line| format!("{}\n", line.as_ref()))
            .collect();
        ip(&["-n", &self.netns(), "-batch", "-"], &text)
    }

    /// Sets kernel parameters of this namespace, each `net/…=value`.
    pub fn sysctl(&self, settings: &[&str]) -> anyhow::Result<()> {
        self.within(|| {
            for setting in settings {
                let (name, value) = setting.split_once('=').context("no value")?;
                fs::write(Path::new("/proc/sys").join(name), value)
                    .with_context(|| format!("cannot set {setting}"))?;
            }
            Ok(())
        })?
    }

    /// Calls a function on a thread inside the network namespace. Sockets it makes
    /// belong there for good and may be used anywhere.
    pub fn within<T: Send>(&self, function: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let netns = File::open(self.netns_path())
            .with_context(|| format!("no network namespace {}", self.netns()))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(netns, CloneFlags::CLONE_NEWNET)
                    .context("cannot enter the network namespace")?;
                anyhow::Ok(function())
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A command that will run here.
    pub fn command(&self, program: impl AsRef<OsStr>) -> anyhow::Result<Command> {
        let netns = File::open(self.netns_path())?;
        let procs = OpenOptions::new()
            .write(true)
            .open(self.cgroup.join("cgroup.procs"))?;
        let resolver = self.resolver.as_deref().map(c_string).transpose()?;
        let mut command = Command::new(program);
        let enter = move || {
            // "0" is whoever writes.
            nix::unistd::write(&procs, b"0")?;
            if let Some(file) = &resolver {
                use_resolver(file)?;
            }
            // SAFETY: a plain system call on a descriptor this closure keeps open.
            match unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec the closure makes system calls only; it
        // allocates nothing and takes no lock.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }

    /// Starts a program that goes on; its output goes to `logs/<place>-<label>.log`.
    pub fn spawn(
        &self,
        label: &str,
        program: impl AsRef<OsStr>,
        arguments: &[impl AsRef<OsStr>],
    ) -> anyhow::Result<Running> {
        let mut command = self.command(program)?;
        command.args(arguments);
        self.spawn_command(label, command)
    }

    /// As [`Self::spawn`], for a command made by [`Self::command`].
    pub fn spawn_command(&self, label: &str, command: Command) -> anyhow::Result<Running> {
        let log = self
            .tag
            .dir()
            .join("logs")
            .join(format!("{}-{label}.log", self.name));
        Running::start(command, log)
    }

    /// Runs a program to its end, at most 20 s.
    pub fn run(
        &self,
        program: impl AsRef<OsStr>,
        arguments: &[impl AsRef<OsStr>],
    ) -> anyhow::Result<Output> {
        let mut command = self.command(program)?;
        command.args(arguments);
        run_to_end(command, Duration::from_secs(20))
    }
}

/// Runs a command to its end; what is still running after `limit` is killed.
pub(super) fn run_to_end(mut command: Command, limit: Duration) -> anyhow::Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    let (sender, receiver) = mpsc::channel();
    // A send fails only if nobody waits any more.
    let waiter = std::thread::spawn(move || drop(sender.send(child.wait_with_output())));
    match receiver.recv_timeout(limit) {
        Ok(output) => Ok(output?),
        Err(_) => {
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
            drop(waiter.join());
            bail!("{program} did not end within {limit:?}")
        }
    }
}

/// Runs `ip`, with `input` on its standard input.
fn ip(arguments: &[&str], input: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start ip (package iproute2)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "ip {}: {}\n{input}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Puts a file over `/etc/resolv.conf` for this process and its children.
fn use_resolver(file: &CString) -> io::Result<()> {
    // SAFETY: system calls with constant or owned, zero-terminated strings.
    let done = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(
                c"none".as_ptr(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            ) == 0
            && libc::mount(
                file.as_ptr(),
                c"/etc/resolv.conf".as_ptr(),
                std::ptr::null(),
                libc::MS_BIND,
                std::ptr::null(),
            ) == 0
    };
    if done {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn c_string(path: &Path) -> anyhow::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).context("a path with a zero byte")
}
