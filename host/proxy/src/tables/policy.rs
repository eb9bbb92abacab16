//! What the kernel decides by, read as the kernel reads it: an open socket of a host service
//! meets no program that would judge it again.

use std::{cell::RefCell, collections::BTreeMap, io, net::SocketAddr, os::fd::OwnedFd};

use tidegate_bpf::map::Map;
use tidegate_decide::{Evaluation, Tuple, policy};
use tidegate_ebpf_shared::{
    addr::{Addr, AddrPrefix},
    config::{DatapathConfig, flags},
    endpoint::EndpointInfo,
    identity::{AddrInfo, FqdnInfo},
    maps::map,
    policy::{PolicyEntry, PolicyKey},
};

use tidegate_policy::compiled::EndpointId;

use super::{Tables, kernel_addr, take};
use crate::dns::boot_seconds;

/// The tables of policy. Nobody here can write them.
#[derive(Debug)]
pub(super) struct PolicyTables {
    config: Map<u32, DatapathConfig>,
    generation: Map<u32, u32>,
    endpoints: Map<u32, EndpointInfo>,
    ipcache: Map<AddrPrefix, AddrInfo>,
    policy: Map<PolicyKey, PolicyEntry>,
}

impl PolicyTables {
    pub(super) fn open(tables: &mut BTreeMap<&str, OwnedFd>) -> io::Result<Self> {
        Ok(Self {
            config: take(tables, map::CONFIG)?,
            generation: take(tables, map::GENERATION)?,
            endpoints: take(tables, map::ENDPOINTS)?,
            ipcache: take(tables, map::IPCACHE)?,
            policy: take(tables, map::POLICY)?,
        })
    }
}

impl Tables {
    /// What the egress policy of a host service says at present of a socket it has open, and
    /// whether a refusal is only reported.
    ///
    /// # Errors
    ///
    /// If a table cannot be read: what is not known is not there for nobody.
    pub(crate) fn of_host_service(
        &self,
        endpoint: EndpointId,
        protocol: u8,
        destination: SocketAddr,
    ) -> io::Result<(Evaluation, bool)> {
        let lookup = Lookup {
            tables: self,
            failed: RefCell::default(),
        };
        let tuple = Tuple {
            dst: kernel_addr(destination.ip()),
            dst_port: destination.port().to_be_bytes(),
            protocol,
            ..Tuple::default()
        };
        let at_node = destination.ip().is_loopback();
        let evaluation = policy::evaluate_host_service(&lookup, endpoint.0, &tuple, at_node);
        let audit = policy::Tables::config_flags(&lookup) & flags::AUDIT != 0;
        match lookup.failed.into_inner() {
            Some(error) => Err(error),
            None => Ok((evaluation, audit)),
        }
    }
}

/// The tables as the code of decisions reads them; keeps the first failure.
struct Lookup<'t> {
    tables: &'t Tables,
    failed: RefCell<Option<io::Error>>,
}

impl Lookup<'_> {
    fn answer<T>(&self, result: io::Result<Option<T>>) -> Option<T> {
        result.unwrap_or_else(|error| {
            self.failed.borrow_mut().get_or_insert(error);
            None
        })
    }
}

impl policy::Tables for Lookup<'_> {
    type Fqdn = FqdnInfo;

    fn generation(&self) -> u32 {
        let generation = self.tables.policy.generation.get(&0);
        self.answer(generation).unwrap_or(0)
    }

    fn config_flags(&self) -> u32 {
        let config = self.answer(self.tables.policy.config.get(&0));
        config.map_or(0, |config| config.flags)
    }

    fn address(&self, addr: &Addr) -> Option<AddrInfo> {
        let longest = AddrPrefix {
            prefix_len: 128,
            addr: *addr,
        };
        self.answer(self.tables.policy.ipcache.get(&longest))
    }

    fn fqdn(&self, addr: &Addr) -> Option<FqdnInfo> {
        self.answer(self.tables.names(addr))
    }

    fn endpoint(&self, id: u32) -> Option<EndpointInfo> {
        self.answer(self.tables.policy.endpoints.get(&id))
    }

    fn policy(&self, key: &PolicyKey) -> Option<PolicyEntry> {
        self.answer(self.tables.policy.policy.get(key))
    }

    fn boot_seconds(&self) -> u32 {
        boot_seconds()
    }
}

#[cfg(test)]
mod testing {
    use tidegate_ebpf_shared::policy::direction;

    use super::*;

    impl Tables {
        /// Plays the kernel's part: what every destination gets of endpoint 3's egress policy,
        /// by a generation.
        pub(crate) fn rule(&self, generation: u32, entry: PolicyEntry) {
            let tables = &self.policy;
            let info = EndpointInfo {
                identity: 300,
                policy_id: [7, 8],
                ..EndpointInfo::default()
            };
            let policy_id = info.policy_id[(generation & 1) as usize];
            let row = PolicyKey {
                prefix_len: PolicyKey::ROW,
                policy_id: policy_id.to_be_bytes(),
                identity: [0; 4],
                direction: direction::EGRESS,
                protocol: 0,
                port: [0; 2],
            };
            tables.policy.put(&row, &entry).unwrap();
            tables.endpoints.put(&3, &info).unwrap();
            tables.generation.put(&0, &generation).unwrap();
        }

        /// Plays the agent's part: audit mode.
        pub(crate) fn set_audit(&self, audit: bool) {
            let config = DatapathConfig {
                flags: match audit {
                    true => flags::AUDIT,
                    false => 0,
                },
                ..DatapathConfig::default()
            };
            self.policy.config.put(&0, &config).unwrap();
        }
    }
}
