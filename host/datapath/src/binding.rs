//! Puts programs where endpoints and outside devices are, as they come and go.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, io,
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use serde::Serialize;
use tidegate_bpf::{
    link::{self, AttachType},
    program::ProgramInfo,
};
use tidegate_contract::{Concern, Family, Note};
use tidegate_ebpf_shared::maps::program;
use tidegate_policy::{
    compiled::{CompiledEndpoint, EndpointId, Location},
    shared::{Map, changes},
};

use super::{
    DatapathError,
    attach::{self, Links, Place, XdpMode},
    bridge::{Bridge, Bridges},
    loader::Programs,
    netlink::{Netlink, Way},
    place::{self, Cgroup, Device, Link},
    routes,
    tables::Tables,
};

/// Programs of a workload's device, in the order they are attached: what guards the
/// way out of steering is there before the first packet is steered.
const ENDPOINT_PROGRAMS: [&str; 2] = [program::TO_ENDPOINT, program::FROM_ENDPOINT];

/// What a round of attaching did, in words for logs and `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachReport {
    /// What is new in place.
    pub attached: Vec<String>,
    /// What is gone.
    pub detached: Vec<String>,
    /// What is declared but does not exist (yet).
    pub waiting: Vec<Waiting>,
    /// What exists but could not be attached, with the reason.
    pub failed: Vec<String>,
    /// What somebody else had undone, and was put back.
    pub restored: Vec<String>,
}

/// Something declared that needs what does not exist (yet).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// The endpoint, `namespace/name`; `None` for the node itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// What there is not, in words.
    pub missing: String,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(endpoint) = &self.endpoint {
            write!(f, "{endpoint}: ")?;
        }
        f.write_str(&self.missing)
    }
}

impl AttachReport {
    fn wait(&mut self, endpoint: Option<&str>, missing: String) {
        self.waiting.push(Waiting {
            endpoint: endpoint.map(str::to_owned),
            missing,
        });
    }

    /// Nothing came and nothing went.
    pub fn is_unchanged(&self) -> bool {
        self.attached.is_empty() && self.detached.is_empty() && self.restored.is_empty()
    }
}

/// The deny list on an outside device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct XdpStatus {
    /// Device name.
    pub device: String,
    /// `native`, `generic` or `none`.
    pub mode: &'static str,
    /// Why it is not `native`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An endpoint's name and where it should live.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Home {
    name: String,
    location: Location,
    addresses: Vec<IpAddr>,
}

