//! `tidegate status`

use std::{
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};
use tidegate_policy::compiled::Generation;

use tidegate_contract::Note;
use tidegate_control::{
    standing::{AttachmentState, EndpointState, PluginState},
    view::{DatapathView, PolicyView, ProblemView, TableView, View},
};
use tidegate_policy::Enforcement;

/// From this share of its limit on a table is worth a line of its own.
const ALARM_PERCENT: u64 = 70;

pub(super) fn render(view: &View) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let mut out = String::new();
    let mut line = |key: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{key:<12} {value}");
    };
    line("node", format!("{} (tidegate {})", view.node, view.version));
    line(
        "agent",
        format!("up {}", duration(now.saturating_sub(view.started_s))),
    );
    line(
        "generation",
        match (view.generation, view.proxy_generation) {
            (Generation(0), _) => "none in force yet".into(),
            (kernel, proxy) if kernel == proxy => format!("{kernel} in kernel and proxy"),
            (kernel, proxy) => format!("{kernel} in the kernel, {proxy} in the proxy"),
        },
    );
    let obstacles = view.obstacles().len();
    line(
        "ready",
        match obstacles {
            0 => "yes".into(),
            1 => "NO, for the reason below".into(),
            n => format!("NO, for the {n} reasons below"),
        },
    );
    let p = &view.proxy;
    line(
        "proxy",
        format!(
            "{} (pid {}, {}{}), {} of {} connections ({} evicted, {} turned away), \
             {} allowed, {} denied, {} failed",
            p.state,
            p.pid,
            match p.starts {
                0 => "taken over from the agent before".to_owned(),
                1 => "started once".to_owned(),
                n => format!("started {n} times"),
            },
            match p.hung {
                0 => String::new(),
                hung => format!(", {hung} of them because it hung"),
            },
            p.stats.connections,
            p.stats.connection_limit,
            p.stats.evicted,
            p.stats.turned_away,
            p.stats.allowed,
            p.stats.denied,
            p.stats.failed
        ),
    );
    let ready = view.endpoints.iter();
    let ready = ready.filter(|e| e.state == EndpointState::Ready).count();
    line(
        "endpoints",
        format!("{ready} of {} ready", view.endpoints.len()),
    );
    line("policies", policies(view));
    line("services", view.services.len().to_string());
    let active = view.plugins.iter();
    let active = active.filter(|p| p.state == PluginState::Active).count();
    line(
        "plugins",
        format!("{active} active of {}", view.plugins.len()),
    );
    line("attached", attached(&view.datapath));
    line("tables", tables(&view.datapath.tables));
    line("drops", drops(&view.datapath));
    for why in view.other_obstacles() {
        let _ = writeln!(out, "\nnot ready: {why}");
    }
    if p.other_binary {
        let _ = writeln!(
            out,
            "\nthe proxy runs another binary than the agent (version {}): it was started before an \
             upgrade; when its L7 connections may be reset, `kill {}` has the agent start the new one",
            view.version, p.pid
        );
    }
    for e in view
        .endpoints
        .iter()
        .filter(|e| e.state != EndpointState::Ready)
    {
        let _ = writeln!(out, "\nendpoint {}: {}", e.name, e.state);
    }
    for a in &view.datapath.attachments {
        // It works, only slower.
        if let AttachmentState::NotNative(why) = &a.state {
            let (program, target, mode) = (&a.program, &a.target, &a.mode);
            let _ = writeln!(
                out,
                "\nnote: {program} on {target} ({mode}): not native: {why}"
            );
        }
    }
    // What is missing is a reason above.
    let is_told = |note: &&Note| view.datapath.missing.contains(&note.message);
    for note in view.datapath.notes.iter().filter(|note| !is_told(note)) {
        let _ = writeln!(out, "\nnote: {note}");
    }
    for what in wrong(view) {
        let _ = writeln!(out, "\n{what}");
    }
    out
}

/// How many policies there are, and whether they are enforced at all.
fn policies(view: &View) -> String {
    let enforced = match view.policy_mode.as_str() {
        "audit" => " (AUDIT MODE: what they deny passes and is only reported)",
        "never" => " (NOT ENFORCED: mode is never)",
        "always" => " (mode always: what nothing allows is denied everywhere)",
        _ => "",
    };
    let in_shadow = |policy: &&PolicyView| policy.enforcement == Enforcement::Shadow;
    let shadow = match view.policies.iter().filter(in_shadow).count() {
        0 => String::new(),
        several => format!(", {several} of them in shadow: only told of"),
    };
    format!("{}{shadow}{enforced}", view.policies.len())
}

