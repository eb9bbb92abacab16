//! The kernel side: loads, attaches and pins the programs of `ebpf/programs`, and
//! offers their tables in our words. The only room that names aya; no other room
//! sees a map handle, except the few the proxy is given by descriptor.
//!
//! It never empties a table it finds: an agent that starts takes over what is
//! pinned, puts its own programs behind the links, and changes only differences.
//! It never decides anything about a packet.
//!
//! Reading order: [`Datapath`] here, then `loader` and `attach` (programs), `table`
//! and `tables` (maps), `publish` with its pure halves `policy_tables`,
//! `service_tables`, `maglev` and `diff`, then `binding` (devices that come and go).

mod attach;
mod binding;
mod bpffs;
mod bridge;
mod counters;
mod deny_slots;
mod devices;
mod diff;
mod encode;
mod error;
mod events;
mod expire;
mod explain;
mod firewall;
mod kernel_features;
mod listeners;
mod loader;
mod maglev;
mod map_pins;
mod netlink;
mod numbers;
mod owner;
mod place;
mod policy_tables;
mod publish;
mod reach;
mod reader;
mod remove;
mod routes;
mod service_tables;
mod status;
mod table;
mod tables;
#[cfg(test)]
mod tests;
mod turn;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use tidegate_bpf::{map::MapInfo, pin};
use tidegate_contract::{Concern, Note, TABLES, WRITTEN};
use tidegate_ebpf_shared::{
    config::{DatapathConfig, flags},
    flow::{FlowEntry, FlowKey},
    limits,
    maps::{map, program},
};
use tidegate_policy::compiled::{EndpointId, Generation, Location};

use self::{
    attach::{CGROUP_PROGRAMS, Links, Place},
    binding::{Bindings, with_cause},
    bpffs::Pins,
    loader::Programs,
    map_pins::MapPins,
    place::Cgroup,
    tables::Tables,
};
pub use self::{
    binding::{AttachReport, Survey, XdpStatus},
    bridge::bridges,
    counters::{Counters, DenyCount},
    devices::watch_devices,
    error::DatapathError,
    events::EventStream,
    expire::{Clocks, Sweep},
    explain::{Explanation, Learned, Party, Query, ServiceHit, Step},
    firewall::firewall_notes,
    kernel_features::{KernelFeature, kernel_features},
    owner::Owner,
    publish::{PublishReport, TableChange},
    reader::Reader,
    status::{DatapathStatus, ProgramStatus},
    tables::{TableGauge, TableLimits, pinned_otherwise},
};

/// What an audit came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    /// Nothing is new.
    AsBefore,
    /// [`Datapath::status`] has something new to tell.
    Tell,
    /// [`Datapath::attach_pending`] has something to do.
    Attach,
}

/// How a node wants its datapath.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to pin: a bpffs, or a folder where one is mounted.
    pub bpffs: PathBuf,
    /// Cgroup whose processes get service addresses and host policy; `None`: no
    /// socket hooks.
    pub cgroup: Option<PathBuf>,
    /// Devices that lead outside; empty: those of the default routes.
    pub outside: Vec<String>,
    /// Capacity of the tables.
    pub limits: TableLimits,
    /// Denied packets pass and are reported as such.
    pub audit: bool,
    /// The node itself may reach its workloads whatever their policy says.
    pub allow_localhost: bool,
    /// Deny events per second and CPU; more are only counted.
    pub deny_events_per_second: u32,
    /// Endpoints of the generation the kernel has, by id: name and place. Devices of
    /// theirs that were made anew get their programs back before anything else.
    pub homes: BTreeMap<EndpointId, (String, Location)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bpffs: PathBuf::from("/sys/fs/bpf/tidegate"),
            cgroup: None,
            outside: Vec::new(),
            limits: TableLimits::default(),
            audit: false,
            allow_localhost: true,
            deny_events_per_second: limits::DENY_EVENTS_PER_SECOND as u32,
            homes: BTreeMap::new(),
        }
    }
}

