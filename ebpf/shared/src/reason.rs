//! Why a packet was dropped. Numbers and phrases are Hubble's `DropReason`, so
//! dashboards and clients that know them need no translation.

/// ARP or neighbour discovery that says another hardware address than its frame.
pub const INVALID_SOURCE_MAC: u8 = 130;
/// Brought to a device whose endpoint does not have its destination address: by a forged
/// hardware address, a bridge that does not know whose it is, or a route that leads astray.
pub const INVALID_DESTINATION_MAC: u8 = 131;
/// Source address does not belong to the endpoint that sent the packet.
pub const INVALID_SOURCE_IP: u8 = 132;
/// No rule allows it (default deny).
pub const POLICY_DENIED: u8 = 133;
/// Header could not be parsed.
pub const INVALID_PACKET: u8 = 134;
/// Layer 4 protocol is not supported.
pub const UNKNOWN_L4: u8 = 142;
/// A raw socket of a host service sent a fragment of its own making.
pub const FRAGMENT: u8 = 157;
/// Service has no usable backend.
pub const NO_BACKEND: u8 = 158;
/// A later fragment whose first was not seen, or too long ago: nobody knows its ports.
pub const NO_FIRST_FRAGMENT: u8 = 174;
/// What only routers of a link say to their neighbours (RFC 4861, RFC 3810), by a workload.
pub const FORBIDDEN_ICMPV6: u8 = 176;
/// The rule needs the proxy and no proxy listener is there (fail closed).
pub const PROXY_UNAVAILABLE: u8 = 180;
/// A deny rule matched.
pub const POLICY_DENY: u8 = 181;
/// The endpoint's policy is not in place yet.
pub const ENDPOINT_NOT_READY: u8 = 203;
/// Established before its rule needed L7: it must be opened again (ours, not Hubble's).
pub const NEEDS_REOPEN: u8 = 240;
/// On the deny list of the outside device (ours, not Hubble's).
pub const DENY_LIST: u8 = 241;
/// A needs-L7 flow from the host stack that no hook can steer (ours, not Hubble's).
pub const UNSTEERABLE: u8 = 242;
/// It needs the proxy, and routing sent it another way (ours, not Hubble's).
pub const NOT_STEERED: u8 = 243;
/// IGMP that is no report of a workload's own groups (ours, not Hubble's).
pub const FORBIDDEN_IGMP: u8 = 244;

/// The phrase Hubble clients show for a reason; ours for the numbers from 240.
pub const fn phrase(reason: u8) -> &'static str {
    match reason {
        INVALID_SOURCE_MAC => "Invalid source mac",
        INVALID_DESTINATION_MAC => "Invalid destination mac",
        INVALID_SOURCE_IP => "Invalid source ip",
        POLICY_DENIED => "Policy denied",
        INVALID_PACKET => "Invalid packet",
        UNKNOWN_L4 => "Unknown L4 protocol",
        FRAGMENT => "IP fragmentation not supported",
        NO_FIRST_FRAGMENT => "First logical datagram fragment not found",
        FORBIDDEN_ICMPV6 => "Forbidden ICMPv6 message",
        NO_BACKEND => "Service backend not found",
        PROXY_UNAVAILABLE => "Proxy redirection not supported or unavailable",
        POLICY_DENY => "Policy denied by denylist",
        ENDPOINT_NOT_READY => "Endpoint not ready",
        NEEDS_REOPEN => "Rule now needs L7: open the connection again",
        DENY_LIST => "Source on deny list",
        UNSTEERABLE => "L7 rule cannot be applied to host stack traffic",
        NOT_STEERED => "Needs L7 and was routed past the proxy",
        FORBIDDEN_IGMP => "Forbidden IGMP message",
        _ => "Unknown reason",
    }
}
