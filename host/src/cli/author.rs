//! `tidegate plugin new|wit|build|inspect|test|bench|keygen|sign`: for authors of filters. None of them asks an
//! agent.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_authoring::{
    Outcome, Stage, Subject,
    cases::{self, Case, Cases},
    contract, project, recorded,
    signing::{self, Lock},
};
use tidegate_contract::{Limits, World};

use super::{
    ask::{Output, print_json, print_text},
    table::Table,
};

/// What authors do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a folder with a filter to begin with: a crate that needs nothing but cargo
    New(New),
    /// Write the WIT files of the contract between host and filters
    Wit {
        /// Folder for them
        #[arg(default_value = "wit")]
        folder: PathBuf,
    },
    /// Build a filter's crate into a component
    Build(Build),
    /// Say what a component is, and whether an agent would take it
    Inspect {
        /// The component
        file: PathBuf,
        /// Public keys: say whether one of them signed it. Repeatable
        #[arg(long = "trust", value_name = "PUB")]
        trust: Vec<PathBuf>,
    },
    /// Ask a component what its cases say, as the proxy would. Exit code: 0 if all is as
    /// they say (or both versions decide alike), 1 if not
    Test(Test),
    /// Say what a component's answers cost, beside those of the built-in matcher in the same
    /// run
    Bench(Bench),
    /// Make a pair of keys: NAME.key signs and stays with you, NAME.pub is for
    /// `plugins.trustedKeys` of nodes. They are minisign's
    Keygen(Keygen),
    /// Sign a component: the signature is put beside it, as FILE.minisig
    Sign(Sign),
}

/// A pair of keys.
#[derive(Debug, Args)]
pub(super) struct Keygen {
    /// What its owner is called
    name: PathBuf,
    /// Whoever has the file may sign. Otherwise the terminal is asked for a password
    #[arg(long, conflicts_with = "password_file")]
    no_password: bool,
    /// A file whose first line is the password
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// A signature.
#[derive(Debug, Args)]
pub(super) struct Sign {
    /// The component
    file: PathBuf,
    /// The secret key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// A file whose first line is the key's password. Otherwise the terminal is asked, if the
    /// key has one
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// A line that is signed along. Otherwise it says when, and which file
    #[arg(long)]
    comment: Option<String>,
}

/// A new filter.
#[derive(Debug, Args)]
pub(super) struct New {
    /// Name of the plugin, the crate and the folder
    name: String,
    /// What it reads
    #[arg(long, value_enum, default_value_t = Kind::Http)]
    kind: Kind,
}

/// What a filter reads.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Requests of HTTP
    Http,
    /// Requests and responses of HTTP, with their bodies
    Exchange,
    /// Queries of DNS
    Dns,
    /// Bytes of TCP connections, in a protocol of your own
    Stream,
}

/// A crate to build.
#[derive(Debug, Args)]
pub(super) struct Build {
    /// Folder of the crate
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// File for the component; without it `NAME.wasm` in that folder
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,
}

/// A trial.
#[derive(Debug, Args)]
pub(super) struct Test {
    /// The component; without it the one that `build` made here
    file: Option<PathBuf>,
    /// What it must decide; without it `tests.yaml` beside the component
    #[arg(long, value_name = "FILE", conflicts_with = "recorded")]
    cases: Option<PathBuf>,
    /// Recorded traffic instead: lines of `tidegate observe -o json`
    #[arg(long, value_name = "FILE")]
    recorded: Option<PathBuf>,
    /// Configuration for recorded traffic, JSON
    #[arg(long, value_name = "JSON", requires = "recorded", default_value = "{}")]
    config: String,
    /// Another version: tell which cases the two decide otherwise
    #[arg(long, value_name = "COMPONENT")]
    against: Option<PathBuf>,
    /// Print the JSON Schema of `tests.yaml`, for editors, and nothing else
    #[arg(long, exclusive = true)]
    schema: bool,
}

/// What is measured.
#[derive(Debug, Args)]
pub(super) struct Bench {
    /// The component; without it the one that `build` made here
    file: Option<PathBuf>,
    /// What it is asked; without it `tests.yaml` beside the component
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
}

