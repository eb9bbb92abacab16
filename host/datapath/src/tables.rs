//! Every table of the datapath, opened from its pin, and how large each may be.

use std::{collections::BTreeMap, io, os::fd::AsFd as _, path::Path};

use serde::Serialize;
use tidegate_bpf::{map::MapInfo, pin};
use tidegate_ebpf_shared::{
    addr::{Addr, AddrPrefix},
    bridge::BridgePort,
    config::DatapathConfig,
    endpoint::EndpointInfo,
    event::Counter,
    flow::{FlowEntry, FlowKey},
    fragment::{FragmentEntry, FragmentKey},
    identity::{AddrInfo, FqdnInfo},
    limits,
    maps::map,
    policy::{PolicyEntry, PolicyKey},
    service::{Backend, ReverseEntry, ReverseKey, ServiceEntry, ServiceKey, SlotKey},
    steer::{PeerKey, SteerOrigin},
};

use super::{
    DatapathError,
    bpffs::Pins,
    table::{MaglevTables, PerCpu, Table},
};

/// Capacity of the tables an operator may size, in entries. Defaults are those of
/// `tidegate_ebpf_shared::limits`, which also says what happens when one is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLimits {
    /// Tracked flows.
    pub flows: u32,
    /// Datagrams whose later fragments are awaited.
    pub fragments: u32,
    /// Policy entries of all endpoints together.
    pub policy_entries: u32,
    /// Prefixes with an identity.
    pub ipcache_entries: u32,
    /// Endpoints on this node.
    pub endpoints: u32,
    /// Service frontends.
    pub services: u32,
    /// Backends.
    pub backends: u32,
    /// Backend slots of all services together.
    pub service_slots: u32,
    /// Addresses learned for FQDN rules.
    pub fqdn_addresses: u32,
    /// Prefixes on the deny list of outside devices.
    pub deny_prefixes: u32,
}

impl Default for TableLimits {
    fn default() -> Self {
        Self {
            flows: limits::FLOWS,
            fragments: limits::FRAGMENTS,
            policy_entries: limits::POLICY_ENTRIES,
            ipcache_entries: limits::IPCACHE_ENTRIES,
            endpoints: limits::ENDPOINTS,
            services: limits::SERVICES,
            backends: limits::BACKENDS,
            service_slots: limits::SERVICE_SLOTS,
            fqdn_addresses: limits::FQDN_ADDRESSES,
            deny_prefixes: limits::DENY_PREFIXES,
        }
    }
}

impl TableLimits {
    /// Capacity the configuration sets for a map; `None` if it does not.
    pub(super) fn of(&self, name: &str) -> Option<u32> {
        Some(self.setting(name)?.1)
    }

    /// The key of the configuration that sets a map's capacity, and what it says.
    fn setting(&self, name: &str) -> Option<(&'static str, u32)> {
        Some(match name {
            map::FLOWS => ("limits.flows", self.flows),
            map::FRAGMENTS => ("limits.fragments", self.fragments),
            map::POLICY => ("limits.policyEntries", self.policy_entries),
            map::IPCACHE => ("limits.ipcacheEntries", self.ipcache_entries),
            map::TAGGING
            | map::ENDPOINTS
            | map::INTERFACES
            | map::BRIDGE_PORTS
            | map::GUARDED
            | map::CGROUPS => ("limits.endpoints", self.endpoints),
            map::SERVICES => ("limits.services", self.services),
            map::BACKENDS => ("limits.backends", self.backends),
            map::SLOTS => ("limits.serviceSlots", self.service_slots),
            map::FQDN => ("limits.fqdnAddresses", self.fqdn_addresses),
            map::DENY_LIST | map::DENY_COUNTS => ("limits.denyPrefixes", self.deny_prefixes),
            _ => return None,
        })
    }

    /// A map's room for entries of one generation, as found, compared with what is wanted.
    ///
    /// # Errors
    ///
    /// If they differ: a live table cannot be resized.
    pub(super) fn compare(
        &self,
        name: &'static str,
        max_entries: u32,
    ) -> Result<(), DatapathError> {
        match self.setting(name) {
            Some((key, wanted)) if wanted.saturating_mul(copies(name)) != max_entries => {
                Err(DatapathError::Capacity {
                    table: name,
                    key,
                    found: max_entries / copies(name),
                    wanted,
                })
            }
            _ => Ok(()),
        }
    }
}

