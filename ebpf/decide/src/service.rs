//! Which backend a new connection gets.

use tidegate_ebpf_shared::{addr::Addr, limits::MAGLEV_TABLE, service::SlotKey};

use crate::spread::{fold, mix};

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

/// The slot that says that a service has this backend. Two backends of one slot are
/// possible: whoever follows it compares.
#[inline(always)]
pub fn member_slot(addr: &Addr, port: [u8; 2]) -> u32 {
    SlotKey::MEMBER | mix(fold(addr, port)) as u32
}
