//! Which devices lead outside, and the deny list on them.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;

use tidegate_contract::Concern;
use tidegate_contract::Note;

use super::Bindings;
use super::devices::NoOutside;
use super::devices::NodeDevices;
use super::devices::OUTSIDE;
use super::devices::OwnPrograms;
use super::report::AttachReport;
use super::report::XdpStatus;
use super::report::with_cause;
use crate::attach::Links;
use crate::attach::Place;
use crate::attach::XdpMode;
use crate::bridge::Bridges;
use crate::loader::Programs;
use crate::netlink::Netlink;
use crate::place;
use crate::place::Device;
use crate::routes;

/// Which devices lead outside.
pub(super) enum Outside {
    /// Those somebody wrote down.
    Declared(Vec<String>),
    /// Those that default routes led to, and those that were outside devices of an earlier
    /// run, by index, as long as they exist: a route that is away for a while, or a key
    /// that is gone from the configuration, must not open what the device lets in.
    ByRoutes(BTreeSet<u32>),
}

impl Default for Outside {
    fn default() -> Self {
        Self::ByRoutes(BTreeSet::new())
    }
}

impl Outside {
    /// A default route that leads to the workloads' own bridge leads on by the bridge's
    /// other ports: what comes in there is from outside, what workloads send is not.
    pub(super) fn names(&self, bridges: &Bridges, workloads: &[String]) -> Vec<String> {
        let Self::ByRoutes(found) = self else {
            let Self::Declared(names) = self else {
                return Vec::new();
            };
            return names.clone();
        };
        // A port may be found by itself as well, before or after it became one.
        let mut names = BTreeSet::new();
        for index in found {
            let ports = bridges.ports(*index).filter_map(place::interface_name);
            let (own, others): (Vec<_>, Vec<_>) = ports.partition(|port| workloads.contains(port));
            match own.is_empty() {
                true => names.extend(place::interface_name(*index)),
                false => names.extend(others),
            }
        }
        names.into_iter().collect()
    }
}

impl Bindings {
    /// What the operator should know of the outside devices.
    pub(crate) fn outside_notes(&self) -> Vec<Note> {
        let Outside::ByRoutes(_) = &self.outside else {
            let unnamed = self.unnamed.iter().map(|device| {
                let message = format!(
                    "a default route leads through {device}, which is not among \
                     node.outsideDevices: what needs L7 and leaves there gets no answer, and the \
                     deny list does not apply there; add {device}"
                );
                Note::new(Concern::Outside, message)
            });
            return unnamed.collect();
        };
        let names = &self.outside_names;
        let (concern, message) = if names.is_empty() {
            let message = "node.outsideDevices is not set and there is no default route: nothing that comes \
             from outside reaches a workload (name the devices that lead outside)";
            (Concern::Outside, message.to_owned())
        } else {
            let message = format!(
                "node.outsideDevices is not set; what leads outside, declared before or by the default routes: {}",
                names.join(", ")
            );
            (Concern::NoFlow, message)
        };
        vec![Note::new(concern, message)]
    }

    /// Outside devices that somebody named and that are not there, or cannot be read.
    pub(crate) fn unfit_outside(&self) -> Vec<String> {
        let devices = self.devices();
        let unfit = devices
            .outside
            .iter()
            .filter_map(|device| devices.outside(device).err());
        let why = |unfit| match unfit {
            NoOutside::Missing(why) | NoOutside::Unfit(why) => why,
        };
        unfit.map(why).collect()
    }

    /// Looks which bridges there are, and which devices default routes lead to now.
    pub(super) fn find_outside(&mut self, report: &mut AttachReport) {
        match Netlink::open().and_then(|mut netlink| netlink.links()) {
            Ok(links) => {
                self.bridges = Bridges::of(&links);
                self.seen = Arc::new(place::Devices::of(&links));
            }
            Err(error) => {
                // Without an answer nothing exists: what is attached stays, nothing is added.
                self.seen = Arc::default();
                report.failed.push(format!("list the devices: {error}"));
            }
        }
        self.find_uplinks(report);
        self.name_outside();
    }

    pub(super) fn name_outside(&mut self) {
        self.outside_names = self.outside.names(&self.bridges, &self.workload_devices());
    }

