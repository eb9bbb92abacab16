//! What the proxy must know of a host service's connection that was steered at
//! `connect`: handed over in the accepted socket's storage.

use crate::{addr::Addr, layout};

/// Value of `STEER_BY_COOKIE`, `STEER_BY_TUPLE` and of the socket storage `STEERED`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SteerOrigin {
    /// Original destination address (after service translation).
    pub dst: Addr,
    /// Original destination port, big-endian.
    pub dst_port: [u8; 2],
    /// IANA protocol.
    pub protocol: u8,
    /// 0.
    pub pad: u8,
    /// Endpoint id of the host service.
    pub endpoint: u32,
    /// Identity of the host service.
    pub src_identity: u32,
    /// Identity of the destination.
    pub dst_identity: u32,
    /// Rule that asked for L7.
    pub rule: u32,
    /// L7 rule set.
    pub l7: u32,
    /// Generation that decided.
    pub generation: u32,
}
layout!(SteerOrigin, 44);

/// Key of `STEER_BY_TUPLE`: the client's address as the listener will see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PeerKey {
    /// Client address.
    pub addr: Addr,
    /// Client port, big-endian.
    pub port: [u8; 2],
    /// IANA protocol.
    pub protocol: u8,
    /// 0.
    pub pad: u8,
}
layout!(PeerKey, 20);

/// Proxy classes: which listener a flow is steered to. Index of the `LISTENERS`
/// table is `class * MAX_CPUS + cpu`.
pub mod class {
    /// TCP over IPv4.
    pub const TCP4: u32 = 0;
    /// TCP over IPv6.
    pub const TCP6: u32 = 1;
    /// UDP over IPv4.
    pub const UDP4: u32 = 2;
    /// UDP over IPv6.
    pub const UDP6: u32 = 3;
    /// Number of classes.
    pub const COUNT: u32 = 4;
}
