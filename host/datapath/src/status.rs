//! What runs where, and what an operator should know about it.

use serde::Serialize;
use tidegate_contract::{Concern, Note};
use tidegate_ebpf_shared::LAYOUT_VERSION;
use tidegate_policy::compiled::Generation;

use super::{AttachReport, Datapath, KernelFeature, XdpStatus, kernel_features};

/// The kernel side of this node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DatapathStatus {
    /// Active generation; 0 before the first.
    pub generation: Generation,
    /// Layout of the tables, part of every pin path.
    pub layout: u32,
    /// Folder with the pins.
    pub pins: String,
    /// Programs, and where they run.
    pub programs: Vec<ProgramStatus>,
    /// The deny list on each outside device.
    pub xdp: Vec<XdpStatus>,
    /// How the last round of attaching ended.
    pub attach: AttachReport,
    /// What the kernel offers.
    pub kernel: Vec<KernelFeature>,
    /// What should run and does not, and why: what it guards is open.
    pub missing: Vec<String>,
    /// Programs that somebody else had detached and that were attached again.
    pub restored: u64,
    /// What may get in the way: sysctls, foreign rules, hooks that could not be attached.
    pub notes: Vec<Note>,
}

/// A kernel program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramStatus {
    /// Its name.
    pub name: String,
    /// Kernel's id, as in `bpftool prog show id …`.
    pub id: u32,
    /// The hook, e.g. `tcx ingress`.
    pub hook: &'static str,
    /// Devices by name, `cgroup …`, `network namespace`; empty if it runs nowhere.
    pub attached: Vec<String>,
}

impl Datapath {
    /// Which tables somebody else had written to when they were last read back, in words.
    pub fn written_by_others(&self) -> impl Iterator<Item = String> {
        self.changed_by_others.iter().map(|table| {
            format!("somebody else has written to table {table}; the next generation puts it right")
        })
    }

    /// What runs where.
    pub fn status(&self) -> DatapathStatus {
        let mut notes = [self.notes.as_slice(), &self.interference].concat();
        notes.extend(self.sysctls.notes());
        let mut missing = self.bindings.last().failed.clone();
        missing.extend(self.not_on_node.iter().cloned());
        // Without an entry the deny list refuses nobody.
        let refuses = self
            .tables
            .deny_list
            .count()
            .is_ok_and(|prefixes| prefixes > 0);
        let without = self.bindings.xdp().into_iter().filter(|_| refuses);
        missing.extend(without.filter(|xdp| xdp.mode == "none").map(|xdp| {
            let reason = xdp.reason.unwrap_or_default();
            format!("no deny list on {}: {reason}", xdp.device)
        }));
        missing.extend(self.written_by_others());
        let missed = missing.iter().cloned();
        notes.extend(missed.map(|what| Note::new(Concern::Node, what)));
        let lost = self.lost_tables();
        notes.extend(lost.map(|what| Note::new(Concern::Node, what)));
        notes.extend(self.bindings.outside_notes());
        let unfit = self.bindings.unfit_outside().into_iter();
        notes.extend(unfit.map(|what| Note::new(Concern::Outside, what)));
        notes.extend(self.bindings.on_bridges().iter().cloned());
        notes.extend(self.reach.notes());
        let names = self.bindings.seen().names();
        let programs = self
            .programs
            .iter()
            .map(|(name, program)| ProgramStatus {
                name: name.to_owned(),
                id: program.id,
                hook: super::attach::hook_name(name),
                attached: self.links.places(name, &names),
            })
            .collect();
        DatapathStatus {
            generation: self.generation(),
            layout: LAYOUT_VERSION,
            pins: self.pins.bpffs.display().to_string(),
            programs,
            xdp: self.bindings.xdp(),
            attach: self.bindings.last().clone(),
            kernel: kernel_features(),
            missing,
            restored: self.restored,
            notes,
        }
    }
}