    pub(super) fn find_uplinks(&mut self, report: &mut AttachReport) {
        let now = match routes::uplinks() {
            Ok(now) => now,
            Err(error) => {
                report.failed.push(format!("list the routes: {error}"));
                return;
            }
        };
        let found = match &mut self.outside {
            Outside::ByRoutes(found) => found,
            Outside::Declared(names) => {
                // Below a bridge or a VLAN it may be the device under it that is named.
                let is_own = |device: &Device| {
                    !self.bridges.all().contains(&device.index) && device.below.is_none()
                };
                let of_route = self.seen.iter().filter(|it| now.contains(&it.index));
                let own = of_route.filter(is_own);
                let own = own.filter_map(|device| place::interface_name(device.index));
                self.unnamed = own.filter(|name| !names.contains(name)).collect();
                return;
            }
        };
        found.extend(now);
        found.retain(|index| place::interface_name(*index).is_some());
    }

    pub(super) fn bind_outside(
        &mut self,
        devices: &NodeDevices,
        programs: &Programs,
        links: &mut Links,
        report: &mut AttachReport,
    ) {
        let mut present = HashMap::new();
        let workloads = self.workload_devices();
        for device in &devices.outside {
            let (index, own_programs) = match devices.outside(device) {
                Ok(found) => found,
                Err(NoOutside::Missing(why)) => {
                    report.wait(None, why);
                    continue;
                }
                Err(NoOutside::Unfit(why)) => {
                    report.failed.push(why);
                    continue;
                }
            };
            let ports = self.bridges.ports(index).filter_map(place::interface_name);
            let (own, others): (Vec<_>, Vec<_>) = ports.partition(|port| workloads.contains(port));
            if !own.is_empty() {
                report.failed.push(own_bridge(device, &own, &others));
                continue;
            }
            present.insert(index, device);
            match links.ensure(programs, own_programs.enter, &Place::Device(index)) {
                Ok(true) => report.attached.push(format!("outside device {device}")),
                Ok(false) => {}
                Err(error) => report.failed.push(with_cause(&error)),
            }
            // One that was detached is attached again; a device that refused once is not
            // asked again.
            let runs = [XdpMode::Native, XdpMode::Generic]
                .iter()
                .any(|mode| links.has(own_programs.deny_list, &Place::Xdp(index, *mode)));
            if self.xdp.get(&index).is_some_and(|xdp| xdp.mode != "none") && !runs {
                self.xdp.remove(&index);
            }
            self.xdp
                .entry(index)
                .or_insert_with(|| bind_xdp(programs, links, own_programs, device, index));
        }
        self.xdp.retain(|index, _| present.contains_key(index));
        for index in links.devices(&OUTSIDE.map(|own| own.enter)) {
            if !present.contains_key(&index) {
                for own in OUTSIDE {
                    links.detach(own.enter, &Place::Device(index));
                    links.detach(own.deny_list, &Place::Xdp(index, XdpMode::Native));
                    links.detach(own.deny_list, &Place::Xdp(index, XdpMode::Generic));
                }
                report.detached.push(format!("outside device {index}"));
            }
        }
    }
}

/// Why a bridge is no outside device: what its workloads send would be taken for what comes
/// from outside with their addresses, and dropped.
fn own_bridge(bridge: &str, own: &[String], others: &[String]) -> String {
    format!(
        "{bridge} is no outside device: workloads are its ports ({}); name the port that leads \
         outside instead, of [{}]",
        own.join(", "),
        others.join(", ")
    )
}

/// The deny list as close to the wire as the device lets it.
fn bind_xdp(
    programs: &Programs,
    links: &mut Links,
    own: OwnPrograms,
    device: &str,
    index: u32,
) -> XdpStatus {
    // A device has one mode at a time: what was taken over decides, or asking for
    // the other one would fail for a reason that says nothing of the device.
    let taken_over = links.has(own.deny_list, &Place::Xdp(index, XdpMode::Generic));
    let mut attach = |mode| {
        links
            .ensure(programs, own.deny_list, &Place::Xdp(index, mode))
            .map_err(|error| with_cause(&error))
    };
    let native = if let Some(why) = own.not_native {
        Err(why.to_owned())
    } else if taken_over {
        Err("native mode was refused when it was attached".to_owned())
    } else {
        attach(XdpMode::Native)
    };
    let (mode, reason) = match native {
        Ok(_) => ("native", None),
        Err(native) => match attach(XdpMode::Generic) {
            Ok(_) => ("generic", Some(native)),
            Err(generic) => ("none", Some(format!("{native}; {generic}"))),
        },
    };
    XdpStatus {
        device: device.to_owned(),
        mode,
        reason,
    }
}
