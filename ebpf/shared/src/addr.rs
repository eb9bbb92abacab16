//! One address type for both families, so that there is one code path.

use crate::layout;

/// An IPv6 address in network byte order; IPv4 is carried as `::ffff:a.b.c.d`
/// (RFC 4291 §2.5.5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, align(4))]
pub struct Addr(pub [u8; 16]);
layout!(Addr, 16);

impl Addr {
    /// The IPv4 address with these four octets.
    #[inline(always)]
    pub const fn v4(o: [u8; 4]) -> Self {
        Self([
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, o[0], o[1], o[2], o[3],
        ])
    }

    /// The four octets if this is an IPv4 address.
    #[inline(always)]
    pub const fn as_v4(&self) -> Option<[u8; 4]> {
        match self.0 {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
            _ => None,
        }
    }

    /// The address as four words in network byte order. In the kernel a copy or a
    /// comparison by words is a quarter of one by bytes.
    #[inline(always)]
    pub const fn words(&self) -> &[u32; 4] {
        // SAFETY: same size, every bit pattern valid, and `Addr` is aligned for words.
        unsafe { &*(&raw const *self).cast() }
    }

    /// See [`Self::words`].
    #[inline(always)]
    pub const fn words_mut(&mut self) -> &mut [u32; 4] {
        // SAFETY: as above; the exclusive borrow is handed on.
        unsafe { &mut *(&raw mut *self).cast() }
    }

    /// Bits that precede an IPv4 address in the mapped form; an IPv4 prefix length
    /// is this much longer in every table keyed by [`Addr`].
    pub const V4_PREFIX_BITS: u32 = 96;
}

/// Key of every longest-prefix-match table over addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct AddrPrefix {
    /// Significant leading bits of `addr`, 0–128.
    pub prefix_len: u32,
    /// Address; bits behind `prefix_len` are zero.
    pub addr: Addr,
}
layout!(AddrPrefix, 20);

/// IANA protocol numbers the datapath understands.
pub mod proto {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IGMP: which groups hosts listen to, for IPv4.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}
