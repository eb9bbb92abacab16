//! The node's devices in one round, and what runs on them.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_ebpf_shared::maps::program;
use tidegate_policy::compiled::{Compiled, CompiledEndpoint, EndpointId, Location};

use crate::place;
use crate::place::Device;
use crate::place::Link;

/// Programs of what is no workload's device.
#[derive(Clone, Copy)]
pub(super) struct OwnPrograms {
    pub(super) enter: &'static str,
    pub(super) leave: &'static str,
    pub(super) deny_list: &'static str,
    /// Why the deny list does not run in the driver, although the driver takes it.
    pub(super) not_native: Option<&'static str>,
}

pub(super) const ETHERNET: OwnPrograms = OwnPrograms {
    enter: program::FROM_OUTSIDE,
    leave: program::TO_OUTSIDE,
    deny_list: program::DENY_LIST,
    not_native: None,
};

pub(super) const TUNNEL: OwnPrograms = OwnPrograms {
    enter: program::FROM_OUTSIDE_IP,
    leave: program::TO_OUTSIDE_IP,
    deny_list: program::DENY_LIST_IP,
    // `tun_can_build_skb` of drivers/net/tun.c: for frames only.
    not_native: Some("tun devices take native programs and run them for Ethernet frames only"),
};

pub(super) const OUTSIDE: [OwnPrograms; 2] = [ETHERNET, TUNNEL];

/// The node's devices in one round.
pub(crate) struct NodeDevices {
    pub(super) all: Arc<place::Devices>,
    /// Names of those that lead outside, whether they exist or not.
    pub(super) outside: BTreeSet<String>,
    /// Indices of bridges.
    pub(super) bridges: BTreeSet<u32>,
}

/// Why an outside device cannot be attached to.
pub(super) enum NoOutside {
    /// It does not exist (yet).
    Missing(String),
    /// Its packets cannot be read.
    Unfit(String),
}

impl NodeDevices {
    /// Is a workload there, as far as it needs a device?
    pub(crate) fn have(&self, compiled: &Compiled, workload: EndpointId) -> bool {
        let endpoint = compiled.endpoints.get(&workload);
        endpoint.is_some_and(|endpoint| self.of_endpoint(endpoint).is_some())
    }

    /// Index of an endpoint's device, if it lives behind one that is there.
    pub(crate) fn of_endpoint(&self, endpoint: &CompiledEndpoint) -> Option<u32> {
        match &endpoint.location {
            Location::Interface(device) => self.of_workload(device).ok(),
            Location::Cgroup(_) => None,
        }
    }

    /// Index of the device a workload is behind, or why there is none. The node's own ways
    /// out are nobody's: policing them as a workload would cut the node off.
    pub(super) fn of_workload(&self, device: &str) -> Result<u32, String> {
        if self.outside.contains(device) {
            return Err(format!(
                "{device} is an outside device of this node (node.outsideDevices, or a default route leads there), and no workload is behind it"
            ));
        }
        match self.all.get(device) {
            Some(found) if found.link != Link::Ethernet => Err(headerless(device)),
            Some(found) if found.index == place::LOOPBACK => {
                Err(format!("{device} is the loopback device of the node"))
            }
            Some(found) if self.bridges.contains(&found.index) => Err(format!(
                "{device} is a bridge: name the workload's own port of it"
            )),
            Some(found) => Ok(found.index),
            None => Err(format!("no device {device}")),
        }
    }

    pub(super) fn outside(&self, device: &str) -> Result<(u32, OwnPrograms), NoOutside> {
        match self.all.get(device) {
            Some(Device { index, link, .. }) => match link {
                Link::Ethernet => Ok((index, ETHERNET)),
                Link::Ip => Ok((index, TUNNEL)),
                Link::Other => Err(NoOutside::Unfit(unreadable(device))),
            },
            None => Err(NoOutside::Missing(format!("no outside device {device}"))),
        }
    }
}

/// Why no workload is behind a device whose packets have no Ethernet header: there are no
/// neighbours on it, and the programs of workloads' devices read frames.
fn headerless(device: &str) -> String {
    format!(
        "{device} carries packets without an Ethernet header: a workload's device is its veth or \
         tap (a tunnel may be an outside device)"
    )
}

/// Why a device is no outside device: read as what they are not, no deny list would hold.
fn unreadable(device: &str) -> String {
    format!(
        "{device} carries packets that begin neither with an Ethernet header nor with an IP header, \
         which the programs do not read: no deny list applies there, and what comes in is judged \
         where it is delivered; name the device under it"
    )
}
