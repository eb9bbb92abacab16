//! The demo: its story holds, what it suggests works, and however it ends it cleans up.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tidegate_tests::harness::{
    eventually,
    tag::{self, Tag},
    within,
};

/// A demo that was started like a shell does it, in a process group of its own.
struct Demo {
    child: Child,
    output: tempfile::NamedTempFile,
    /// Of its only world.
    tag: Tag,
}

impl Demo {
    fn start(arguments: &[&str]) -> Result<Self> {
        let output = tempfile::NamedTempFile::new()?;
        let child = Command::new(env!("CARGO_BIN_EXE_demo"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.reopen()?)
            .stderr(output.reopen()?)
            .process_group(0)
            .spawn()?;
        let tag = Tag::parse(&format!("tg{}-0", child.id())).context("not a tag")?;
        Ok(Self { child, output, tag })
    }

    fn output(&self) -> String {
        fs::read_to_string(self.output.path()).unwrap_or_default()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Waits until the story has come this far.
    fn wait_for(&mut self, text: &str) -> Result<()> {
        within(Duration::from_secs(60), text, || {
            if let Some(status) = self.child.try_wait()? {
                // Waiting longer is no use: what is missing now stays missing.
                panic!("the demo ended with {status}:\n{}", self.output());
            }
            ensure!(self.output().contains(text), "{}", self.output());
            Ok(())
        })
    }

    /// Waits until nothing of its world is left.
    fn expect_nothing_left(&self) -> Result<()> {
        eventually("everything is removed", || {
            ensure!(!tag::existing()?.contains(&self.tag), "parts are left");
            let mounts = fs::read_to_string("/proc/mounts")?;
            ensure!(!mounts.contains(&format!("/{}/", self.tag.as_str())));
            Ok(())
        })
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Ended already, unless the test failed; then nothing may stay either.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Err(error) = self.tag.remove() {
            eprintln!("demo: {error:#}");
        }
    }
}

#[test]
fn two_at_once_are_ended_by_ctrl_c_and_by_kill_and_leave_nothing() -> Result<()> {
    let mut interrupted = Demo::start(&[])?;
    // A little later, or it may be over before anybody looks.
    interrupted.wait_for("Starting `tidegate run`")?;
    let mut killed = Demo::start(&[])?;
    // Both are under way, the first a little further.
    killed.wait_for("== Denied in the kernel")?;
    kill(killed.pid(), Signal::SIGKILL)?;
    // As a terminal does it: to everything in the foreground.
    killpg(interrupted.pid(), Signal::SIGINT)?;
    killed.child.wait()?;
    interrupted.child.wait()?;
    // The next one does not wait for the last one's traces to go.
    let mut early = Demo::start(&[])?;
    interrupted.expect_nothing_left()?;
    killed.expect_nothing_left()?;
    early.wait_for("Starting `tidegate run`")?;
    killpg(early.pid(), Signal::SIGINT)?;
    early.child.wait()?;
    early.expect_nothing_left()
}

#[test]
fn a_kept_lab_stays_and_what_was_suggested_works() -> Result<()> {
    let mut demo = Demo::start(&["--keep"])?;
    let status = demo.child.wait()?;
    let story = demo.output();
    ensure!(status.success(), "{status}:\n{story}");
    ensure!(tag::kept()?.contains(&demo.tag), "{story}");
    // Others that start and clean up leave it alone.
    tag::sweep()?;

    let (_, suggestions) = story
        .split_once("== What to try next")
        .context("nothing is suggested")?;
    let commands = suggestions
        .lines()
        .filter_map(|line| line.strip_prefix("   "))
        // Those go on until somebody ends them.
        .filter(|line| !line.contains("--follow") && !line.contains("$EDITOR"));
    let script: String = commands
        .map(|line| match line.contains("stranger curl") {
            // Refused, as announced.
            true => format!("! {line}\n"),
            false => format!("{line}\n"),
        })
        .collect();
    // Aliases are an interactive shell's; `-e` ends at the first that fails.
    let pasted = Command::new("bash")
        .args(["-O", "expand_aliases", "-e", "-c", &script])
        .output()?;
    ensure!(
        pasted.status.success(),
        "{}\n{script}\n{}{}",
        pasted.status,
        String::from_utf8_lossy(&pasted.stdout),
        String::from_utf8_lossy(&pasted.stderr)
    );
    ensure!(Path::new(&demo.tag.dir()).exists());
    demo.tag.remove()?;
    demo.expect_nothing_left()
}
