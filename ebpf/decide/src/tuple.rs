//! What names a packet's flow, and which flow and policy keys follow from it.

use tidegate_ebpf_shared::{
    addr::{Addr, proto},
    flow::{FlowEntry, FlowKey, flags},
};

/// TCP header flags (RFC 9293 §3.1), the ones that matter here.
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Acknowledgment field is significant.
    pub const ACK: u8 = 0x10;
}

/// ICMP message types (RFC 792, RFC 4443, RFC 4861) the datapath tells apart.
pub mod icmp {
    /// IPv4 echo request.
    pub const V4_ECHO: u8 = 8;
    /// IPv4 echo reply.
    pub const V4_ECHO_REPLY: u8 = 0;
    /// IPv6 echo request.
    pub const V6_ECHO: u8 = 128;
    /// IPv6 echo reply.
    pub const V6_ECHO_REPLY: u8 = 129;
    /// Multicast listener query of a router (RFC 2710, RFC 3810).
    pub const V6_LISTENER_QUERY: u8 = 130;
    /// Multicast listener report (RFC 2710).
    pub const V6_LISTENER_REPORT: u8 = 131;
    /// Multicast listener done.
    pub const V6_LISTENER_DONE: u8 = 132;
    /// Multicast listener report of the second version (RFC 3810).
    pub const V6_LISTENER_REPORT_2: u8 = 143;
    /// Router solicitation.
    pub const V6_ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement.
    pub const V6_ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbour solicitation.
    pub const V6_NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const V6_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Redirect: a router says of a better one.
    pub const V6_REDIRECT: u8 = 137;

    /// Does a message of this type carry the packet that caused it?
    #[inline(always)]
    pub const fn is_error(protocol: u8, kind: u8) -> bool {
        if protocol == super::proto::ICMP {
            // Destination unreachable, time exceeded, parameter problem. Redirects
            // change routes and source quench is obsolete: not related, but policy.
            kind == 3 || kind == 11 || kind == 12
        } else {
            // RFC 4443 §2.1: unreachable, too big, time exceeded, parameter problem.
            kind >= 1 && kind <= 4
        }
    }

    /// An echo request or reply of either family.
    #[inline(always)]
    pub const fn is_echo(protocol: u8, kind: u8) -> bool {
        if protocol == super::proto::ICMP {
            kind == V4_ECHO || kind == V4_ECHO_REPLY
        } else {
            kind == V6_ECHO || kind == V6_ECHO_REPLY
        }
    }
}

/// A packet's ends and protocol, as events report them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Tuple {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, big-endian; for ICMP `[type, code]`.
    pub src_port: [u8; 2],
    /// Destination port, big-endian; for ICMP echo the identifier, else 0.
    pub dst_port: [u8; 2],
    /// IANA protocol.
    pub protocol: u8,
}

impl Tuple {
    /// Is this ICMP of either family?
    #[inline(always)]
    pub const fn is_icmp(&self) -> bool {
        self.protocol == proto::ICMP || self.protocol == proto::ICMPV6
    }

    /// The ICMP type; meaningless for other protocols.
    #[inline(always)]
    pub const fn icmp_type(&self) -> u8 {
        self.src_port[0]
    }

    /// Writes the key of the flow this packet belongs to; true if its source is the
    /// low end. The padding stays as it is: nobody ever writes anything but 0 there,
    /// and clearing it would cost the kernel a call.
    #[inline(always)]
    pub fn flow_key(&self, key: &mut FlowKey) -> bool {
        let (src_port, dst_port) = if self.is_icmp() {
            (self.dst_port, self.dst_port)
        } else {
            (self.src_port, self.dst_port)
        };
        let low = end_order(&self.src, src_port) <= end_order(&self.dst, dst_port);
        if low {
            key.low_addr = self.src;
            key.low_port = src_port;
            key.high_addr = self.dst;
            key.high_port = dst_port;
        } else {
            key.low_addr = self.dst;
            key.low_port = dst_port;
            key.high_addr = self.src;
            key.high_port = src_port;
        }
        key.protocol = self.protocol;
        low
    }