impl Command {
    pub(super) fn run(self, output: Output) -> anyhow::Result<ExitCode> {
        match self {
            Self::New(args) => args.run()?,
            Self::Wit { folder } => {
                project::write_below(&folder, contract::WIT)?;
                for (path, _) in contract::WIT {
                    print_text(&format!("{}\n", folder.join(path).display()))?;
                }
            }
            Self::Build(args) => args.run()?,
            Self::Inspect { file, trust } => inspect(&file, &trust, output)?,
            Self::Test(args) => return args.run(output),
            Self::Bench(args) => args.run(output)?,
            Self::Keygen(args) => args.run()?,
            Self::Sign(args) => args.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl New {
    fn run(self) -> anyhow::Result<()> {
        let kind = match self.kind {
            Kind::Http => project::Kind::Http,
            Kind::Exchange => project::Kind::Exchange,
            Kind::Dns => project::Kind::Dns,
            Kind::Stream => project::Kind::Stream,
        };
        let files = project::files(&self.name, kind)?;
        project::write(Path::new(&self.name), &files)?;
        let name = &self.name;
        print_text(&format!(
            "{name}/ is made. Next:\n\
             \x20 cd {name}\n\
             \x20 cargo test               # its logic, natively\n\
             \x20 tidegate plugin build    # {name}.wasm\n\
             \x20 tidegate plugin test     # asks it what tests.yaml says, as the proxy would\n\
             \x20 cp {name}.wasm /etc/tidegate/plugins/\n"
        ))?;
        Ok(())
    }
}

impl Build {
    fn run(self) -> anyhow::Result<()> {
        let built = tidegate_authoring::build(&self.folder, self.output_file.as_deref())?;
        print_text(&format!(
            "{} ({} KiB), by {}\n",
            built.file.display(),
            built.size.div_ceil(1024),
            built.toolchain
        ))?;
        Ok(())
    }
}

impl Keygen {
    fn run(self) -> anyhow::Result<()> {
        let lock = match self.no_password {
            true => Lock::Open,
            false => lock(self.password_file.as_deref())?,
        };
        let [key, public] =
            signing::make_keys(&self.name, lock)?.map(|path| path.display().to_string());
        print_text(&format!(
            "{key} signs: keep it where no node can reach it.\n\
             {public} is for nodes: name it under `plugins.trustedKeys` in tidegate.yaml.\n"
        ))?;
        Ok(())
    }
}

/// How a key is kept that has a password.
fn lock(file: Option<&Path>) -> anyhow::Result<Lock> {
    let Some(file) = file else {
        return Ok(Lock::Ask);
    };
    let text = std::fs::read_to_string(file);
    let text = text.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Lock::Password(
        text.lines().next().unwrap_or_default().to_owned(),
    ))
}

impl Sign {
    fn run(self) -> anyhow::Result<()> {
        let lock = lock(self.password_file.as_deref())?;
        let beside = signing::sign(&self.file, &self.key, lock, self.comment.as_deref())?;
        print_text(&format!("{}\n", beside.display()))?;
        Ok(())
    }
}

/// What `plugin inspect` prints with `-o json`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Inspected {
    /// Name rules use.
    name: String,
    /// Its own version.
    version: String,
    /// World of the contract it is written for.
    world: String,
    /// Digest of the file, `sha256:…`.
    digest: String,
    /// Host interfaces it may call.
    capabilities: Vec<String>,
    /// Limits it runs within.
    limits: InspectedLimits,
    /// Size of the file, bytes.
    size_bytes: u64,
    /// Size of its compiled code, bytes.
    compiled_bytes: usize,
    /// How long examining and compiling it took.
    compile_seconds: f64,
    /// Which of the keys given with `--trust` signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    signed_by: Option<String>,
}

/// Limits of an instance; see `docs/limits.md`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct InspectedLimits {
    memory_bytes: u64,
    total_memory_bytes: u64,
    call_seconds: f64,
    configure_seconds: f64,
    share_percent: u8,
    calls_per_instance: u32,
    stream_buffer_bytes: u64,
}