/// The kernel side of this node. Dropping it leaves everything running; see
/// [`Datapath::remove`].
pub struct Datapath {
    pins: Pins,
    tables: Arc<Tables>,
    programs: Programs,
    links: Links,
    map_pins: MapPins,
    /// What somebody else had undone, until a round tells it.
    undone: Vec<String>,
    /// Tables whose content is lost.
    lost: BTreeSet<&'static str>,
    bindings: Bindings,
    notes: Vec<Note>,
    /// What belongs to the node as a whole, and where it should run.
    for_node: Vec<(&'static str, Place)>,
    /// Of that, what could not be attached, and why.
    not_on_node: Vec<String>,
    /// Programs somebody else had detached, and rounds that put them back.
    restored: u64,
    /// Keeps another agent off these pins and this network namespace.
    _owner: Owner,
    /// What may interfere with our rule and route, as found last.
    interference: Vec<Note>,
    reach: reach::Reach,
    sysctls: routes::Sysctls,
    /// Tables that somebody else wrote to since the last generation.
    changed_by_others: Vec<&'static str>,
    last_policy_id: u32,
    written: publish::Written,
    /// The next generation, if it was asked whether it fits.
    prepared: Option<publish::Prepared>,
    /// Identities of names, of the same generation and those before.
    names: expire::Names,
}

/// What a node does not do whose sockets are left alone (`node.cgroup: none`).
pub fn without_cgroup() -> Note {
    Note::new(
        Concern::Sockets,
        "no socket hooks, as `node.cgroup` is `none`: no service addresses and no host services; \
         and where rules of the node's NAT (REDIRECT, TPROXY, DNAT) lead what needs the proxy to a \
         process of the node, that gets it unread: name a cgroup, or have no such rules for \
         what workloads send",
    )
}

impl Datapath {
    /// Loads the programs, or takes over what is pinned and puts these programs
    /// behind its links. Works in the calling thread's network namespace.
    ///
    /// Nothing that runs is touched before every program has passed the verifier and
    /// every pinned table has the expected layout and capacity.
    pub fn open(options: Options) -> Result<Self, DatapathError> {
        kernel_features::check_rights()?;
        let pins = Pins::below(&options.bpffs);
        pins.prepare()?;
        let owner = Owner::claim(&options.bpffs)?;
        let earlier = map_pins::restore(&pins)?;
        let programs = loader::load(&pins, &options.limits)?;
        let tables = Tables::open(&pins.maps, &options.limits)?;
        let map_pins = MapPins::hold(&pins.maps)?;
        binding::tell_of_devices(&tables, &pins.links)?;
        let links = Links::adopt(&pins.links, &programs)?;
        let outside = links.devices(&[program::FROM_OUTSIDE, program::FROM_OUTSIDE_IP]);
        let mut datapath = Self {
            pins,
            tables: Arc::new(tables),
            programs,
            links,
            map_pins,
            undone: Vec::new(),
            lost: earlier.lost,
            bindings: Bindings::new(options.outside, outside),
            notes: Vec::new(),
            for_node: Vec::new(),
            not_on_node: Vec::new(),
            restored: 0,
            _owner: owner,
            interference: Vec::new(),
            reach: reach::Reach::default(),
            sysctls: routes::Sysctls::default(),
            changed_by_others: Vec::new(),
            last_policy_id: 0,
            written: publish::Written::default(),
            prepared: None,
            names: expire::Names::default(),
        };
        datapath.configure(|config| {
            let bit = |on, flag| if on { flag } else { 0 };
            config.flags = config.flags & flags::OTHER_SOURCES
                | bit(options.audit, flags::AUDIT)
                | bit(options.allow_localhost, flags::ALLOW_LOCALHOST);
            config.deny_events_per_second = options.deny_events_per_second;
        })?;
        datapath.continue_numbering()?;
        // Without tables of theirs endpoints would be closed until there are some: so they
        // must be where tables were lost, and must not where there never were any.
        if datapath.generation().is_some() || !datapath.lost.is_empty() {
            datapath.bindings.remember(options.homes);
        }
        datapath.find_hooks_of_node(options.cgroup.as_deref());
        datapath.attach_pending()?;
        // Told by the first round that somebody listens to.
        datapath.undone = earlier.restored;
        Ok(datapath)
    }

