//! Guards of steered packets on every way out.

use std::collections::BTreeSet;

use tidegate_ebpf_shared::maps::program;

use super::Bindings;
use super::devices::ETHERNET;
use super::devices::NodeDevices;
use super::devices::OUTSIDE;
use super::devices::TUNNEL;
use super::report::AttachReport;
use super::report::with_cause;
use crate::attach::Links;
use crate::attach::Place;
use crate::loader::Programs;
use crate::place;
use crate::place::Device;
use crate::place::Link;

impl Bindings {
    /// What stands above workloads' devices hands up what needs the proxy past everybody else.
    pub(super) fn bind_above(
        &self,
        devices: &NodeDevices,
        programs: &Programs,
        links: &mut Links,
        report: &mut AttachReport,
    ) {
        // Where what comes in is decided anew there is nothing to keep.
        let outside = links.devices(&OUTSIDE.map(|own| own.enter));
        let above = devices.all.above(&self.declared_devices(devices));
        let above = &above - &outside;
        for index in &above {
            if let Err(error) = links.ensure(programs, program::HANDED_UP, &Place::Device(*index))
                // It may be gone by now.
                && place::interface_name(*index).is_some()
            {
                report.failed.push(with_cause(&error));
            }
        }
        if self.homes.is_some() {
            for index in &links.devices(&[program::HANDED_UP]) - &above {
                links.detach(program::HANDED_UP, &Place::Device(index));
            }
        }
    }
}

/// Puts the guard of steered packets on every device they could leave by, declared or
/// not: whoever changes routes does not ask which devices we were told of. Workloads
/// have a stricter one, and nothing leaves by `lo`.
/// Devices in `apart` are about to get theirs.
pub(super) fn guard_exits(
    devices: &place::Devices,
    apart: &BTreeSet<u32>,
    programs: &Programs,
    links: &mut Links,
    report: &mut AttachReport,
) {
    for Device { index, link, .. } in devices.iter() {
        let (leave, other) = match link {
            // What is not read is refused if it needs the proxy, and passes otherwise.
            Link::Ethernet | Link::Other => (ETHERNET.leave, TUNNEL.leave),
            Link::Ip => (TUNNEL.leave, ETHERNET.leave),
        };
        // Of a version that read all alike.
        links.detach(other, &Place::Device(index));
        if !apart.contains(&index)
            && is_exit(links, index)
            && let Err(error) = links.ensure(programs, leave, &Place::Device(index))
            // It may be gone by now.
            && place::interface_name(index).is_some()
        {
            report.failed.push(with_cause(&error));
        }
    }
}

/// Takes the guard from devices that are gone, or have a stricter one.
pub(super) fn release_exits(links: &mut Links) {
    for index in links.devices(&OUTSIDE.map(|own| own.leave)) {
        if place::interface_name(index).is_none() || !is_exit(links, index) {
            for own in OUTSIDE {
                links.detach(own.leave, &Place::Device(index));
            }
        }
    }
}

/// Can packets leave the node by this device, past no workload's guard?
fn is_exit(links: &Links, index: u32) -> bool {
    index != place::LOOPBACK && !links.has(program::TO_ENDPOINT, &Place::Device(index))
}