impl From<Limits> for InspectedLimits {
    fn from(limits: Limits) -> Self {
        Self {
            memory_bytes: limits.memory_bytes,
            total_memory_bytes: limits.total_memory_bytes,
            call_seconds: seconds(limits.call_ms),
            configure_seconds: seconds(limits.configure_ms),
            share_percent: limits.share_percent,
            calls_per_instance: limits.calls_per_instance,
            stream_buffer_bytes: limits.stream_buffer_bytes,
        }
    }
}

fn seconds(milliseconds: u64) -> f64 {
    std::time::Duration::from_millis(milliseconds).as_secs_f64()
}

fn inspect(file: &Path, trust: &[PathBuf], output: Output) -> anyhow::Result<()> {
    let signed_by = match trust {
        [] => None,
        keys => Some(signing::judge(file, keys)?.map_err(anyhow::Error::msg)?),
    };
    let subject = Subject::admit(file)?;
    let info = &subject.admitted.info;
    let inspected = Inspected {
        name: subject.admitted.name.clone(),
        version: info.version.clone(),
        world: info.world.name().to_owned(),
        digest: info.digest.clone(),
        capabilities: info.capabilities.clone(),
        limits: info.limits.into(),
        size_bytes: std::fs::metadata(file)?.len(),
        compiled_bytes: subject.compiled_size(),
        compile_seconds: subject.compiled_in.as_secs_f64(),
        signed_by,
    };
    match output {
        Output::Json => print_json(&inspected)?,
        Output::Table => print_text(&inspected.text())?,
    }
    Ok(())
}

impl Inspected {
    fn text(&self) -> String {
        let limits = &self.limits;
        let capabilities = match self.capabilities.as_slice() {
            [] => "none: it can call nothing of the host".to_owned(),
            some => some.join(", "),
        };
        let rows = [
            ("Name", self.name.clone()),
            ("Version", self.version.clone()),
            ("World", self.world.clone()),
            ("Capabilities", capabilities),
            ("Digest", self.digest.clone()),
            ("Size", format!("{} KiB", self.size_bytes.div_ceil(1024))),
            (
                "Compiled",
                format!(
                    "{} KiB in {:.0} ms",
                    self.compiled_bytes.div_ceil(1024),
                    self.compile_seconds * 1_000.0
                ),
            ),
            (
                "Limits",
                format!(
                    "{:.0} ms a call, {:.0} ms to configure, {} % of a thread, {} MiB an instance, \
                     {} MiB together",
                    limits.call_seconds * 1_000.0,
                    limits.configure_seconds * 1_000.0,
                    limits.share_percent,
                    limits.memory_bytes >> 20,
                    limits.total_memory_bytes >> 20,
                ),
            ),
            (
                "Signed by",
                self.signed_by
                    .clone()
                    .unwrap_or_else(|| "not asked: name keys with --trust".to_owned()),
            ),
            (
                "Verdict",
                "an agent would take it; a configuration is tried when it is bound".to_owned(),
            ),
        ];
        rows.map(|(key, value)| format!("{key:<14}{value}\n"))
            .concat()
    }
}

/// What `plugin test` prints with `-o json`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// The component, `name@version`.
    plugin: String,
    /// What it was compared with; absent if with what cases expect.
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<String>,
    /// Cases that are as they should be.
    passed: usize,
    /// Cases that are not.
    failed: usize,
    /// All cases.
    cases: Vec<CaseReport>,
}

/// One case.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct CaseReport {
    /// What it is called.
    name: String,
    /// Where it is written, `file:line`.
    at: String,
    /// What became of each message.
    outcomes: Vec<String>,
    /// What is not as it should be, with its place in the case.
    differences: Vec<String>,
}

