//! Addresses to identities, and the reserved identity numbers.

use crate::{layout, limits::FQDN_IDS_PER_ADDRESS};

/// Value of the `IPCACHE` table, keyed by [`crate::addr::AddrPrefix`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AddrInfo {
    /// Security identity.
    pub identity: u32,
    /// Endpoint id on this node; 0 if the address is not a local endpoint's.
    pub endpoint: u32,
}
layout!(AddrInfo, 8);

/// Value of the `FQDN` table, keyed by [`crate::addr::Addr`]: the FQDN selectors
/// whose names resolved to the address. Written by the proxy, expired by the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FqdnInfo {
    /// Identities of the selectors; unused places are 0.
    pub identities: [u32; FQDN_IDS_PER_ADDRESS],
    /// Expiry of each, seconds of `CLOCK_BOOTTIME`. New flows need it in the future, or
    /// [`crate::limits::FQDN_GRACE`] past at most; the agent removes what is expired and
    /// no longer carries a flow.
    pub expires: [u32; FQDN_IDS_PER_ADDRESS],
}
layout!(FqdnInfo, 128);

/// Reserved identities, Cilium's numbering.
pub mod reserved {
    /// Wildcard row of the policy table; never an identity of a packet.
    pub const ANY: u32 = 0;
    /// The node itself.
    pub const HOST: u32 = 1;
    /// Outside the cluster, family unknown.
    pub const WORLD: u32 = 2;
    /// Known to the node, but not managed.
    pub const UNMANAGED: u32 = 3;
    /// Health endpoint.
    pub const HEALTH: u32 = 4;
    /// Labels not known yet.
    pub const INIT: u32 = 5;
    /// Another node.
    pub const REMOTE_NODE: u32 = 6;
    /// The API server.
    pub const KUBE_APISERVER: u32 = 7;
    /// L7 ingress.
    pub const INGRESS: u32 = 8;
    /// Outside, IPv4.
    pub const WORLD_IPV4: u32 = 9;
    /// Outside, IPv6.
    pub const WORLD_IPV6: u32 = 10;
    /// First identity given to label sets.
    pub const FIRST_ALLOCATED: u32 = 256;
    /// Last identity given to label sets.
    pub const LAST_ALLOCATED: u32 = 65_535;
    /// Scope bit of node-local identities (CIDR and FQDN selectors).
    pub const LOCAL_SCOPE: u32 = 1 << 24;
}
