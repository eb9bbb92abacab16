//! The node under test: its files, its agent, and the command line, used as a person
//! would use them.

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::{
    compiled,
    eventually::{eventually, within},
    place::Place,
    process::Running,
    tag::sibling,
    world::{UPLINK, Workload},
};

/// A node with its configuration folder.
pub struct Node {
    place: Place,
    /// Everything of the node: configuration, state, sockets, pins.
    dir: PathBuf,
    /// Control group whose sockets are the node's.
    cgroup: PathBuf,
    binary: PathBuf,
    agent: Option<Running>,
}

/// Folder of the node's configuration below its own.
const CONFIG: &str = "config";

/// The folders beside `tidegate.yaml`.
const FOLDERS: [&str; 4] = ["policies", "services", "endpoints", "plugins"];

impl Node {
    pub(super) fn new(place: Place, world: PathBuf, cgroup: PathBuf) -> anyhow::Result<Self> {
        let dir = world.join("node");
        for folder in FOLDERS {
            fs::create_dir_all(dir.join(CONFIG).join(folder))?;
        }
        for folder in ["state", "run", "bpffs"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        compiled::give(&dir.join("state"))?;
        let node = Self {
            place,
            dir,
            cgroup,
            binary: match std::env::var_os("TIDEGATE_BIN") {
                Some(binary) => binary.into(),
                None => sibling("tidegate")?,
            },
            agent: None,
        };
        node.configure(&format!(
            "node:\n  name: lab\n  outsideDevices: [{UPLINK}]\n"
        ))?;
        Ok(node)
    }

    /// Writes `tidegate.yaml`: the text given, plus the paths of this world under its
    /// `node:` key.
    pub fn configure(&self, text: &str) -> anyhow::Result<()> {
        let paths = format!(
            "node:\n  cgroup: {}\n  bpffs: {}\n  stateDir: {}\n  runDir: {}\n",
            self.cgroup.display(),
            self.bpffs().display(),
            self.dir.join("state").display(),
            self.run_dir().display(),
        );
        ensure!(
            text.contains("node:\n"),
            "no `node:` key to put paths under"
        );
        self.write("tidegate.yaml", text.replacen("node:\n", &paths, 1))
    }

    /// Takes over a whole configuration folder, its `tidegate.yaml` as [`Self::configure`].
    pub fn use_folder(&self, folder: &Path) -> anyhow::Result<()> {
        self.configure(&fs::read_to_string(folder.join("tidegate.yaml"))?)?;
        for below in FOLDERS {
            for entry in fs::read_dir(folder.join(below))? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                self.copy(&entry.path(), &format!("{below}/{name}"))?;
            }
        }
        Ok(())
    }

    /// Where the node's own processes run.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Folder of `tidegate.yaml` and the four watched folders.
    pub fn config_dir(&self) -> PathBuf {
        self.dir.join(CONFIG)
    }

    /// Where kernel objects are pinned.
    pub fn bpffs(&self) -> PathBuf {
        self.dir.join("bpffs")
    }