/// Tables pinned below `bpffs` whose size is not the one that is wanted: an agent would not
/// start. One per key of the configuration.
///
/// # Errors
///
/// If they may not be looked at. Without an earlier agent there are none.
pub fn pinned_otherwise(bpffs: &Path, limits: &TableLimits) -> io::Result<Vec<DatapathError>> {
    let pins = Pins::below(bpffs);
    let mut differing = BTreeMap::new();
    for name in map::ALL {
        let info = match pin::open(&pins.maps.join(name)) {
            Ok(map) => MapInfo::of(map.as_fd())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if let Err(error) = limits.compare(name, info.max_entries)
            && let Some((key, _)) = limits.setting(name)
        {
            differing.entry(key).or_insert(error);
        }
    }
    Ok(differing.into_values().collect())
}

/// How many generations a table has room for at once. A changed endpoint gets complete new
/// rows next to its old ones, so the policy table needs its size twice; it is a trie, whose
/// room costs nothing while it is not used. The others hold differences only.
pub(super) fn copies(name: &str) -> u32 {
    if name == map::POLICY { 2 } else { 1 }
}

/// The tables the agent reads or writes.
pub(super) struct Tables {
    pub(super) config: Table<u32, DatapathConfig>,
    pub(super) generation: Table<u32, u32>,
    pub(super) endpoints: Table<u32, EndpointInfo>,
    pub(super) interfaces: Table<u32, u32>,
    pub(super) bridge_ports: Table<u32, BridgePort>,
    pub(super) guarded: Table<u32, u32>,
    pub(super) tagging: Table<u32, u32>,
    pub(super) cgroups: Table<u64, u32>,
    pub(super) ipcache: Table<AddrPrefix, AddrInfo>,
    pub(super) fqdn: Table<Addr, FqdnInfo>,
    pub(super) policy: Table<PolicyKey, PolicyEntry>,
    pub(super) flows: Table<FlowKey, FlowEntry>,
    pub(super) fragments: Table<FragmentKey, FragmentEntry>,
    pub(super) listeners: Table<u32, u32>,
    pub(super) steer_by_cookie: Table<u64, SteerOrigin>,
    pub(super) steer_by_tuple: Table<PeerKey, SteerOrigin>,
    pub(super) services: Table<ServiceKey, ServiceEntry>,
    pub(super) slots: Table<SlotKey, u32>,
    pub(super) backends: Table<u32, Backend>,
    pub(super) maglev: MaglevTables,
    pub(super) reverse_nat: Table<ReverseKey, ReverseEntry>,
    pub(super) deny_list: Table<AddrPrefix, u32>,
    pub(super) deny_counts: PerCpu<Counter>,
    pub(super) counters: PerCpu<Counter>,
}

impl Tables {
    /// Opens all pins in `folder` and checks layout and capacity of each.
    pub(super) fn open(folder: &Path, limits: &TableLimits) -> Result<Self, DatapathError> {
        /// Opens one table with the capacity the configuration sets for it, if any.
        macro_rules! open {
            ($name:expr) => {
                Table::open(folder, $name, limits)?
            };
        }
        Ok(Self {
            config: open!(map::CONFIG),
            generation: open!(map::GENERATION),
            endpoints: open!(map::ENDPOINTS),
            interfaces: open!(map::INTERFACES),
            bridge_ports: open!(map::BRIDGE_PORTS),
            guarded: open!(map::GUARDED),
            tagging: open!(map::TAGGING),
            cgroups: open!(map::CGROUPS),
            ipcache: open!(map::IPCACHE),
            fqdn: open!(map::FQDN),
            policy: open!(map::POLICY),
            flows: open!(map::FLOWS),
            fragments: open!(map::FRAGMENTS),
            listeners: open!(map::LISTENERS),
            steer_by_cookie: open!(map::STEER_BY_COOKIE),
            steer_by_tuple: open!(map::STEER_BY_TUPLE),
            services: open!(map::SERVICES),
            slots: open!(map::SLOTS),
            backends: open!(map::BACKENDS),
            maglev: MaglevTables::open(folder, map::MAGLEV, limits)?,
            reverse_nat: open!(map::REVERSE_NAT),
            deny_list: open!(map::DENY_LIST),
            deny_counts: PerCpu::open(folder, map::DENY_COUNTS, limits)?,
            counters: PerCpu::open(folder, map::COUNTERS, limits)?,
        })
    }

    /// Is it known what is in each of the tables that only this process writes?
    pub(super) fn are_known(&self) -> bool {
        /// Of the named tables.
        macro_rules! are_known {
            ($($table:ident),+) => {
                $(self.$table.is_known())&&+
            };
        }
        are_known!(
            endpoints, ipcache, policy, services, slots, backends, deny_list
        )
    }

    /// Reads back what is known of the tables that only this process writes: names of those
    /// that somebody else has written to.
    pub(super) fn read_back(&self) -> Result<Vec<&'static str>, DatapathError> {
        /// Whether the named tables are what was known.
        macro_rules! read_back {
            ($($table:ident),+) => {
                [$((self.$table.name(), self.$table.read_back()?)),+]
            };
        }
        let tables = read_back!(
            endpoints, ipcache, policy, services, slots, backends, maglev, deny_list
        );
        let changed = tables.into_iter().filter(|(_, is_same)| !is_same);
        Ok(changed.map(|(name, _)| name).collect())
    }

    /// Fill level of every table that can fill up.
    pub(super) fn gauges(&self) -> Result<Vec<TableGauge>, DatapathError> {
        /// Gauges of the named tables.
        macro_rules! gauges {
            ($($table:ident),+) => {
                vec![$(TableGauge {
                    name: self.$table.name(),
                    entries: self.$table.count()?,
                    limit: self.$table.limit(),
                }),+]
            };
        }
        Ok(gauges!(
            endpoints,
            interfaces,
            cgroups,
            ipcache,
            fqdn,
            policy,
            flows,
            fragments,
            steer_by_cookie,
            steer_by_tuple,
            services,
            slots,
            backends,
            reverse_nat,
            deny_list
        ))
    }
}

/// How full a table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TableGauge {
    /// Map name.
    pub name: &'static str,
    /// Entries in it.
    pub entries: u64,
    /// Entries there is room for.
    pub limit: u32,
}