/// What is wrong with the files in the folders, a line each.
pub(super) fn wrong(view: &View) -> impl Iterator<Item = String> {
    let plugins = view.plugins.iter().filter_map(|p| {
        let reason = p.reason.as_ref()?;
        Some(format!("plugin {} ({}): {reason}", p.name, p.state))
    });
    let files = view.problems.iter().map(|p| {
        let last_good = if p.last_good {
            " [its last good version stays in use]"
        } else {
            ""
        };
        let unready = if p.unready { "not ready: " } else { "" };
        let severity = &p.severity;
        format!("{unready}{severity}: {}{}{last_good}", place(p), p.message)
    });
    plugins.chain(files)
}

/// `file:line:column: `, as far as known; editors jump to it.
fn place(problem: &ProblemView) -> String {
    match (problem.file.as_str(), problem.line) {
        ("", _) => String::new(),
        (file, 0) => format!("{file}: "),
        (file, line) => format!("{file}:{line}:{}: ", problem.column),
    }
}

fn attached(d: &DatapathView) -> String {
    let ok = d.attachments.len();
    let modes: std::collections::BTreeSet<&str> = d
        .attachments
        .iter()
        .map(|a| a.mode.as_str())
        .filter(|m| m.starts_with("xdp"))
        .collect();
    let modes = modes.into_iter().collect::<Vec<_>>().join(", ");
    let modes = if modes.is_empty() {
        modes
    } else {
        format!("; {modes}")
    };
    format!("{ok} of {} programs{modes}", d.attachments.len())
}

fn tables(tables: &[TableView]) -> String {
    let percent = |t: &TableView| (t.entries * 100).checked_div(t.limit).unwrap_or(0);
    let full: Vec<String> = tables
        .iter()
        .filter(|t| percent(t) >= ALARM_PERCENT)
        .map(|t| format!("{} {}% of {}", t.name, percent(t), t.limit))
        .collect();
    if full.is_empty() {
        format!(
            "all {} below {ALARM_PERCENT}% of their limits",
            tables.len()
        )
    } else {
        full.join(", ")
    }
}

fn drops(d: &DatapathView) -> String {
    let all = d.drops.iter().filter(|(_, volume)| volume.packets > 0);
    let all: Vec<String> = all
        .map(|(reason, volume)| format!("{reason}: {}", volume.packets))
        .collect();
    if all.is_empty() {
        "none".into()
    } else {
        all.join(", ")
    }
}

fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, m) => format!("{m} min"),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_file_and_a_full_table_are_hard_to_miss() {
        let mut view = View {
            generation: Generation(2),
            proxy_generation: Generation(1),
            ..View::default()
        };
        view.datapath.tables = vec![
            TableView {
                name: "FLOWS".into(),
                entries: 95,
                limit: 100,
            },
            TableView {
                name: "POLICY".into(),
                entries: 1,
                limit: 100,
            },
        ];
        view.problems.push(ProblemView {
            file: "policies/a.yaml".into(),
            severity: "error".into(),
            line: 3,
            column: 5,
            message: "unknown key `ingres`; did you mean `ingress`?".into(),
            last_good: true,
            unready: false,
            since_s: 0,
        });
        view.problems.push(ProblemView {
            file: "policies".into(),
            severity: "error".into(),
            message: "there is no folder /x".into(),
            unready: true,
            ..ProblemView::default()
        });
        view.datapath.missing.push("no deny list on up0".into());
        view.datapath.notes.push(Note::new(
            tidegate_contract::Concern::Node,
            "no deny list on up0",
        ));
        view.proxy.other_binary = true;
        view.proxy.pid = 4711;
        let text = render(&view);
        for part in [
            "the proxy runs another binary than the agent",
            "`kill 4711`",
            "2 in the kernel, 1 in the proxy",
            "FLOWS 95% of 100",
            "error: policies/a.yaml:3:5: unknown key `ingres`",
            "[its last good version stays in use]",
        ] {
            assert!(text.contains(part), "missing {part:?} in\n{text}");
        }
        assert!(!text.contains("POLICY"), "{text}");
        for once in [
            "not ready: error: policies: there is no folder /x\n",
            "not ready: no deny list on up0\n",
        ] {
            assert!(text.contains(once), "no {once:?} in\n{text}");
        }
        for what in ["there is no folder /x", "no deny list on up0"] {
            assert_eq!(text.matches(what).count(), 1, "said once:\n{text}");
        }
    }

    #[test]
    fn durations_read_like_people_say_them() {
        for (seconds, text) in [
            (5, "5 s"),
            (65, "1 min"),
            (3_700, "1 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
