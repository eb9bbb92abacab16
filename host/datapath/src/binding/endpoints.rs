//! Endpoints' devices and cgroups: table entries, then programs.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use tidegate_ebpf_shared::maps::program;
use tidegate_policy::compiled::EndpointId;
use tidegate_policy::compiled::Location;

use super::Bindings;
use super::devices::NodeDevices;
use super::devices::OUTSIDE;
use super::report::AttachReport;
use super::report::with_cause;
use crate::DatapathError;
use crate::attach;
use crate::attach::Links;
use crate::attach::Place;
use crate::bridge::Bridges;
use crate::loader::Programs;
use crate::netlink::Netlink;
use crate::place;
use crate::place::Cgroup;
use crate::tables::Tables;

/// Programs of a workload's device, in the order they are attached: what guards the
/// way out of steering is there before the first packet is steered.
const ENDPOINT_PROGRAMS: [&str; 2] = [program::TO_ENDPOINT, program::FROM_ENDPOINT];

/// Devices and cgroups of endpoints that exist now.
#[derive(Default)]
pub(super) struct Found {
    /// Device index by endpoint.
    pub(super) devices: BTreeMap<EndpointId, u32>,
    /// Cgroup id by endpoint.
    pub(super) cgroups: BTreeMap<EndpointId, u64>,
}

impl Bindings {
    /// The additive half for endpoints: table entries, then programs. An endpoint
    /// without a policy of the active generation is closed from that moment on.
    pub(super) fn bind_endpoints(
        &self,
        devices: &NodeDevices,
        tables: &Tables,
        programs: &Programs,
        links: &mut Links,
        report: &mut AttachReport,
    ) -> Result<Found, DatapathError> {
        let mut found = Found::default();
        let homes = self.homes.as_ref().unwrap_or(&self.remembered);
        for (id, home) in homes {
            match &home.location {
                Location::Interface(device) => match devices.of_workload(device) {
                    Ok(index) => {
                        found.devices.insert(*id, index);
                        set_device(tables, *id, index)?;
                        let what = format!("{} ({device})", home.name);
                        bind_device(tables, programs, links, *id, index, &what, report)?;
                    }
                    Err(missing) => {
                        set_device(tables, *id, 0)?;
                        report.wait(Some(&home.name), missing);
                    }
                },
                Location::Cgroup(path) => match Cgroup::find(path.as_ref()) {
                    Ok(cgroup) => {
                        found.cgroups.insert(*id, cgroup.id);
                        if tables.cgroups.get(&cgroup.id)? != Some(id.get()) {
                            tables.cgroups.put(&cgroup.id, &id.get())?;
                            report.attached.push(format!("{} ({path})", home.name));
                        }
                    }
                    Err(error) => {
                        report.wait(Some(&home.name), format!("cgroup {path}: {error}"));
                    }
                },
            }
        }
        Ok(found)
    }

    /// Endpoints that are declared no more are not guarded any more. Those whose device is
    /// away are: it may come back at any time, without its programs.
    pub(super) fn release_undeclared(&self, tables: &Tables) -> Result<(), DatapathError> {
        for (id, _) in tables.guarded.entries()? {
            if !self
                .homes
                .as_ref()
                .is_some_and(|homes| homes.contains_key(&EndpointId(id)))
            {
                tables.guarded.delete(&id)?;
            }
        }
        Ok(())
    }
}

/// Records an endpoint's device (0: none), if the endpoint is known to the kernel
/// and has another.
fn set_device(tables: &Tables, id: EndpointId, index: u32) -> Result<(), DatapathError> {
    if let Some(mut info) = tables.endpoints.get(&id.get())?
        && info.ifindex != index
    {
        info.ifindex = index;
        tables.endpoints.put(&id.get(), &info)?;
    }
    Ok(())
}

