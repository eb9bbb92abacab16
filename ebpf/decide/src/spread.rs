//! Hashes: spreading numbers and addresses evenly. Not secret, and nobody gains by
//! steering them: what they choose between is equal.

use tidegate_ebpf_shared::addr::Addr;

/// Spreads consecutive numbers over all bits (SplitMix64's finaliser): socket
/// cookies count up by one.
#[inline(always)]
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// An address and a port in one number.
#[inline(always)]
pub(crate) fn fold(addr: &Addr, port: [u8; 2]) -> u64 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr.0;
    let high = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    let low = u64::from_ne_bytes([i, j, k, l, m, n, o, p]);
    mix(high) ^ low ^ ((u16::from_ne_bytes(port) as u64) << 13)
}
