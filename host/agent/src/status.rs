//! Kernel and proxy as readers see them.

use std::collections::BTreeMap;
use tidegate_policy::compiled::Generation;

use tidegate_api::Numbers;
use tidegate_contract::{BindingStats, Concern, Note, ProxyStats, units::Volume};
use tidegate_control::{
    bindings,
    standing::{AttachmentState, ProxyState},
    view::{AttachmentView, DatapathView, ProxyView, TableView, View},
};
use tidegate_datapath::{Counters, Datapath, DatapathError, DatapathStatus, Reader};
use tidegate_ebpf_shared::{event::Counter, reason};
use tidegate_supervisor::ProxyStatus;
use tokio::sync::watch;

/// What the view says of the datapath, apart from what is counted, and endpoints that are
/// declared but not there, with what is missing.
pub(super) fn datapath(datapath: &Datapath) -> (DatapathView, BTreeMap<String, String>) {
    let status = datapath.status();
    let waiting = status.attach.waiting.iter();
    let not_ready = waiting
        .filter_map(|waiting| Some((waiting.endpoint.clone()?, waiting.missing.clone())))
        .collect();
    let view = DatapathView {
        attachments: attachments(&status),
        notes: status.notes,
        missing: status.missing,
        reattached: status.restored,
        ..DatapathView::default()
    };
    (view, not_ready)
}

/// What is counted, read when somebody asks.
pub(super) struct Counted {
    pub(super) tables: Reader,
    pub(super) stats: watch::Receiver<ProxyStats>,
}

impl Numbers for Counted {
    fn fill(&self, view: &mut View) {
        view.proxy.stats = self.stats.borrow().clone();
        view.bindings = bindings::view(&view.proxy.stats.bindings, &view.compiled);
        // What cannot be read becomes a note.
        if let Err(error) = fill(&mut view.datapath, &self.tables) {
            view.datapath.notes.push(Note::new(
                Concern::Node,
                format!("cannot read the kernel's numbers: {error}"),
            ));
        }
    }
}

/// What of the proxy's counters says how it stands, and not only how often something
/// happened: the view is renewed when it changes.
pub(super) fn standing(stats: &ProxyStats) -> (Generation, Vec<BindingStats>) {
    let uncounted = |row: &BindingStats| BindingStats {
        calls: 0,
        failures: 0,
        held_back: 0,
        peers_held_back: 0,
        ..row.clone()
    };
    let bindings = stats.bindings.iter().map(uncounted);
    (stats.generation, bindings.collect())
}

/// The proxy as readers see it: what its keeper knows, and its own counters.
pub(super) fn proxy(status: &ProxyStatus, stats: &ProxyStats) -> ProxyView {
    let state = match status {
        ProxyStatus {
            pid: 0,
            problem: Some(problem),
            ..
        } => ProxyState::Gone(Some(problem.clone())),
        ProxyStatus { pid: 0, .. } => ProxyState::Gone(None),
        ProxyStatus {
            silence: Some(silence),
            ..
        } => ProxyState::Hanging(silence.clone()),
        ProxyStatus { serving: true, .. } => ProxyState::Serving,
        _ => ProxyState::Starting,
    };
    ProxyView {
        pid: status.pid,
        state,
        starts: status.starts,
        hung: status.hung,
        other_binary: runs_other_binary(status.pid),
        stats: stats.clone(),
    }
}

/// Does a process run another file than this one? The kernel keeps a replaced binary for
/// those who run it, so device and inode tell. What cannot be read is not claimed.
fn runs_other_binary(pid: u32) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let file = |process: &str| {
        let file = std::fs::metadata(format!("/proc/{process}/exe")).ok()?;
        Some((file.dev(), file.ino()))
    };
    match (file("self"), file(&pid.to_string())) {
        (Some(own), Some(other)) => own != other,
        _ => false,
    }
}

fn fill(view: &mut DatapathView, tables: &Reader) -> Result<(), DatapathError> {
    let counters = tables.counters()?;
    view.counters = by_name(&counters);
    view.drops = counters
        .drops
        .iter()
        .map(|(reason, count)| (reason::phrase(*reason).to_owned(), volume(*count)))
        .collect();
    view.deny_list = tables
        .deny_counts()?
        .into_iter()
        .map(|deny| (deny.net.to_string(), volume(deny.count)))
        .collect();
    view.tables = tables
        .tables()?
        .into_iter()
        .map(|table| TableView {
            name: table.name.to_owned(),
            entries: table.entries,
            limit: u64::from(table.limit),
        })
        .collect();
    Ok(())
}

fn attachments(status: &DatapathStatus) -> Vec<AttachmentView> {
    let mut rows = Vec::new();
    for program in &status.programs {
        for target in &program.attached {
            let xdp = status
                .xdp
                .iter()
                .find(|xdp| program.hook == "xdp" && xdp.device == *target);
            rows.push(AttachmentView {
                program: program.name.clone(),
                target: target.clone(),
                mode: match xdp {
                    Some(xdp) => format!("xdp {}", xdp.mode),
                    None => program.hook.to_owned(),
                },
                state: match xdp.and_then(|xdp| xdp.reason.as_ref()) {
                    Some(reason) => AttachmentState::NotNative(reason.clone()),
                    None => AttachmentState::Attached,
                },
            });
        }
    }
    rows
}

fn volume(counter: Counter) -> Volume {
    Volume {
        packets: counter.packets,
        bytes: counter.bytes,
    }
}

fn by_name(counters: &Counters) -> BTreeMap<String, Volume> {
    let volumes = [
        ("forwarded", counters.forwarded),
        ("redirected", counters.redirected),
        ("fast lane", counters.fast_lane),
    ];
    let counts = [
        ("flows created", counters.flows_created),
        ("flow insert failed", counters.flow_insert_failed),
        ("events lost", counters.events_lost),
        ("denies lost", counters.denies_lost),
        ("denies suppressed", counters.denies_suppressed),
        ("rehearsed suppressed", counters.rehearsed_suppressed),
        ("translated", counters.translated),
        ("sockets steered", counters.sockets_steered),
        ("sockets denied", counters.sockets_denied),
        ("listener picked", counters.listener_picked),
    ];
    volumes
        .into_iter()
        .map(|(name, counter)| (name.to_owned(), volume(counter)))
        .chain(
            counts
                .into_iter()
                .map(|(name, packets)| (name.to_owned(), Volume { packets, bytes: 0 })),
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_binary_is_told_from_the_own_one() {
        assert!(!runs_other_binary(std::process::id()));
        assert!(!runs_other_binary(0), "no process, no claim");
        let mut other = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep");
        let told = runs_other_binary(other.id());
        other.kill().expect("kill");
        other.wait().expect("wait");
        assert!(told);
    }
}