/// Connects a workload's device with its endpoint.
fn bind_device(
    tables: &Tables,
    programs: &Programs,
    links: &mut Links,
    id: EndpointId,
    index: u32,
    what: &str,
    report: &mut AttachReport,
) -> Result<(), DatapathError> {
    if tables.interfaces.get(&index)? != Some(id.get()) {
        tables.interfaces.put(&index, &id.get())?;
    }
    let mut fresh = false;
    for name in ENDPOINT_PROGRAMS {
        match links.ensure(programs, name, &Place::Device(index)) {
            Ok(attached) => fresh |= attached,
            Err(error) => report
                .failed
                .push(format!("{what}: {}", with_cause(&error))),
        }
    }
    if fresh {
        report.attached.push(what.to_owned());
    }
    // From now on nothing leaves in its name that did not come this way. Not before: those
    // who talk while everything is attached for the first time are not cut off.
    if links.has(program::FROM_ENDPOINT, &Place::Device(index))
        && tables.guarded.get(&id.get())? != Some(index)
    {
        tables.guarded.put(&id.get(), &index)?;
    }
    Ok(())
}

/// Tells the programs by which devices packets come in that have tags of ours, besides those of
/// workloads: a tag from elsewhere is a workload's own, whose device has no program.
pub(super) fn bind_tagging(
    devices: &NodeDevices,
    found: &Found,
    links: &Links,
    tables: &Tables,
) -> Result<BTreeSet<u32>, DatapathError> {
    let workloads: BTreeSet<u32> = found.devices.values().copied().collect();
    let outside = links.devices(&OUTSIDE.map(|own| own.enter));
    add_tagging(&devices.all, &workloads, outside, tables)
}

/// The additive half; returns all of them.
fn add_tagging(
    devices: &place::Devices,
    workloads: &BTreeSet<u32>,
    outside: BTreeSet<u32>,
    tables: &Tables,
) -> Result<BTreeSet<u32>, DatapathError> {
    let mut tagging = devices.above(&(workloads | &outside));
    tagging.extend(outside);
    for index in &tagging {
        if tables.tagging.get(index)?.is_none() {
            tables.tagging.put(index, &1)?;
        }
    }
    Ok(tagging)
}

/// Tells what programs of this version ask of devices, before they take the place of those of an
/// earlier one, which may not have asked: by what that one left in tables and pins. What cannot
/// be read is told a moment later, with everything else.
pub(crate) fn tell_of_devices(tables: &Tables, links: &Path) -> Result<(), DatapathError> {
    let enter = OUTSIDE.map(|own| own.enter);
    let outside = attach::pinned_devices(links, &enter).unwrap_or_default();
    let Ok(found) = Netlink::open().and_then(|mut netlink| netlink.links()) else {
        return Ok(());
    };
    let interfaces = tables.interfaces.entries()?;
    let workloads: BTreeSet<u32> = interfaces.into_iter().map(|(index, _)| index).collect();
    let bridges = Bridges::of(&found);
    for index in &workloads | &outside {
        if let Some(bridge) = bridges.of_port(index)
            && tables.bridge_ports.get(&index)? != Some(bridge.port)
        {
            tables.bridge_ports.put(&index, &bridge.port)?;
        }
    }
    add_tagging(&place::Devices::of(&found), &workloads, outside, tables).map(drop)
}

/// Takes away what no endpoint stands behind any more.
pub(super) fn unbind_stale(
    found: &Found,
    tables: &Tables,
    links: &mut Links,
    report: &mut AttachReport,
) -> Result<(), DatapathError> {
    let live: Vec<u32> = found.devices.values().copied().collect();
    let mut known = links.devices(&ENDPOINT_PROGRAMS);
    known.extend(
        tables
            .interfaces
            .entries()?
            .into_iter()
            .map(|(index, _)| index),
    );
    for index in known.into_iter().filter(|index| !live.contains(index)) {
        for name in ENDPOINT_PROGRAMS {
            links.detach(name, &Place::Device(index));
        }
        tables.interfaces.delete(&index)?;
        report.detached.push(format!("device {index}"));
    }
    for (cgroup, endpoint) in tables.cgroups.entries()? {
        if found.cgroups.get(&EndpointId(endpoint)) != Some(&cgroup) {
            tables.cgroups.delete(&cgroup)?;
            report.detached.push(format!("cgroup {cgroup}"));
        }
    }
    Ok(())
}
