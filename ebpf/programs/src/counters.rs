//! Counters: per CPU, so plain additions; and the one atomic addition, for entries
//! that CPUs share.

use crate::maps::COUNTERS;

/// Adds one occurrence of `bytes` bytes to a cell of `COUNTERS`.
#[inline(always)]
pub fn count(index: u32, bytes: u32) {
    if let Some(cell) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: a per-CPU value of this CPU, and programs of the kinds that count
        // are not preempted by each other on it.
        let cell = unsafe { &mut *cell };
        cell.packets += 1;
        cell.bytes += u64::from(bytes);
    }
}

/// Adds one occurrence to a cell of `COUNTERS` where the program may be interrupted by
/// another that counts.
#[inline(always)]
pub fn count_shared(index: u32) {
    if let Some(cell) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: a value of the map, only ever added to atomically here.
        add_shared(unsafe { &mut (*cell).packets }, 1);
    }
}

/// Adds to a counter that other CPUs may add to at the same time.
#[inline(always)]
pub fn add_shared(cell: &mut u64, value: u64) {
    // SAFETY: a valid, aligned pointer into a map value.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::Relaxed }>(
            cell, value,
        );
    }
}
