//! What stands in the way on a node, found without touching it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_contract::Concern;
use tidegate_contract::Note;
use tidegate_policy::compiled::CompiledEndpoint;
use tidegate_policy::compiled::EndpointId;
use tidegate_policy::compiled::Location;
use tidegate_policy::shared::Map;

use super::Bindings;
use super::report::AttachReport;
use crate::place::Cgroup;

/// What stands in the way on this node, found without touching it.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Of the node as a whole.
    pub notes: Vec<Note>,
    /// Endpoints whose place is not there, by name, and why.
    pub not_ready: BTreeMap<String, String>,
}

impl Survey {
    /// Looks at this node for these endpoints. `outside` are the declared outside devices.
    pub fn of(outside: &[String], endpoints: &Map<EndpointId, Arc<CompiledEndpoint>>) -> Self {
        let mut bindings = Bindings::new(outside.to_vec(), BTreeSet::new());
        let mut report = AttachReport::default();
        bindings.find_outside(&mut report);
        let devices = bindings.devices();
        let unfit = bindings.unfit_outside();
        let mut survey = Self::default();
        survey.notes.extend(bindings.outside_notes());
        let others = report.failed.into_iter().chain(unfit);
        let others = others.map(|what| Note::new(Concern::Node, what));
        survey.notes.extend(others);
        survey.notes.extend(bindings.look_at_bridges());
        for endpoint in endpoints.values() {
            let why = match &endpoint.location {
                Location::Interface(device) => devices.of_workload(device).err(),
                Location::Cgroup(path) => Cgroup::find(path.as_ref())
                    .err()
                    .map(|error| format!("cgroup {path}: {error}")),
            };
            survey
                .not_ready
                .extend(why.map(|why| (endpoint.name.clone(), why)));
        }
        survey
    }
}