    /// Writes the tuple of an answer to this packet into `answer`; ICMP has none that
    /// the two could be told apart by.
    #[inline(always)]
    pub fn set_reverse(&self, answer: &mut Self) {
        answer.src = self.dst;
        answer.dst = self.src;
        answer.src_port = self.dst_port;
        answer.dst_port = self.src_port;
        answer.protocol = self.protocol;
    }

    /// May this packet as well be an answer, as far as it says itself?
    #[inline(always)]
    pub const fn may_answer(&self, tcp_flags: u8) -> bool {
        !self.is_icmp() && !self.is_opener(tcp_flags)
    }

    /// The tuple of the packet that opened a flow, from its table entry.
    #[inline(always)]
    pub fn of_flow(key: &FlowKey, entry: &FlowEntry) -> Self {
        let mut tuple = Self::default();
        tuple.set_of_flow(key, entry);
        tuple
    }

    /// [`Self::of_flow`] in place.
    #[inline(always)]
    pub fn set_of_flow(&mut self, key: &FlowKey, entry: &FlowEntry) {
        let tuple = self;
        let low = entry.flags & flags::SRC_IS_LOW != 0;
        tuple.protocol = key.protocol;
        if low {
            tuple.src = key.low_addr;
            tuple.src_port = key.low_port;
            tuple.dst = key.high_addr;
            tuple.dst_port = key.high_port;
        } else {
            tuple.src = key.high_addr;
            tuple.src_port = key.high_port;
            tuple.dst = key.low_addr;
            tuple.dst_port = key.low_port;
        }
        // Only echo requests open ICMP flows.
        if key.protocol == proto::ICMP {
            tuple.src_port = [icmp::V4_ECHO, 0];
        } else if key.protocol == proto::ICMPV6 {
            tuple.src_port = [icmp::V6_ECHO, 0];
        }
    }

    /// What the policy table compares: the destination port, or the ICMP type.
    #[inline(always)]
    pub const fn policy_port(&self) -> [u8; 2] {
        if self.is_icmp() {
            [self.src_port[0], 0]
        } else {
            self.dst_port
        }
    }

    /// Does the flow table remember packets like this? ICMP other than echo has
    /// nothing that tells one exchange from the next: it is decided per packet.
    #[inline(always)]
    pub const fn is_tracked(&self) -> bool {
        !self.is_icmp() || icmp::is_echo(self.protocol, self.icmp_type())
    }

    /// May this packet be the first of a flow in the table? An echo reply may not:
    /// nobody replies to it, so there is nothing to remember.
    #[inline(always)]
    pub const fn may_open(&self) -> bool {
        match self.protocol {
            proto::ICMP => self.icmp_type() == icmp::V4_ECHO,
            proto::ICMPV6 => self.icmp_type() == icmp::V6_ECHO,
            _ => true,
        }
    }

    /// Does this packet say by itself that its sender starts something new?
    #[inline(always)]
    pub const fn is_opener(&self, tcp_flags: u8) -> bool {
        match self.protocol {
            proto::TCP => tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN,
            proto::ICMP | proto::ICMPV6 => self.may_open(),
            _ => false,
        }
    }
}

/// An end as numbers that compare like its bytes (a byte-wise comparison costs the
/// kernel a loop).
#[inline(always)]
fn end_order(addr: &Addr, port: [u8; 2]) -> (u64, u64, u16) {
    let [a, b, c, d] = *addr.words();
    (wide(a, b), wide(c, d), u16::from_be_bytes(port))
}

#[inline(always)]
fn wide(high: u32, low: u32) -> u64 {
    u64::from(u32::from_be(high)) << 32 | u64::from(u32::from_be(low))
}
