//! Fragments of a datagram: only the first has ports, so what it said is kept for those
//! that follow.

use crate::{addr::Addr, layout};

/// Key of the `FRAGMENTS` table: one datagram on its way past one hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Identification field; for IPv4 it has 16 bits.
    pub id: u32,
    /// See [`place`].
    pub place: u32,
    /// IANA protocol; 0 for IPv6, where only the first fragment says it (RFC 8200 §4.5).
    pub protocol: u8,
    /// 0.
    pub pad: [u8; 3],
}
layout!(FragmentKey, 44);

/// Value of the `FRAGMENTS` table: what the first fragment said. Written by the kernel
/// only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentEntry {
    /// When it came, `CLOCK_MONOTONIC` ns (coarse).
    pub seen: u64,
    /// Bytes of the datagram it carried: nothing that follows may begin before.
    pub end: u32,
    /// Source port, or ICMP type and code, big-endian.
    pub src_port: [u8; 2],
    /// Destination port, or ICMP echo identifier, big-endian.
    pub dst_port: [u8; 2],
    /// IANA protocol.
    pub protocol: u8,
    /// 0.
    pub pad: [u8; 7],
}
layout!(FragmentEntry, 24);

/// Where fragments pass: nobody can say what another's are.
pub mod place {
    /// Entered by an outside device, whichever: links may be bundled.
    pub const OUTSIDE: u32 = 0;
    /// Added to a device's index: on the way out of it. Without, on the way in.
    pub const LEAVES: u32 = 1 << 31;
}