/// Which devices lead outside.
enum Outside {
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
    fn names(&self, bridges: &Bridges, workloads: &[String]) -> Vec<String> {
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

/// Devices and cgroups of endpoints that exist now.
#[derive(Default)]
struct Found {
    /// Device index by endpoint.
    devices: BTreeMap<EndpointId, u32>,
    /// Cgroup id by endpoint.
    cgroups: BTreeMap<EndpointId, u64>,
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

    /// What the operator should know of the outside devices.
    pub(super) fn outside_notes(&self) -> Vec<Note> {
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
    pub(super) fn unfit_outside(&self) -> Vec<String> {
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

    /// Names of the bridges there were at the last look.
    pub(super) fn bridge_names(&self) -> Vec<String> {
        self.bridges.names()
    }

    /// What stands in the way of workloads on bridges.
    pub(super) fn on_bridges(&self) -> &[Note] {
        &self.on_bridges
    }

    /// Looks which bridges there are, and which devices default routes lead to now.
    fn find_outside(&mut self, report: &mut AttachReport) {
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

    fn name_outside(&mut self) {
        self.outside_names = self.outside.names(&self.bridges, &self.workload_devices());
    }

    fn find_uplinks(&mut self, report: &mut AttachReport) {
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
        differ || !self.last.waiting.is_empty() || !self.last.failed.is_empty()
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

    /// Tells the programs which of their devices are ports of which bridge.
    fn bind_bridges(&mut self, tables: &Tables) -> Result<(), DatapathError> {
        let names = self.device_names().into_iter();
        let devices = names.filter_map(|name| place::interface_index(&name));
        let ports: BTreeMap<u32, &Bridge> = devices
            .filter_map(|index| Some((index, self.bridges.of_port(index)?)))
            .collect();
        for (index, bridge) in &ports {
            if tables.bridge_ports.get(index)? != Some(bridge.port) {
                tables.bridge_ports.put(index, &bridge.port)?;
            }
        }
        let stale = match self.homes {
            Some(_) => tables.bridge_ports.entries()?,
            None => Vec::new(),
        };
        for (index, _) in stale {
            if !ports.contains_key(&index) {
                tables.bridge_ports.delete(&index)?;
            }
        }
        self.on_bridges = match ports.is_empty() {
            true => Vec::new(),
            false => self.look_at_bridges(),
        };
        Ok(())
    }

    /// On a bridge workloads reach their neighbours without the node. What needs the proxy
    /// does not: its answers are the node's, which must know where its workloads are. And what
    /// the bridge hands up to the node came in by the bridge for whom it meets there: that it
    /// came past a program is read from its tag alone, over which nobody may write.
    fn look_at_bridges(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        let Ok(mut netlink) = Netlink::open() else {
            return notes;
        };
        let mut bridges = BTreeMap::new();
        for home in self.homes.iter().flatten().map(|(_, home)| home) {
            let Location::Interface(device) = &home.location else {
                continue;
            };
            let index = place::interface_index(device);
            let port = index.and_then(|index| Some((index, self.bridges.of_port(index)?)));
            let Some((index, bridge)) = port else {
                continue;
            };
            bridges.insert(bridge.index, bridge);
            let what = format!("{device}, which {} is behind", home.name);
            notes.extend(written_over(&mut netlink, index, &what, bridge));
            for address in &home.addresses {
                let neighbour = Some(Way {
                    device: bridge.index,
                    direct: true,
                });
                // What cannot be asked is not claimed.
                let way = netlink.way_to(*address).unwrap_or(neighbour);
                if way != neighbour {
                    notes.push(lost_behind(&home.name, device, bridge, *address, way));
                }
            }
        }
        for (index, bridge) in bridges {
            notes.extend(written_over(&mut netlink, index, &bridge.name, bridge));
        }
        notes
    }

    /// What stands above workloads' devices hands up what needs the proxy past everybody else.
    fn bind_above(
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

    /// The additive half for endpoints: table entries, then programs. An endpoint
    /// without a policy of the active generation is closed from that moment on.
    fn bind_endpoints(
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
                        if tables.cgroups.get(&cgroup.id)? != Some(*id) {
                            tables.cgroups.put(&cgroup.id, id)?;
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
    fn release_undeclared(&self, tables: &Tables) -> Result<(), DatapathError> {
        for (id, _) in tables.guarded.entries()? {
            if !self
                .homes
                .as_ref()
                .is_some_and(|homes| homes.contains_key(&id))
            {
                tables.guarded.delete(&id)?;
            }
        }
        Ok(())
    }

    /// Indices of workloads' devices that exist.
    fn declared_devices(&self, devices: &NodeDevices) -> BTreeSet<u32> {
        let names = self.device_names().into_iter();
        names
            .filter_map(|name| devices.of_workload(&name).ok())
            .collect()
    }

    fn bind_outside(
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

/// Programs of what is no workload's device.
#[derive(Clone, Copy)]
struct OwnPrograms {
    enter: &'static str,
    leave: &'static str,
    deny_list: &'static str,
    /// Why the deny list does not run in the driver, although the driver takes it.
    not_native: Option<&'static str>,
}

const ETHERNET: OwnPrograms = OwnPrograms {
    enter: program::FROM_OUTSIDE,
    leave: program::TO_OUTSIDE,
    deny_list: program::DENY_LIST,
    not_native: None,
};
const TUNNEL: OwnPrograms = OwnPrograms {
    enter: program::FROM_OUTSIDE_IP,
    leave: program::TO_OUTSIDE_IP,
    deny_list: program::DENY_LIST_IP,
    // `tun_can_build_skb` of drivers/net/tun.c: for frames only.
    not_native: Some("tun devices take native programs and run them for Ethernet frames only"),
};
const OUTSIDE: [OwnPrograms; 2] = [ETHERNET, TUNNEL];

/// The node's devices in one round.
pub(super) struct NodeDevices {
    all: Arc<place::Devices>,
    /// Names of those that lead outside, whether they exist or not.
    outside: BTreeSet<String>,
    /// Indices of bridges.
    bridges: BTreeSet<u32>,
}

/// Why an outside device cannot be attached to.
enum NoOutside {
    /// It does not exist (yet).
    Missing(String),
    /// Its packets cannot be read.
    Unfit(String),
}

impl NodeDevices {
    /// Index of an endpoint's device, if it lives behind one that is there.
    pub(super) fn of_endpoint(&self, endpoint: &CompiledEndpoint) -> Option<u32> {
        match &endpoint.location {
            Location::Interface(device) => self.of_workload(device).ok(),
            Location::Cgroup(_) => None,
        }
    }

    /// Index of the device a workload is behind, or why there is none. The node's own ways
    /// out are nobody's: policing them as a workload would cut the node off.
    fn of_workload(&self, device: &str) -> Result<u32, String> {
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

    fn outside(&self, device: &str) -> Result<(u32, OwnPrograms), NoOutside> {
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

/// Filters, and tcx programs of others, that may write over the tags of what a device on, or of,
/// a bridge takes in.
fn written_over(netlink: &mut Netlink, index: u32, what: &str, bridge: &Bridge) -> Option<Note> {
    let name = &bridge.name;
    let cannot = |error| vec![format!("which cannot be listed: {error}")];
    let mut found: Vec<String> = match netlink.ingress_filters(index) {
        Ok(kinds) => kinds.into_iter().collect(),
        Err(error) => cannot(error),
    };
    found.extend(others_tcx(index).unwrap_or_else(cannot));
    if found.is_empty() {
        return None;
    }
    let found = found.join(", ");
    let message = format!(
        "tc filters on the ingress of {what} ({found}) may write over `tc_index` of what they let \
         pass: what {name} hands up to the node without it is refused where it leaves the node, as \
         `Endpoint not ready`; filter on the workload's own side or where packets leave instead"
    );
    Some(Note::new(Concern::Outside, message))
}

/// Somebody else's tcx programs on a device's ingress, in words. Ours are known by their names: a
/// check without an agent has not loaded them.
fn others_tcx(index: u32) -> io::Result<Vec<String>> {
    let ids = link::programs_at(index, AttachType::TcxIngress)?;
    let named = |id: &u32| {
        let name = ProgramInfo::by_id(*id).map(|info| info.name());
        (*id, name.unwrap_or_default())
    };
    let all: Vec<(u32, String)> = ids.iter().map(named).collect();
    let first = all.iter().position(|(_, name)| attach::is_ours(name));
    let others = all.iter().enumerate();
    let others = others.filter(|(_, (_, name))| !attach::is_ours(name));
    let in_words = others.map(|(at, (id, name))| {
        let place = match first {
            Some(first) if at < first => ", which runs before ours",
            _ => "",
        };
        format!("tcx program {id} {name}{place}")
    });
    Ok(in_words.collect())
}

/// What a workload on a bridge that the node has no way to should know.
fn lost_behind(
    endpoint: &str,
    device: &str,
    bridge: &Bridge,
    address: IpAddr,
    way: Option<Way>,
) -> Note {
    let by = way.and_then(|way| Some((way.direct, place::interface_name(way.device)?)));
    let way = match by {
        Some((true, other)) => format!("leads to {other}"),
        Some((false, other)) => format!("leads to a router by {other}"),
        None => "does not exist".to_owned(),
    };
    let name = &bridge.name;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let message = format!(
        "{device} of {endpoint} is a port of {name}, and the node's route to {address} {way}: what \
         needs L7 there goes through the node and gets no answer; give {name} an address of that \
         subnet, or `ip route add {address}/{bits} dev {name}`"
    );
    let concerns = Concern::Steered {
        family: Some(Family::from(address)),
        endpoint: Some(endpoint.to_owned()),
    };
    Note::new(concerns, message)
}

/// Records an endpoint's device (0: none), if the endpoint is known to the kernel
/// and has another.
fn set_device(tables: &Tables, id: EndpointId, index: u32) -> Result<(), DatapathError> {
    if let Some(mut info) = tables.endpoints.get(&id)?
        && info.ifindex != index
    {
        info.ifindex = index;
        tables.endpoints.put(&id, &info)?;
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
    if tables.interfaces.get(&index)? != Some(id) {
        tables.interfaces.put(&index, &id)?;
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
        && tables.guarded.get(&id)? != Some(index)
    {
        tables.guarded.put(&id, &index)?;
    }
    Ok(())
}

/// Tells the programs by which devices packets come in that have tags of ours, besides those of
/// workloads: a tag from elsewhere is a workload's own, whose device has no program.
fn bind_tagging(
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
pub(super) fn tell_of_devices(tables: &Tables, links: &Path) -> Result<(), DatapathError> {
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

/// Puts the guard of steered packets on every device they could leave by, declared or
/// not: whoever changes routes does not ask which devices we were told of. Workloads
/// have a stricter one, and nothing leaves by `lo`.
/// Devices in `apart` are about to get theirs.
fn guard_exits(
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
fn release_exits(links: &mut Links) {
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

/// Takes away what no endpoint stands behind any more.
fn unbind_stale(
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
        if found.cgroups.get(&endpoint) != Some(&cgroup) {
            tables.cgroups.delete(&cgroup)?;
            report.detached.push(format!("cgroup {cgroup}"));
        }
    }
    Ok(())
}

/// An error and what caused it, in one line.
pub(super) fn with_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
