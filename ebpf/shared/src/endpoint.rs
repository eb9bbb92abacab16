//! Endpoints: what policy applies to.

use crate::layout;

/// Value of the `ENDPOINTS` table, keyed by endpoint id (`u32`, never 0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EndpointInfo {
    /// Security identity of its labels.
    pub identity: u32,
    /// Host-side interface index of its veth; 0 for a host service.
    pub ifindex: u32,
    /// Policy id to use, indexed by the lowest bit of the active generation.
    /// 0 means "not in place yet": everything is dropped.
    pub policy_id: [u32; 2],
    /// Bits of [`flags`].
    pub flags: u32,
}
layout!(EndpointInfo, 20);

/// Bits of [`EndpointInfo::flags`].
pub mod flags {
    /// The workload opted in to first-byte hints and the fast lane.
    pub const FAST_LANE: u32 = 1;
    /// A host service (cgroup), not a workload behind a veth.
    pub const HOST_SERVICE: u32 = 2;
}