impl Test {
    fn run(self, output: Output) -> anyhow::Result<ExitCode> {
        if self.schema {
            print_text(&format!("{:#}\n", cases::schema().to_value()))?;
            return Ok(ExitCode::SUCCESS);
        }
        let file = component(self.file)?;
        let mut subject = Subject::admit(&file)?;
        let cases = match (&self.recorded, &self.cases) {
            (Some(recorded), _) => {
                serde_json::from_str::<serde_json::Value>(&self.config)
                    .context("--config: not JSON")?;
                recorded::read(recorded, &self.config, &subject.admitted)?
            }
            (None, cases) => read_cases(cases.as_deref(), &file)?,
        };
        let mut against = self.against.as_deref().map(Subject::admit).transpose()?;
        let mut report = Report {
            plugin: label(&subject),
            against: against.as_ref().map(label),
            passed: 0,
            failed: 0,
            cases: Vec::new(),
        };
        for case in &cases.cases {
            let case = try_case(&cases, case, &mut subject, against.as_mut())?;
            match case.differences.is_empty() {
                true => report.passed += 1,
                false => report.failed += 1,
            }
            report.cases.push(case);
        }
        match output {
            Output::Json => print_json(&report)?,
            Output::Table => print_text(&report.text())?,
        }
        Ok(match report.failed {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        })
    }
}

fn label(subject: &Subject) -> String {
    format!(
        "{}@{}",
        subject.admitted.name, subject.admitted.info.version
    )
}

fn try_case(
    cases: &Cases,
    case: &Case,
    subject: &mut Subject,
    against: Option<&mut Subject>,
) -> anyhow::Result<CaseReport> {
    let at = format!("{}:{}", cases.file, case.line);
    let outcomes = subject.run(case).with_context(|| at.clone())?;
    let differences = match against {
        None => said(case.said.judge(&outcomes)),
        Some(other) => {
            let before = other.run(case).with_context(|| at.clone())?;
            changed(&before, &outcomes)
        }
    };
    let outcomes = outcomes.iter().map(|(_, outcome)| outcome.to_string());
    Ok(CaseReport {
        name: case.name.clone(),
        at,
        outcomes: outcomes.collect(),
        differences,
    })
}

fn said(differences: Vec<(Stage, String)>) -> Vec<String> {
    let lines = differences.into_iter();
    lines
        .map(|(stage, text)| format!("{stage}: {text}"))
        .collect()
}

/// What the other version did otherwise.
fn changed(before: &[(Stage, Outcome)], after: &[(Stage, Outcome)]) -> Vec<String> {
    let longest = before.len().max(after.len());
    let pairs = (0..longest).map(|index| (before.get(index), after.get(index)));
    let differs = pairs.filter(|(before, after)| before != after);
    let text = |outcome: Option<&(Stage, Outcome)>| match outcome {
        Some((_, outcome)) => outcome.to_string(),
        None => "nothing".to_owned(),
    };
    differs
        .map(|(before, after)| {
            let stage = before.or(after).map(|(stage, _)| stage.to_string());
            let stage = stage.unwrap_or_default();
            format!("{stage}: was {}; is {}", text(before), text(after))
        })
        .collect()
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        for case in &self.cases {
            if case.differences.is_empty() {
                text += &format!("ok      {}\n", case.name);
                continue;
            }
            let word = match self.against {
                Some(_) => "CHANGED",
                None => "FAILED ",
            };
            text += &format!("{word} {} ({})\n", case.name, case.at);
            for difference in &case.differences {
                text += &format!("        {difference}\n");
            }
        }
        text + &match &self.against {
            None => format!(
                "{}: {} passed, {} failed\n",
                self.plugin, self.passed, self.failed
            ),
            Some(against) => format!(
                "{} decides {} of {} cases otherwise than {against}\n",
                self.plugin,
                self.failed,
                self.cases.len()
            ),
        }
    }
}

/// What `plugin bench` prints with `-o json`, for each case.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cost {
    /// The case.
    name: String,
    /// Answers that were timed.
    calls: usize,
    /// Half of them took no longer.
    p50_seconds: f64,
    /// All but one of a hundred took no longer.
    p99_seconds: f64,
    /// What half of the built-in matcher's answers take to the same message, asked in turn.
    baseline_p50_seconds: f64,
}

