//! Which backend a new connection gets.

use tidegate_ebpf_shared::limits::MAGLEV_TABLE;

/// A slot in `0..count` from 32 random bits; 0 for an empty service.
#[inline(always)]
pub const fn random_slot(random: u32, count: u32) -> u32 {
    // Multiply and shift (Lemire, "Fast random integer generation in an interval"):
    // no division, bias below count / 2^32.
    ((random as u64 * count as u64) >> 32) as u32
}

/// Index into the `MAGLEV` array for a socket: one entry of the service's table.
#[inline(always)]
pub const fn maglev_index(table: u32, cookie: u64) -> u32 {
    let start = table.wrapping_mul(MAGLEV_TABLE);
    start.wrapping_add((mix(cookie) % MAGLEV_TABLE as u64) as u32)
}

/// Spreads consecutive numbers over all bits (SplitMix64's finaliser): socket
/// cookies count up by one.
#[inline(always)]
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