    /// A lost number of the generation must not begin anew while flows are known: what was
    /// decided under a number would count as decided under the next one of its kind.
    fn continue_numbering(&self) -> Result<(), DatapathError> {
        if !self.lost.contains(map::GENERATION) {
            return Ok(());
        }
        let flows = self.tables.flows.entries()?;
        let newest = flows.iter().map(|(_, flow)| flow.generation).max();
        self.tables.generation.put(&0, &newest.unwrap_or(0))
    }

    /// Tables that an earlier run left without a pin and that no program used any more:
    /// what they held is lost, and the next generation fills them.
    pub fn lost_tables(&self) -> Option<String> {
        if self.lost.is_empty() {
            return None;
        }
        let lost: Vec<&str> = self.lost.iter().copied().collect();
        Some(format!(
            "what the tables {} held is lost: somebody removed their pins, and the programs that \
             used them, while no agent ran; the next generation fills them, and until then \
             endpoints without theirs are closed",
            lost.join(", ")
        ))
    }

    /// The generation in force, see [`Reader::generation`].
    pub fn generation(&self) -> Generation {
        self.reader().generation()
    }

    /// Looks for what changes without news: links and pins that somebody has undone, sysctls,
    /// cgroups that came or went. A part of them each time, so that it costs next to nothing.
    pub fn audit(&mut self) -> Audit {
        self.undone.extend(self.links.audit(&self.programs));
        self.undone.extend(self.map_pins.audit());
        let seen = self.bindings.seen();
        let devices = self.bindings.device_names().into_iter();
        let devices = devices.filter(|device| seen.get(device).is_some());
        let differ = self.sysctls.look(&devices.collect());
        if !self.undone.is_empty() || self.bindings.cgroups_differ() {
            Audit::Attach
        } else if differ {
            Audit::Tell
        } else {
            Audit::AsBefore
        }
    }

    /// Attaches to declared devices and cgroups that have appeared, and lets go of
    /// those that are gone, and puts rule and route back if somebody removed them
    /// (network managers do: without them steered packets would leave the node as they
    /// are). For all news of [`watch_devices`], and when [`Datapath::audit`] says so.
    pub fn attach_pending(&mut self) -> Result<AttachReport, DatapathError> {
        // What was prepared goes by devices and tables as they were.
        self.prepared = None;
        // One that fails does not keep the other from being done.
        let routes = routes::ensure();
        self.audit();
        let mut report = self
            .bindings
            .reconcile(&self.tables, &self.programs, &mut self.links)?;
        self.attach_to_node(&mut report);
        report.restored.append(&mut self.undone);
        self.restored += report.restored.len() as u64;
        self.refresh_services()?;
        self.interference = routes?;
        Ok(report)
    }

    /// Names of this namespace's bridges, as [`Datapath::attach_pending`] last found them.
    pub fn bridge_names(&self) -> Vec<String> {
        self.bindings.bridge_names()
    }

    /// Descriptors of the proxy's maps, by name; of those that it does not write, such that
    /// it cannot.
    pub fn proxy_maps(&self) -> Result<BTreeMap<&'static str, OwnedFd>, DatapathError> {
        let open = |name| {
            let path = self.pins.maps.join(name);
            let opened = match WRITTEN.contains(&name) {
                true => pin::open(&path),
                false => pin::open_to_read(&path),
            };
            Ok((name, opened.map_err(DatapathError::table(name, "open"))?))
        };
        TABLES.into_iter().map(open).collect()
    }

