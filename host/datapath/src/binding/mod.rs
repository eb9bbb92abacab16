//! Puts programs where endpoints and outside devices are, as they come and go.

mod bridges;
mod devices;
mod endpoints;
mod exits;
mod outside;
mod report;
mod survey;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use tidegate_contract::Note;
use tidegate_policy::compiled::CompiledEndpoint;
use tidegate_policy::compiled::EndpointId;
use tidegate_policy::compiled::Location;
use tidegate_policy::shared::Map;
use tidegate_policy::shared::changes;

use self::endpoints::bind_tagging;
use self::endpoints::unbind_stale;
use self::exits::guard_exits;
use self::exits::release_exits;
use self::outside::Outside;
use crate::DatapathError;
use crate::attach::Links;
use crate::bridge::Bridges;
use crate::loader::Programs;
use crate::place;
use crate::place::Cgroup;
use crate::tables::Tables;

pub(super) use self::{devices::NodeDevices, endpoints::tell_of_devices, report::with_cause};
pub use self::{
    report::{AttachReport, XdpStatus},
    survey::Survey,
};

/// An endpoint's name and where it should live.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Home {
    name: String,
    location: Location,
    addresses: Vec<IpAddr>,
}

/// What is declared, and what of it was last seen to exist.
#[derive(Default)]
pub(super) struct Bindings {
    /// `None` until the first generation: nothing is taken away before it is known
    /// what should be there.
    homes: Option<BTreeMap<EndpointId, Home>>,
    /// What they are the homes of.
    declared: Map<EndpointId, Arc<CompiledEndpoint>>,
    /// Where endpoints were when the last agent ended: enough to give a device that was
    /// made anew its programs back before anything else is known.
    remembered: BTreeMap<EndpointId, Home>,
    outside: Outside,
    /// Names of the outside devices, as of the last look.
    outside_names: Vec<String>,
    bridges: Bridges,
    /// Devices that default routes lead to and nobody named, where somebody named any.
    unnamed: Vec<String>,
    /// The node's devices, as of the last look.
    seen: Arc<place::Devices>,
    /// Cgroups of endpoints, by id, as of the last round.
    cgroups: BTreeMap<EndpointId, u64>,
    /// What stands in the way of workloads on bridges.
    on_bridges: Vec<Note>,
    xdp: BTreeMap<u32, XdpStatus>,
    last: AttachReport,
}

impl Bindings {
    /// For these outside devices, or those of the default routes and of an earlier run,
    /// `before`, if none is named; with no endpoints known.
    pub(super) fn new(outside: Vec<String>, before: BTreeSet<u32>) -> Self {
        Self {
            outside_names: outside.clone(),
            outside: if outside.is_empty() {
                Outside::ByRoutes(before)
            } else {
                Outside::Declared(outside)
            },
            ..Self::default()
        }
    }

    /// Names of the bridges there were at the last look.
    pub(super) fn bridge_names(&self) -> Vec<String> {
        self.bridges.names()
    }

    /// What stands in the way of workloads on bridges.
    pub(super) fn on_bridges(&self) -> &[Note] {
        &self.on_bridges
    }

    fn workload_devices(&self) -> Vec<String> {
        let homes = self.homes.as_ref().unwrap_or(&self.remembered).values();
        let workloads = homes.filter_map(|home| match &home.location {
            Location::Interface(device) => Some(device.clone()),
            Location::Cgroup(_) => None,
        });
        workloads.collect()
    }

    /// Declares the endpoints of a generation. Says whether their places may need programs
    /// or tables that they do not have yet, or have some that they need no more.
    pub(super) fn declare(&mut self, endpoints: &Map<EndpointId, Arc<CompiledEndpoint>>) -> bool {
        let home = |endpoint: &Arc<CompiledEndpoint>| Home {
            name: endpoint.name.clone(),
            location: endpoint.location.clone(),
            addresses: endpoint.addresses.clone(),
        };
        let mut differ = self.homes.is_none();
        let homes = self.homes.get_or_insert_default();
        for change in changes(&self.declared, endpoints) {
            let (id, now) = (*change.key, change.now.map(home));
            differ |= homes.get(&id) != now.as_ref();
            match now {
                Some(now) => _ = homes.insert(id, now),
                None => _ = homes.remove(&id),
            }
        }
        self.declared = endpoints.clone();
        if differ {
            self.name_outside();
        }
        // What somebody waits for has news of its own when it comes.
        differ || !self.last.failed.is_empty()
    }