    /// Where the sockets are.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The agent's local API.
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("agent.sock")
    }

    /// The binary under test.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Writes a file below the configuration folder as careful editors do: beside it,
    /// then renamed.
    pub fn write(&self, file: &str, text: impl AsRef<[u8]>) -> anyhow::Result<()> {
        let path = self.config_dir().join(file);
        let beside = path.with_extension("partial~");
        fs::write(&beside, text).with_context(|| format!("cannot write {}", beside.display()))?;
        fs::rename(&beside, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Copies a file into the configuration folder.
    pub fn copy(&self, from: &Path, file: &str) -> anyhow::Result<()> {
        let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.write(file, bytes)
    }

    /// Removes a file below the configuration folder.
    pub fn remove(&self, file: &str) -> anyhow::Result<()> {
        fs::remove_file(self.config_dir().join(file))
            .with_context(|| format!("cannot remove {file}"))
    }

    /// Declares a workload as an endpoint.
    pub fn endpoint(
        &self,
        workload: &Workload,
        namespace: &str,
        labels: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let location = format!(
            "interface: {}\n  addresses: [{}, \"{}\"]",
            workload.interface, workload.v4, workload.v6
        );
        self.write_endpoint(workload.name(), namespace, labels, &location)
    }

    /// Declares a control group as a host service.
    pub fn host_service(
        &self,
        name: &str,
        group: &Place,
        labels: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let location = format!("cgroup: {}", group.cgroup().display());
        self.write_endpoint(name, "default", labels, &location)
    }

    fn write_endpoint(
        &self,
        name: &str,
        namespace: &str,
        labels: &[(&str, &str)],
        location: &str,
    ) -> anyhow::Result<()> {
        let labels: String = labels
            .iter()
            .map(|(key, value)| format!("    {key}: \"{value}\"\n"))
            .collect();
        self.write(
            &format!("endpoints/{name}.yaml"),
            format!(
                "apiVersion: tidegate.io/v1alpha1\nkind: Endpoint\nmetadata:\n  name: {name}\n  \
                 namespace: {namespace}\n  labels:\n{labels}spec:\n  {location}\n"
            ),
        )
    }

    /// Starts the agent and waits until a generation is in force everywhere.
    pub fn start(&mut self) -> anyhow::Result<()> {
        const PATIENCE: Duration = Duration::from_secs(30);
        self.start_agent()?;
        let ready = within(PATIENCE, "the node is ready", || {
            let ended = self.agent.as_mut().map_or(Ok(()), Running::check_alive);
            // An agent that has ended will not become ready: that is the answer.
            ended.map_or_else(|ended| Ok(Err(ended)), |()| self.check_ready().map(Ok))
        });
        ready
            .and_then(|answer| answer)
            .inspect(|()| compiled::take(&self.dir.join("state")))
            .inspect_err(|_| self.print_logs())
    }

    /// Is one and the same generation in force in kernel and proxy?
    fn check_ready(&self) -> anyhow::Result<()> {
        let status = self.status()?;
        let (kernel, proxy) = (&status["generation"], &status["proxyGeneration"]);
        ensure!(kernel.as_u64() > Some(0), "no generation in force yet");
        ensure!(kernel == proxy, "kernel has {kernel}, proxy has {proxy}");
        Ok(())
    }

    /// Starts the agent without waiting for it.
    pub fn start_agent(&mut self) -> anyhow::Result<()> {
        let mut command = self.place.command(&self.binary)?;
        command
            .args(["run", "-c"])
            .arg(self.config_dir().join("tidegate.yaml"));
        self.agent = Some(self.place.spawn_command("agent", command)?);
        Ok(())
    }

    /// The running agent.
    pub fn agent(&self) -> anyhow::Result<&Running> {
        self.agent.as_ref().context("the agent is not running")
    }

    /// What the agent has logged.
    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.agent_log_file()).unwrap_or_default()
    }

    /// `kill -9` for the agent.
    pub fn kill_agent(&mut self) -> anyhow::Result<()> {
        self.agent
            .take()
            .context("the agent is not running")?
            .kill()
    }

    /// Asks the agent to end; its exit must be a success.
    pub fn stop_agent(&mut self) -> anyhow::Result<()> {
        let agent = self.agent.take().context("the agent is not running")?;
        let status = agent.stop()?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }

    /// Process id of the proxy.
    pub fn proxy_pid(&self) -> anyhow::Result<u32> {
        let pid = self.status()?["proxy"]["pid"].as_u64().unwrap_or(0);
        ensure!(pid > 0, "the proxy is not running");
        Ok(u32::try_from(pid)?)
    }

    /// `kill -9` for the proxy.
    pub fn kill_proxy(&self) -> anyhow::Result<u32> {
        let pid = self.proxy_pid()?;
        let target = nix::unistd::Pid::from_raw(pid.cast_signed());
        nix::sys::signal::kill(target, nix::sys::signal::Signal::SIGKILL)?;
        Ok(pid)
    }

    /// Runs `tidegate` with the node's socket.
    pub fn tidegate(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = self.place.command(&self.binary)?;
        command
            .args(arguments)
            .env("TIDEGATE_SOCKET", self.socket())
            .current_dir(self.config_dir());
        super::place::run_to_end(command, Duration::from_secs(20))
    }

    /// What a command prints; it must succeed.
    pub fn text(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.tidegate(arguments)?;
        if !output.status.success() {
            bail!(
                "tidegate {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What a command prints with `--output json`.
    pub fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = self.text(&[arguments, &["--output", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// `tidegate status`.
    pub fn status(&self) -> anyhow::Result<Value> {
        self.json(&["status"])
    }

    /// `tidegate observe` with filters: the matching records so far, oldest first.
    pub fn records(&self, filters: &[&str]) -> anyhow::Result<Vec<Value>> {
        let last = ["observe", "--last", "1000", "--output", "json"];
        let text = self.text(&[&last, filters].concat())?;
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
            .collect()
    }

    /// Waits for a record that matches the filters and a condition.
    pub fn record(
        &self,
        filters: &[&str],
        condition: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        eventually(&format!("a record for {filters:?}"), || {
            let records = self.records(filters)?;
            match records.iter().rev().find(|record| condition(record)) {
                Some(record) => Ok(record.clone()),
                None => bail!("none of {} fits: {records:#?}", records.len()),
            }
        })
    }

    /// Makes a change and waits until a generation newer than before is in force in
    /// kernel and proxy.
    pub fn change(&self, change: impl FnOnce(&Self) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let before = self.status()?["generation"].as_u64();
        change(self)?;
        eventually("the change is in force", || {
            let status = self.status()?;
            let now = status["generation"].as_u64();
            ensure!(
                now > before,
                "generation is still {now:?}: {:#}",
                status["problems"]
            );
            ensure!(
                status["proxyGeneration"].as_u64() == now,
                "the proxy lags behind"
            );
            Ok(())
        })
    }

    /// Waits for a problem whose message has this in it.
    pub fn problem(&self, text: impl Display) -> anyhow::Result<Value> {
        let text = text.to_string();
        eventually(&format!("a problem with `{text}`"), || {
            let status = self.status()?;
            let problems = status["problems"]
                .as_array()
                .context("no list of problems")?;
            let found = problems
                .iter()
                .find(|problem| problem.to_string().contains(&text));
            found
                .cloned()
                .with_context(|| format!("problems: {problems:#?}"))
        })
    }

    fn agent_log_file(&self) -> PathBuf {
        let world = self.dir.parent().unwrap_or(&self.dir);
        world.join("logs/node-agent.log")
    }

    /// Prints the end of every log of the world.
    pub(super) fn print_logs(&self) {
        const LINES: usize = 60;
        let Some(logs) = self.agent_log_file().parent().map(Path::to_owned) else {
            return;
        };
        for entry in fs::read_dir(logs).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let end = lines.len().saturating_sub(LINES);
            eprintln!(
                "--- {}\n{}",
                entry.path().display(),
                lines[end..].join("\n")
            );
        }
    }

    /// Lets the agent go on after this value is gone.
    pub(super) fn detach(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.detach();
        }
    }
}