    /// Reads back the tables that only this process should write, whose content it
    /// otherwise keeps in mind: names of those that somebody else has written to. The next
    /// generation puts them right.
    pub fn read_back(&mut self) -> Result<&[&'static str], DatapathError> {
        // What was worked out goes by what was known.
        self.prepared = None;
        let changed = self.tables.read_back()?;
        if !changed.is_empty() {
            self.written.forget();
        }
        self.changed_by_others.extend(changed);
        self.changed_by_others.sort_unstable();
        self.changed_by_others.dedup();
        Ok(&self.changed_by_others)
    }

    /// The kernel's counters, see [`Reader::counters`].
    pub fn counters(&self) -> Result<Counters, DatapathError> {
        self.reader().counters()
    }

    /// How full each table is, see [`Reader::tables`].
    pub fn tables(&self) -> Result<Vec<TableGauge>, DatapathError> {
        self.reader().tables()
    }

    /// Every flow in the table at this moment.
    pub fn flows(
        &self,
    ) -> Result<impl Iterator<Item = (FlowKey, FlowEntry)> + use<>, DatapathError> {
        self.reader().flows()
    }

    /// Why a flow would be allowed or dropped, see [`Reader::explain`].
    pub fn explain(&self, query: &Query) -> Result<Explanation, DatapathError> {
        self.reader().explain(query)
    }

    /// A read-only view that others may keep and use at any time.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.tables))
    }

    /// Keeps with the tables whether what is in force was made of documents of other sources
    /// than the operator's folders too; see [`Reader::has_other_sources`].
    ///
    /// # Errors
    ///
    /// If the table cannot be written.
    pub fn set_other_sources(&self, has: bool) -> Result<(), DatapathError> {
        self.configure(|config| {
            config.flags &= !flags::OTHER_SOURCES;
            if has {
                config.flags |= flags::OTHER_SOURCES;
            }
        })
    }

    fn configure(&self, change: impl FnOnce(&mut DatapathConfig)) -> Result<(), DatapathError> {
        let mut config = self.tables.config.get(&0)?.unwrap_or_default();
        change(&mut config);
        self.tables.config.put(&0, &config)
    }

    /// Finds the hooks that belong to the node as a whole. What is missing is noted, and
    /// the rest goes on: policy on workloads does not depend on it.
    fn find_hooks_of_node(&mut self, cgroup: Option<&Path>) {
        match place::network_namespace() {
            Ok((inode, _)) => self
                .for_node
                .push((program::PICK_LISTENER, Place::Namespace(inode))),
            Err(error) => self.notes.push(Note::new(
                Concern::STEERED,
                format!("no network namespace: {error}"),
            )),
        }
        match pin::open(&self.pins.maps.join(map::FAST_SOCKETS))
            .and_then(|map| MapInfo::of(std::os::fd::AsFd::as_fd(&map)))
        {
            Ok(info) => self
                .for_node
                .push((program::FIRST_BYTES, Place::SocketMap(info.id))),
            Err(error) => self.notes.push(Note::new(
                Concern::Sockets,
                format!("no map for first bytes: {error}"),
            )),
        }
        match cgroup.map(Cgroup::find) {
            Some(Ok(cgroup)) => self
                .for_node
                .extend(CGROUP_PROGRAMS.map(|program| (program, Place::Cgroup(cgroup.clone())))),
            Some(Err(error)) => self.notes.push(Note::new(
                Concern::Sockets,
                format!("no socket hooks: cgroup: {error}"),
            )),
            None => self.notes.push(without_cgroup()),
        }
    }

    /// Makes sure that what belongs to the node as a whole runs. A hook that cannot be
    /// attached is reported, and the rest goes on.
    fn attach_to_node(&mut self, report: &mut AttachReport) {
        self.not_on_node.clear();
        for (program, place) in &self.for_node {
            if let Err(error) = self.links.ensure(&self.programs, program, place) {
                self.not_on_node.push(with_cause(&error));
            }
        }
        report.failed.extend(self.not_on_node.iter().cloned());
    }
}