/// Answers in a row, and how often the two take turns. The first row is not counted.
const ROW: usize = 2_000;
const ROWS: usize = 20;

impl Bench {
    fn run(self, output: Output) -> anyhow::Result<()> {
        let file = component(self.file)?;
        let cases = read_cases(self.cases.as_deref(), &file)?;
        let mut subject = Subject::admit(&file)?;
        let (name, config) = match subject.admitted.info.world {
            World::HttpFilter | World::ExchangeFilter => {
                ("http", r#"{"rules":[{"method":"NONE"},{}]}"#)
            }
            World::DnsFilter => ("dns", r#"{"patterns":[{"matchPattern":"*"}]}"#),
            World::ProxyWasm => anyhow::bail!(
                "what a filter of exchanges costs is its sessions' cost; measure it with traffic: \
                 `tidegate plugin list` shows what its calls cost"
            ),
            World::StreamFilter => anyhow::bail!(
                "a stream filter's answers depend on all that was said before; measure it with \
                 traffic: `tidegate plugin list` shows what its calls cost"
            ),
        };
        let mut baseline = Subject::built_in(name)?;
        let mut costs = Vec::new();
        for case in &cases.cases {
            let at = || format!("{}:{}", cases.file, case.line);
            let outcomes = subject.run(case).with_context(at)?;
            if matches!(outcomes.first(), Some((_, Outcome::Failed(_)))) {
                // It gives no answer that could be timed.
                continue;
            }
            let plain = Case {
                config: config.to_owned(),
                ..case.clone()
            };
            costs.push(cost(&mut subject, case, &mut baseline, &plain)?);
        }
        match output {
            Output::Json => print_json(&costs)?,
            Output::Table => print_text(&costs_table(name, &costs))?,
        }
        Ok(())
    }
}

fn cost(
    subject: &mut Subject,
    case: &Case,
    baseline: &mut Subject,
    plain: &Case,
) -> anyhow::Result<Cost> {
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for row in 0..=ROWS {
        let timed = (subject.time(case, ROW)?, baseline.time(plain, ROW)?);
        if row > 0 {
            own.extend(timed.0);
            others.extend(timed.1);
        }
    }
    own.sort_unstable();
    others.sort_unstable();
    let at = |times: &[Duration], percent: usize| {
        let time = times.get(times.len() * percent / 100);
        time.map_or(0.0, Duration::as_secs_f64)
    };
    Ok(Cost {
        name: case.name.clone(),
        calls: own.len(),
        p50_seconds: at(&own, 50),
        p99_seconds: at(&own, 99),
        baseline_p50_seconds: at(&others, 50),
    })
}

fn costs_table(baseline: &str, costs: &[Cost]) -> String {
    let ratio = format!("P50 / BUILT-IN {}", baseline.to_uppercase());
    let mut table = Table::new(&["CASE", "CALLS", "P50 US", "P99 US", &ratio]);
    let micros = |seconds: f64| format!("{:.2}", seconds * 1e6);
    for cost in costs {
        table.row([
            cost.name.clone(),
            cost.calls.to_string(),
            micros(cost.p50_seconds),
            micros(cost.p99_seconds),
            format!("{:.2}", cost.p50_seconds / cost.baseline_p50_seconds),
        ]);
    }
    table.text()
}

/// The cases that were named, or those beside the component.
fn read_cases(named: Option<&Path>, component: &Path) -> anyhow::Result<Cases> {
    match named {
        Some(cases) => cases::read(cases),
        None => cases::read(&component.with_file_name("tests.yaml")),
    }
}

/// The component that was named, or the one that `build` makes here.
fn component(named: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(file) = named {
        return Ok(file);
    }
    let file = tidegate_authoring::component_of(Path::new("."))
        .context("name a component, or go to the folder of a filter's project")?;
    anyhow::ensure!(
        file.is_file(),
        "there is no {}; `tidegate plugin build` makes it",
        file.display()
    );
    Ok(file)
}
