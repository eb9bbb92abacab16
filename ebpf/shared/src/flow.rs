//! Flows: one entry per connection, found from either direction in one lookup.

use crate::{addr::Addr, layout};

/// Key of the `FLOWS` table. The two ends are ordered by (address, port), so both
/// directions of a connection, and both legs of a proxied one, have the same key.
/// For ICMP echo both ports are the identifier; for other ICMP they are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// The smaller end's address.
    pub low_addr: Addr,
    /// The larger end's address.
    pub high_addr: Addr,
    /// The smaller end's port, big-endian.
    pub low_port: [u8; 2],
    /// The larger end's port, big-endian.
    pub high_port: [u8; 2],
    /// IANA protocol.
    pub protocol: u8,
    /// 0.
    pub pad: [u8; 3],
}
layout!(FlowKey, 40);

/// Value of the `FLOWS` table. "Source" is the initiator. Written by the kernel only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowEntry {
    /// First packet, `CLOCK_MONOTONIC` ns (coarse).
    pub created: u64,
    /// Latest packet, `CLOCK_MONOTONIC` ns (coarse).
    pub last_seen: u64,
    /// Packets and bytes from the source.
    pub tx_packets: u64,
    /// Bytes from the source, IP length.
    pub tx_bytes: u64,
    /// Packets to the source.
    pub rx_packets: u64,
    /// Bytes to the source, IP length.
    pub rx_bytes: u64,
    /// Generation whose policy the verdict comes from.
    pub generation: u32,
    /// Identity of the source.
    pub src_identity: u32,
    /// Identity of the destination.
    pub dst_identity: u32,
    /// Endpoint id of the source on this node, or 0.
    pub src_endpoint: u32,
    /// Endpoint id of the destination on this node, or 0.
    pub dst_endpoint: u32,
    /// Rule of the source's egress policy that allowed it, or 0.
    pub egress_rule: u32,
    /// Rule of the destination's ingress policy that allowed it, or 0.
    pub ingress_rule: u32,
    /// L7 rule set of the source's egress policy, or 0.
    pub egress_l7: u32,
    /// L7 rule set of the destination's ingress policy, or 0.
    pub ingress_l7: u32,
    /// Bits of [`flags`].
    pub flags: u16,
    /// TCP flags seen from the source, ORed.
    pub tx_tcp_flags: u8,
    /// TCP flags seen to the source, ORed.
    pub rx_tcp_flags: u8,
    /// Latest TCP acknowledgment number sent to the source, if [`flags::ACKED_SRC`]: a
    /// RST from it is believed only near this (RFC 5961 §3). Of a steered flow's client
    /// leg.
    pub ack_to_src: u32,
    /// The same sent to the destination, if [`flags::ACKED_DST`]; of the upstream leg.
    pub ack_to_dst: u32,
    /// First-byte hint, one of [`hint`].
    pub hint: u8,
    /// One of [`crate::policy::verdict`]: the verdict if what is in shadow were enforced.
    pub shadow_verdict: u8,
    /// 0.
    pub pad: [u8; 2],
    /// Rule that would decide if what is in shadow were enforced, or 0.
    pub shadow_rule: u32,
}
layout!(FlowEntry, 104);

/// Bits of [`FlowEntry::flags`].
pub mod flags {
    /// Every packet of the flow is steered to the proxy, for the flow's whole life.
    pub const REDIRECT: u16 = 1;
    /// The source is the low end of the key.
    pub const SRC_IS_LOW: u16 = 2;
    /// A packet to the source was seen.
    pub const REPLIED: u16 = 4;
    /// A FIN from the source was seen.
    pub const TX_FIN: u16 = 8;
    /// A FIN to the source was seen.
    pub const RX_FIN: u16 = 16;
    /// A RST was seen that its receiver may have believed.
    pub const RST: u16 = 32;
    /// Only the ingress policy of the destination was applied: the node's NAT led the
    /// packet here, and the policy of its source was applied to where it was sent. What
    /// the source sends to these very ends is another flow.
    pub const NATED: u16 = 64;
    /// [`super::FlowEntry::ack_to_src`] is set.
    pub const ACKED_SRC: u16 = 128;
    /// [`super::FlowEntry::ack_to_dst`] is set.
    pub const ACKED_DST: u16 = 256;
}

/// What the first bytes of a stream look like. A hint, never a policy decision.
pub mod hint {
    /// Nothing seen, or no opt-in.
    pub const NONE: u8 = 0;
    /// An HTTP/1 method.
    pub const HTTP1: u8 = 1;
    /// The HTTP/2 connection preface.
    pub const HTTP2: u8 = 2;
    /// A TLS record with a ClientHello.
    pub const TLS: u8 = 3;
    /// A Kafka request header.
    pub const KAFKA: u8 = 4;
    /// Seen, and none of the above.
    pub const OTHER: u8 = 255;
}
