//! What the documentation tells people to write and to type is taken by the binary.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tidegate_tests::harness::tag;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// README and the pages of `docs/`: name and text.
fn pages() -> Result<Vec<(String, String)>> {
    let mut files = vec![repository().join("README.md")];
    for entry in fs::read_dir(repository().join("docs"))? {
        files.push(entry?.path());
    }
    files.retain(|file| file.extension().is_some_and(|ext| ext == "md"));
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let name = file.file_name().unwrap_or_default();
            let text = fs::read_to_string(&file)?;
            Ok((name.to_string_lossy().into_owned(), text))
        })
        .collect()
}

/// A page taken apart: fenced blocks with their language, and what stands between
/// backticks elsewhere.
#[derive(Default)]
struct Page {
    blocks: Vec<(String, String)>,
    spans: Vec<String>,
}

fn take_apart(text: &str) -> Page {
    let mut page = Page::default();
    let mut prose = String::new();
    let mut block: Option<(usize, String, String)> = None;
    for line in text.lines() {
        let bare = line.trim_start();
        let indent = line.len() - bare.len();
        match (&mut block, bare.strip_prefix("```")) {
            (None, Some(language)) => block = Some((indent, language.to_owned(), String::new())),
            (None, None) => {
                prose.push_str(line);
                prose.push('\n');
            }
            (Some(_), Some(_)) => {
                if let Some((_, language, text)) = block.take() {
                    page.blocks.push((language, text));
                }
            }
            (Some((indent, _, text)), None) => {
                text.push_str(line.get(*indent..).unwrap_or_default());
                text.push('\n');
            }
        }
    }
    let spans = prose.split('`').skip(1).step_by(2);
    page.spans = spans
        .map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    page
}

fn tidegate() -> Result<Command> {
    let binary = match std::env::var_os("TIDEGATE_BIN") {
        Some(binary) => binary.into(),
        None => tag::sibling("tidegate")?,
    };
    let mut command = Command::new(binary);
    // No agent is asked: whether a command can be read is known before that.
    command.env("TIDEGATE_SOCKET", "/nonexistent/agent.sock");
    Ok(command)
}

#[test]
fn what_the_pages_tell_to_write_is_accepted() -> Result<()> {
    let mut documents = 0;
    for (name, text) in pages()? {
        let folder = tempfile::tempdir()?;
        for below in ["policies", "services", "endpoints", "plugins"] {
            fs::create_dir(folder.path().join(below))?;
        }
        for (built, dropped) in [("bot-filter", "bot-filter"), ("redis-filter", "redis")] {
            let examples = repository().join("target/artifacts/examples");
            let built = examples.join(format!("{built}.wasm"));
            if built.exists() {
                let dropped = format!("plugins/{dropped}.wasm");
                fs::copy(built, folder.path().join(dropped))?;
            }
        }
        let mut main = String::new();
        let mut found = 0;
        let blocks = take_apart(&text).blocks.into_iter();
        for (_, yaml) in blocks.filter(|(language, _)| language == "yaml") {
            // The operator's word on a plugin has no kind; `plugins` tests read it.
            if !yaml.contains("apiVersion:") && !yaml.contains("node:\n") {
                continue;
            }
            found += 1;
            let below = match () {
                () if yaml.contains("kind: Endpoint\n") => "endpoints",
                () if yaml.contains("kind: Service\n") => "services",
                () if yaml.contains("apiVersion:") => "policies",
                () => {
                    ensure!(main.is_empty(), "{name}: two configurations");
                    main = yaml;
                    continue;
                }
            };
            fs::write(folder.path().join(format!("{below}/{found}.yaml")), yaml)?;
        }
        if found == 0 {
            continue;
        }
        documents += found;
        let file = folder.path().join("tidegate.yaml");
        if !main.is_empty() {
            // Where the hierarchy is mounted is each machine's affair.
            fs::write(
                &file,
                main.replace("cgroup: /sys/fs/cgroup", "cgroup: none"),
            )?;
            let shown = tidegate()?
                .args(["config", "effective", "-c"])
                .arg(&file)
                .output()?;
            let error = String::from_utf8_lossy(&shown.stderr);
            ensure!(shown.status.success(), "{name}: {error}\n{main}");
        }
        // The paths of an example are another machine's.
        let state = folder.path().join("state");
        fs::create_dir(&state)?;
        fs::write(&file, format!("node:\n  stateDir: {}\n", state.display()))?;
        let checked = tidegate()?
            .args(["config", "check", "-o", "json", "-c"])
            .arg(&file)
            .output()?;
        let answer: Value = serde_json::from_slice(&checked.stdout)
            .with_context(|| String::from_utf8_lossy(&checked.stderr).into_owned())?;
        let problems = answer["problems"].as_array().context("no problems")?;
        let errors: Vec<_> = problems
            .iter()
            .filter(|p| p["severity"] == "error")
            .collect();
        ensure!(errors.is_empty(), "{name}: {errors:#?}");
    }
    ensure!(documents >= 8, "only {documents} documents found");
    Ok(())
}

#[test]
fn what_the_pages_tell_to_type_can_be_read() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut commands = 0;
    for (name, text) in pages()? {
        let page = take_apart(&text);
        let console = page
            .blocks
            .iter()
            .filter(|(language, _)| language == "console");
        let typed = console.flat_map(|(_, text)| text.lines());
        let typed = typed.filter_map(|line| line.trim_start().strip_prefix("$ "));
        let spans = page.spans.iter().map(String::as_str);
        for line in typed.chain(spans) {
            let Some(line) = line.strip_prefix("tidegate ") else {
                continue;
            };
            let Some(words) = words(line) else { continue };
            commands += 1;
            let run = |more: &[&str]| -> Result<_> {
                let mut command = tidegate()?;
                command.args(&words).args(more).current_dir(folder.path());
                Ok(command.output()?)
            };
            // These would do something.
            let does = ["run", "cleanup"].contains(&words[0].as_str());
            let mut output = run(if does { &["--help"] } else { &[] })?;
            // 2: the words themselves are wrong, or some are left out where a command is only
            // spoken of.
            if output.status.code() == Some(2) {
                output = run(&["--help"])?;
            }
            let error = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.code() != Some(2),
                "{name}: `tidegate {line}`: {error}"
            );
        }
    }
    ensure!(commands >= 15, "only {commands} commands found");
    Ok(())
}

/// The words of a command line up to what its shell does with its output; `None` if it
/// only shows a form (`status|observe`, `…`). What stands in brackets may be left out.
fn words(line: &str) -> Option<Vec<String>> {
    let line = line.split([';', '#', '>']).next()?;
    let line = match line.split_once(" | ") {
        Some((first, _)) => first,
        None => line,
    };
    if line.contains('|') || line.contains('…') {
        return None;
    }
    let words = line
        .split_whitespace()
        .filter(|word| !word.starts_with('['));
    let words: Vec<String> = words
        .map(|word| word.trim_matches('\'').to_owned())
        .collect();
    (!words.is_empty()).then_some(words)
}
