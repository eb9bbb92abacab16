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

/// Key of `STEER_BY_TUPLE`: the client's address as the listener will see it; or a
/// question of the proxy ([`PeerKey::probe`]).
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

impl PeerKey {
    /// The key of a probe, by its socket's cookie: the proxy puts an empty value there
    /// and sends a packet marked [`crate::mark::PROBE`]; the kernel answers with the
    /// source address which that packet was about to leave the node with. No transport
    /// has protocol number 0, so nobody else's key is like it.
    pub const fn probe(cookie: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = cookie.to_be_bytes();
        Self {
            addr: Addr([0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f, g, h]),
            port: [0; 2],
            protocol: 0,
            pad: 0,
        }
    }
}

/// Proxy classes: which listener a flow is steered to. Index of the `LISTENERS` table is
/// `class * MAX_CPUS +` the CPU of the first segment for TCP, a hash of the flow's ends
/// for UDP: datagrams of one flow meet one worker, whatever CPUs they come in on.
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
