//! Names of a world, and how everything under a name is removed.
//!
//! A tag is `tg<pid>-<n>`: namespaces, control group and folder of one world all
//! start with it. Removal needs nothing but the tag, so it works from `Drop`, from a
//! helper process that outlives a killed owner, and at the next start.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::Context;

/// Prefix of all names.
const PREFIX: &str = "tg";

/// Where `ip netns` keeps its handles.
pub(crate) const NETNS_DIR: &str = "/run/netns";

/// File in a world's folder that says: not even a dead owner's world is stale.
const KEPT: &str = "kept";

/// The name of a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag(String);

impl Tag {
    /// A name nobody else has.
    pub fn fresh() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(format!("{PREFIX}{}-{number}", std::process::id()))
    }

    /// A tag from its text, if it is one: `tg<pid>-<n>`.
    pub fn parse(text: &str) -> Option<Self> {
        owner(text).map(|_| Self(text.to_owned()))
    }

    /// The text, to start names with.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Folder for files, logs and the world's own bpffs.
    pub fn dir(&self) -> PathBuf {
        std::env::temp_dir().join(&self.0)
    }

    /// Its control group.
    pub fn cgroup(&self) -> anyhow::Result<PathBuf> {
        Ok(cgroup_mount()?.join(&self.0))
    }

    /// Says that the world shall outlive its owner.
    pub fn keep(&self) -> anyhow::Result<()> {
        fs::write(self.dir().join(KEPT), "").context("cannot mark the lab as kept")
    }

    /// Ends every process of the world and removes all it had. Parts that are gone
    /// already are no error, and two removers (a reaper and the next start) do not
    /// trip over each other.
    pub fn remove(&self) -> anyhow::Result<()> {
        let _alone = alone()?;
        let cgroup = self.cgroup()?;
        end_processes(&cgroup)?;
        unmount_below(&self.dir())?;
        for name in entries(Path::new(NETNS_DIR)) {
            if belongs_to(&name, &self.0) {
                let status = Command::new("ip")
                    .args(["netns", "delete", &name])
                    .status()?;
                anyhow::ensure!(
                    status.success(),
                    "cannot delete the network namespace {name}"
                );
            }
        }
        remove_groups(&cgroup)?;
        match fs::remove_dir_all(self.dir()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.dir().display()))
            }
            _ => Ok(()),
        }
    }
}

/// Worlds that exist on this machine.
pub fn existing() -> anyhow::Result<Vec<Tag>> {
    let mut tags: Vec<String> = [NETNS_DIR.into(), std::env::temp_dir(), cgroup_mount()?]
        .iter()
        .flat_map(|dir: &PathBuf| entries(dir))
        .filter_map(|name| {
            let mut parts = name.splitn(3, '-');
            let tag = format!("{}-{}", parts.next()?, parts.next()?);
            owner(&tag).map(|_| tag)
        })
        .collect();
    tags.sort();
    tags.dedup();
    Ok(tags.into_iter().map(Tag).collect())
}

/// Removes worlds whose owner is dead and did not ask to keep them.
pub fn sweep() -> anyhow::Result<()> {
    for tag in existing()? {
        let alive = owner(&tag.0).is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists());
        if !alive && !tag.dir().join(KEPT).exists() {
            tag.remove()?;
        }
    }
    Ok(())
}

/// Worlds left up on purpose.
pub fn kept() -> anyhow::Result<Vec<Tag>> {
    let mut tags = existing()?;
    tags.retain(|tag| tag.dir().join(KEPT).exists());
    Ok(tags)
}

/// A process that removes a world as soon as its owner is gone, whatever ended it.
pub(crate) struct Reaper(Option<Child>);

impl Reaper {
    /// Starts `lab-cleanup --when-stdin-ends TAG` in a session of its own, so that a
    /// Ctrl-C for the owner is none for it.
    pub(crate) fn watch(tag: &Tag) -> anyhow::Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let program = sibling("lab-cleanup")?;
        let mut command = Command::new(&program);
        command
            .args(["--when-stdin-ends", tag.as_str()])
            .stdin(Stdio::piped())
            .process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self(Some(child)))
    }

    /// Ends the watch without removing anything.
    pub(crate) fn dismiss(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended by itself; then there is nothing to end.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.dismiss();
    }
}

/// Another program of this package: beside this one, or one up for a test binary.
pub fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find our own program")?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("{name} is not built: start through `cargo xtask`"))
}

/// The repository, for the files that tests and demo share with users.
pub fn repository() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// Process id in a tag.
fn owner(tag: &str) -> Option<u32> {
    let (pid, number) = tag.strip_prefix(PREFIX)?.split_once('-')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

/// Does a namespace's name belong to a tag: `tg1-0-node` does to `tg1-0`.
fn belongs_to(name: &str, tag: &str) -> bool {
    name.strip_prefix(tag)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Waits until nobody else on this machine removes a world; held until dropped.
fn alone() -> anyhow::Result<nix::fcntl::Flock<fs::File>> {
    let path = std::env::temp_dir().join("tidegate-lab.lock");
    let file =
        fs::File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("cannot lock {}", path.display()))
}

/// Names in a folder; none if it cannot be read.
fn entries(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Where control groups (version 2) are mounted.
pub(crate) fn cgroup_mount() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read the mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .and_then(|fields| fields.get(1).map(PathBuf::from))
        .context("no cgroup2 file system is mounted")
}

/// Kills all processes below a group and waits until they are gone.
fn end_processes(group: &Path) -> anyhow::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    if !group.exists() {
        return Ok(());
    }
    fs::write(group.join("cgroup.kill"), "1").context("cannot end the world's processes")?;
    let start = Instant::now();
    while fs::read_to_string(group.join("cgroup.events"))?.contains("populated 1") {
        anyhow::ensure!(
            start.elapsed() < PATIENCE,
            "processes in {} do not end",
            group.display()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Removes a group and all below it, deepest first.
fn remove_groups(group: &Path) -> anyhow::Result<()> {
    if !group.exists() {
        return Ok(());
    }
    for name in entries(group) {
        let below = group.join(name);
        if below.is_dir() {
            remove_groups(&below)?;
        }
    }
    fs::remove_dir(group).with_context(|| format!("cannot remove {}", group.display()))
}

/// Unmounts what is mounted below a folder (the node's bpffs), newest first.
fn unmount_below(dir: &Path) -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let below = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|point| Path::new(point).starts_with(dir));
    for point in below.collect::<Vec<_>>().into_iter().rev() {
        nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {point}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Tag, belongs_to};

    #[test]
    fn only_our_names_are_tags() {
        for (text, is_tag) in [
            ("tg12-0", true),
            ("tg12-30", true),
            ("tg12", false),
            ("tg-0", false),
            ("tg12-x", false),
            ("eth0", false),
            ("other12-0", false),
        ] {
            assert_eq!(Tag::parse(text).is_some(), is_tag, "{text}");
        }
    }

    #[test]
    fn a_tag_does_not_own_the_names_of_a_longer_one() {
        assert!(belongs_to("tg1-1-node", "tg1-1"));
        assert!(!belongs_to("tg1-11-node", "tg1-1"));
    }
}
