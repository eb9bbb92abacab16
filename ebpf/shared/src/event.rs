//! Events from the kernel to the agent, and the counters that tell what was lost.

use crate::{addr::Addr, layout};

/// One record of the `EVENTS` and `DENIES` ring buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// `CLOCK_MONOTONIC` ns.
    pub time: u64,
    /// Packets of the flow from its source (closed flows only).
    pub tx_packets: u64,
    /// Bytes of the flow from its source (closed flows only).
    pub tx_bytes: u64,
    /// Packets of the flow to its source (closed flows only).
    pub rx_packets: u64,
    /// Bytes of the flow to its source (closed flows only).
    pub rx_bytes: u64,
    /// Source address: the initiator's for flows, the packet's for drops.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, big-endian; for ICMP `[type, code]`.
    pub src_port: [u8; 2],
    /// Destination port, big-endian; for ICMP the identifier.
    pub dst_port: [u8; 2],
    /// IANA protocol.
    pub protocol: u8,
    /// One of [`kind`].
    pub kind: u8,
    /// One of [`crate::policy::verdict`].
    pub verdict: u8,
    /// One of [`crate::reason`] for drops, else 0.
    pub reason: u8,
    /// Identity of the source.
    pub src_identity: u32,
    /// Identity of the destination.
    pub dst_identity: u32,
    /// Endpoint id of the source, or 0.
    pub src_endpoint: u32,
    /// Endpoint id of the destination, or 0.
    pub dst_endpoint: u32,
    /// Rule of the source's egress policy, or 0.
    pub egress_rule: u32,
    /// Rule of the destination's ingress policy, or 0.
    pub ingress_rule: u32,
    /// Rule that would decide if what is in shadow were enforced, or 0.
    pub shadow_rule: u32,
    /// Generation that decided.
    pub generation: u32,
    /// Interface index where it was seen, or 0 for socket hooks.
    pub ifindex: u32,
    /// [`crate::policy::direction`] of the policy that decided a drop.
    pub direction: u8,
    /// TCP flags of the packet, or those seen (closed flows).
    pub tcp_flags: u8,
    /// One of [`crate::policy::verdict`]: the verdict if what is in shadow were enforced.
    pub shadow_verdict: u8,
    /// One of [`crate::flow::hint`].
    pub hint: u8,
    /// Service frontend address ([`kind::TRANSLATED`] only).
    pub frontend: Addr,
    /// Service frontend port, big-endian ([`kind::TRANSLATED`] only).
    pub frontend_port: [u8; 2],
    /// 0.
    pub pad: [u8; 6],
}
layout!(Event, 144);

/// Kinds of [`Event`].
pub mod kind {
    /// A flow was admitted (verdict allow or redirect).
    pub const FLOW_NEW: u8 = 1;
    /// A flow ended (both FINs or a RST).
    pub const FLOW_CLOSED: u8 = 2;
    /// A packet was dropped by policy or because it was broken.
    pub const DROP: u8 = 3;
    /// A packet was dropped by the deny list on the outside device.
    pub const DENY_LIST: u8 = 4;
    /// A socket's service address was translated to a backend.
    pub const TRANSLATED: u8 = 5;
    /// A socket operation was refused (policy, or no backend).
    pub const SOCKET_DENIED: u8 = 6;
    /// A host service opened a socket to somewhere its egress policy allows.
    pub const SOCKET_OPENED: u8 = 7;
    /// Something passed that what is in shadow would refuse, and of which nothing else
    /// tells: a live flow decided anew, or a packet that is of none.
    pub const REHEARSED: u8 = 8;
}

/// Per-CPU counter cell of the `COUNTERS` array, indexed by [`counter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    /// Packets, or occurrences.
    pub packets: u64,
    /// Bytes, where that means something.
    pub bytes: u64,
}
layout!(Counter, 16);

/// Indices of the `COUNTERS` array. 0–255 are drops by [`crate::reason`].
pub mod counter {
    /// Packets passed by policy.
    pub const FORWARDED: u32 = 256;
    /// Packets steered to the proxy.
    pub const REDIRECTED: u32 = 257;
    /// Flows admitted.
    pub const FLOWS_CREATED: u32 = 258;
    /// Flow table refused an insert.
    pub const FLOW_INSERT_FAILED: u32 = 259;
    /// Events lost because the event ring was full.
    pub const EVENTS_LOST: u32 = 260;
    /// Events lost because the deny ring was full.
    pub const DENIES_LOST: u32 = 261;
    /// Deny events not sent because of the rate limit.
    pub const DENIES_SUPPRESSED: u32 = 262;
    /// Sockets translated to a backend.
    pub const TRANSLATED: u32 = 263;
    /// Host sockets steered to the proxy.
    pub const SOCKETS_STEERED: u32 = 264;
    /// Socket operations refused.
    pub const SOCKETS_DENIED: u32 = 265;
    /// Listeners picked by sk_lookup.
    pub const LISTENER_PICKED: u32 = 266;
    /// Messages moved by the fast lane.
    pub const FAST_LANE: u32 = 267;
    /// Probes of the proxy answered: none of them left the node.
    pub const PROBES: u32 = 268;
    /// Flows steered to the proxy: each is to meet `pick_listener`.
    pub const FLOWS_STEERED: u32 = 269;
    /// Events of kind [`super::kind::REHEARSED`] not sent because of the rate limit.
    pub const REHEARSED_SUPPRESSED: u32 = 270;
    /// Number of cells.
    pub const COUNT: u32 = 288;
}