    /// Has an endpoint's cgroup come or gone since the last round?
    pub(super) fn cgroups_differ(&self) -> bool {
        let homes = self.homes.as_ref().unwrap_or(&self.remembered);
        homes.iter().any(|(id, home)| match &home.location {
            Location::Interface(_) => false,
            Location::Cgroup(path) => {
                let now = Cgroup::find(path.as_ref()).ok().map(|cgroup| cgroup.id);
                now != self.cgroups.get(id).copied()
            }
        })
    }

    /// Says where endpoints were when the last agent ended.
    pub(super) fn remember(&mut self, homes: BTreeMap<EndpointId, (String, Location)>) {
        let home = |(id, (name, location))| {
            let addresses = Vec::new();
            (
                id,
                Home {
                    name,
                    location,
                    addresses,
                },
            )
        };
        self.remembered = homes.into_iter().map(home).collect();
        self.name_outside();
    }

    /// The node's devices as the last round saw them.
    pub(super) fn seen(&self) -> &place::Devices {
        &self.seen
    }

    /// The same, and what is known of them.
    pub(super) fn devices(&self) -> NodeDevices {
        self.knowing(self.seen.clone())
    }

    fn knowing(&self, all: Arc<place::Devices>) -> NodeDevices {
        NodeDevices {
            all,
            outside: self.outside_names.iter().cloned().collect(),
            bridges: self.bridges.all(),
        }
    }

    /// How the last round ended.
    pub(super) fn last(&self) -> &AttachReport {
        &self.last
    }

    /// The deny list on each outside device.
    pub(super) fn xdp(&self) -> Vec<XdpStatus> {
        self.xdp.values().cloned().collect()
    }

    /// Devices declared, outside ones included, whether they exist or not.
    pub(super) fn device_names(&self) -> Vec<String> {
        [self.workload_devices(), self.outside_names.clone()].concat()
    }

    /// Brings tables and links in line with the devices and cgroups that exist:
    /// first what is new, then what is gone.
    pub(super) fn reconcile(
        &mut self,
        tables: &Tables,
        programs: &Programs,
        links: &mut Links,
    ) -> Result<AttachReport, DatapathError> {
        let mut report = AttachReport::default();
        self.find_outside(&mut report);
        let devices = self.devices();
        self.bind_outside(&devices, programs, links, &mut report);
        self.bind_bridges(tables)?;
        // Nothing is steered on a node that declares no device.
        let guarded = !self.device_names().is_empty();
        if guarded {
            guard_exits(
                &devices.all,
                &self.declared_devices(&devices),
                programs,
                links,
                &mut report,
            );
        }
        self.bind_above(&devices, programs, links, &mut report);
        let found = self.bind_endpoints(&devices, tables, programs, links, &mut report)?;
        let tagging = bind_tagging(&devices, &found, links, tables)?;
        self.cgroups.clone_from(&found.cgroups);
        if self.homes.is_some() {
            for (index, _) in tables.tagging.entries()? {
                if !tagging.contains(&index) {
                    tables.tagging.delete(&index)?;
                }
            }
            unbind_stale(&found, tables, links, &mut report)?;
            self.release_undeclared(tables)?;
        }
        if guarded {
            // What is a workload's no more may be a way out now, and the other way round.
            guard_exits(&devices.all, &BTreeSet::new(), programs, links, &mut report);
            release_exits(links);
        }
        self.last = report.clone();
        Ok(report)
    }

    /// Indices of workloads' devices that exist.
    fn declared_devices(&self, devices: &NodeDevices) -> BTreeSet<u32> {
        let names = self.device_names().into_iter();
        names
            .filter_map(|name| devices.of_workload(&name).ok())
            .collect()
    }
}
